//! Proxies from a directory of one's own: here a file with a line `id zone host:port` for each.
//!
//! `cargo run -p ztka-tunnel --example custom_directory` starts three proxies in this process, of which the directory names two
//! in one zone and one in another; the agent holds tunnels to two, in different zones, and follows when a line goes.
use std::{env, fs, path::Path, sync::Arc};

use http::{Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;
use ztka_core::{Body, BoxError, ProxyId, Reply, SystemClock, Verified, empty};
use ztka_tunnel::{ConnectError, Dialer, KnownProxy, ProxyAddress, Registry, TunnelPeer, connect_fn};

/// What the file says.
fn read(directory: &Path) -> Result<Vec<KnownProxy>, BoxError> {
    let proxy = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [id, zone, address] => {
            Ok(KnownProxy { id: id.parse()?, zone: Some(zone.into()), address: Some(address.parse()?) })
        }
        _ => Err(BoxError::from(format!("{line:?} is not: id zone host:port"))),
    };
    fs::read_to_string(directory)?.lines().map(proxy).collect()
}

/// A proxy, which introduces itself by its id: in earnest its certificate does (see the example `acceptor`).
async fn proxy() -> Result<String, BoxError> {
    let (registry, listener) = (Registry::new(Arc::new(SystemClock)), TcpListener::bind("127.0.0.1:0").await?);
    let (address, peer) = (listener.local_addr()?, TunnelPeer::of("inner")?);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (registry, peer) = (registry.clone(), peer.clone());
            tokio::spawn(async move { registry.serve(socket, peer).await });
        }
    });
    Ok(address.to_string())
}

/// Follows a directory that changes.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    let directory = env::temp_dir().join(format!("ztka-directory-{}", std::process::id()));
    let lines = [("p1", "east"), ("p2", "east"), ("p3", "west")];
    let mut proxies = Vec::new();
    for (id, zone) in lines {
        proxies.push(format!("{id} {zone} {}", proxy().await?));
    }
    fs::write(&directory, proxies.join("\n"))?;

    let ids = read(&directory)?;
    let connect = connect_fn(move |to: ProxyAddress| {
        let id = ids.iter().find(|proxy| proxy.address.as_ref() == Some(&to)).map(|proxy| proxy.id.clone());
        async move {
            let other = |error: &'static str| ConnectError::Other(error.into());
            let io = TcpStream::connect((to.host(), to.port())).await.map_err(|_| other("not there"))?;
            Ok((io, Verified::assertion(id.ok_or_else(|| other("nobody is at this address"))?)))
        }
    });
    let serve = service_fn(|_: Request<Body>| async { Ok::<_, BoxError>(Reply::Response(Response::new(empty()))) });
    let dialer = Dialer::start(connect, [], serve); // no shared address: the directory is all it knows
    dialer.learn(read(&directory)?);
    let mut states = dialer.states();
    let mut held = async |wanted: &str| -> Result<(), BoxError> {
        let wanted: ProxyId = wanted.parse()?;
        let two = |to: &[ProxyId]| to.len() == 2 && to.contains(&wanted);
        let ready = states.wait_for(|all| two(&all.iter().filter_map(|one| one.proxy.clone()).collect::<Vec<_>>()));
        println!("{:?}", ready.await?.iter().filter_map(|state| state.proxy.as_ref()).collect::<Vec<_>>());
        Ok(())
    };
    held("p3").await?;

    // The directory changes: in earnest somebody watches it. What is there stays; nobody new goes to who is not named.
    fs::write(&directory, proxies.get(1..).unwrap_or_default().join("\n"))?;
    dialer.learn(read(&directory)?);
    held("p3").await?;
    fs::remove_file(&directory)?;
    Ok(())
}
