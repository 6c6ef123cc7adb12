//! An agent finds its proxy where the name leads at that moment, by IPv6 as well, and through a proxy at an IPv6 address.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use rcgen::ExtendedKeyUsagePurpose;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tower::service_fn;
use ztka_core::{BoxError, Reply};
use ztka_tunnel::{DialSettings, Dialer, Egress, NoProxy, ProxyAddress, Settings, Tls};

use crate::{
    pair::{Net, collected, get, send, status, text},
    tls::{authority, believe, client, identity, serve},
};

const BOUND: Duration = Duration::from_secs(30);

async fn loopback6() -> Option<TcpListener> {
    let listener = TcpListener::bind("[::1]:0").await.ok();
    let is_needed = std::env::var_os("CI").is_some_and(|ci| ci == "true");
    assert!(listener.is_some() || !is_needed, "this machine has no IPv6 on its loopback");
    listener
}

fn dial(connect: Tls, address: ProxyAddress) -> Dialer {
    let service = service_fn(|request: http::Request<ztka_core::Body>| async move {
        Ok::<_, BoxError>(match request.uri().path() {
            "/.ztka/evidence" => Reply::Response(status(http::StatusCode::NO_CONTENT)),
            _ => text("served"),
        })
    });
    let soon = Duration::from_millis(5);
    let dial = DialSettings { tunnels: 1, first_retry: soon, max_retry: soon, ..DialSettings::default() };
    Dialer::start_with(connect, [address], service, Settings::default(), dial)
}

async fn connected(dialer: &Dialer) {
    let mut states = dialer.states();
    let there = states.wait_for(|states| states.iter().any(|state| state.proxy.is_some()));
    timeout(BOUND, there).await.expect("connected").unwrap();
}

#[tokio::test]
async fn a_name_that_moves_is_followed_at_each_reconnect() {
    let Some(second) = loopback6().await else { return };
    let net = Net::new(1);
    let (ours, registry) = (authority(), net.proxies[0].clone());
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (old, new) = (first.local_addr().unwrap(), second.local_addr().unwrap());
    let at_old = serve(&ours, registry.clone(), &net, first);
    let _at_new = serve(&ours, registry.clone(), &net, second);

    let (leads_to, seen) = (Arc::new(Mutex::new(old)), Arc::<Mutex<Vec<SocketAddr>>>::default());
    let (now, asked) = (leads_to.clone(), seen.clone());
    let egress = Egress::direct().resolving(move |host, _| {
        assert_eq!(host, "tunnel.example.com");
        let address = *now.lock().unwrap();
        asked.lock().unwrap().push(address);
        async move { Ok(vec![address]) }
    });
    let agent = Some(identity(&ours, "agent", ExtendedKeyUsagePurpose::ClientAuth));
    let dialer = dial(Tls::new(client(&ours, agent), believe).by(egress), "tunnel.example.com:443".parse().unwrap());
    connected(&dialer).await;
    assert_eq!(*seen.lock().unwrap(), [old]);

    at_old.abort();
    *leads_to.lock().unwrap() = new;
    registry.close_where(|_| true);
    let again = async {
        while seen.lock().unwrap().last() != Some(&new) || registry.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(BOUND, again).await.expect("looked up and dialled again");
    assert_eq!(collected(send(&registry, get("/api/v1/namespaces/default/pods/web")).await).await.body(), "served");
}

/// An HTTP proxy that connects to `target` whatever it is asked for, and notes that.
async fn http_proxy(listener: TcpListener, target: SocketAddr, asked: Arc<Mutex<Vec<String>>>) {
    while let Ok((socket, _)) = listener.accept().await {
        let mut near = BufReader::new(socket);
        let mut line = String::new();
        near.read_line(&mut line).await.unwrap();
        asked.lock().unwrap().push(line.trim_end().to_owned());
        while line.trim_end() != "" {
            line.clear();
            near.read_line(&mut line).await.unwrap();
        }
        let mut far = TcpStream::connect(target).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::spawn(async move { copy_bidirectional(&mut near, &mut far).await });
    }
}

#[tokio::test]
async fn addresses_of_ipv6_are_dialled_and_asked_for_as_such() {
    let (Some(there), Some(between)) = (loopback6().await, loopback6().await) else { return };
    let net = Net::new(1);
    let (ours, registry) = (authority(), net.proxies[0].clone());
    let target = there.local_addr().unwrap();
    let _serving = serve(&ours, registry.clone(), &net, there);
    let named = |text: String| text.parse::<ProxyAddress>().unwrap().named("tunnel.example.com".try_into().unwrap());
    let agent = || Some(identity(&ours, "agent", ExtendedKeyUsagePurpose::ClientAuth));

    let dialer = dial(Tls::new(client(&ours, agent()), believe), named(target.to_string()));
    connected(&dialer).await;
    dialer.shutdown(Duration::from_secs(1)).await;

    let proxy = format!("http://{}", between.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    tokio::spawn(http_proxy(between, target, asked.clone()));
    let egress = Egress::through(proxy, NoProxy::new(""), None).unwrap();
    let dialer = dial(Tls::new(client(&ours, agent()), believe).by(egress), named("[2001:db8::1]:443".into()));
    connected(&dialer).await;
    assert_eq!(asked.lock().unwrap()[0], "CONNECT [2001:db8::1]:443 HTTP/1.1");
}
