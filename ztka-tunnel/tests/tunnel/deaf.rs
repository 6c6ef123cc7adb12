//! Packets that are dropped in one direction alone, and silence that is nobody's fault.

use std::{
    future::pending,
    sync::{Arc, Mutex},
    time::Duration,
};

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split},
    task::JoinHandle,
    time::{Instant, advance, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::service_fn;
use ztka_core::{Reply, Verified};
use ztka_tunnel::{DialSettings, Dialer, ProxyAddress, TunnelError, connect_fn};

use crate::pair::{Agent, LONG, Net, collected, get, ready, status, text, until};

const SOON: Duration = Duration::from_secs(15);

/// What becomes of bytes on their way.
#[derive(Clone, Debug, Default)]
struct Cable {
    /// Bytes to the proxy are dropped.
    to_proxy: CancellationToken,
    /// Bytes to the agent are dropped.
    to_agent: CancellationToken,
    /// The end of one side does not become known to the other.
    mute: CancellationToken,
}

async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    drop: CancellationToken,
    mute: CancellationToken,
) {
    let mut piece = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if !drop.is_cancelled() && to.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
    if mute.is_cancelled() {
        pending::<()>().await;
    }
    let _ = to.shutdown().await;
}

type Served = Arc<Mutex<Vec<JoinHandle<Result<(), TunnelError>>>>>;

/// An agent whose first connection is on `cable`, and the tunnels as the proxy serves them.
async fn connected(net: &Net, cable: &Cable) -> (Dialer, Served) {
    let served = Served::default();
    let (to, cable, serving) = (net.clone(), Mutex::new(Some(cable.clone())), served.clone());
    let connect = connect_fn(move |_: ProxyAddress| {
        let (near, left) = duplex(256 << 10);
        let (right, far) = duplex(256 << 10);
        let cable = cable.lock().unwrap().take().unwrap_or_default();
        let ((from_agent, to_agent), (from_proxy, to_proxy)) = (split(left), split(right));
        tokio::spawn(carry(from_agent, to_proxy, cable.to_proxy, cable.mute.clone()));
        tokio::spawn(carry(from_proxy, to_agent, cable.to_agent, cable.mute));
        let (registry, peer) = (to.proxies[0].clone(), to.peer("acme", "c1", "i1"));
        serving.lock().unwrap().push(tokio::spawn(async move { registry.serve(far, peer).await }));
        async { Ok((near, Verified::assertion("p1".parse().unwrap()))) }
    });
    let service = service_fn(|request: http::Request<ztka_core::Body>| async move {
        let own = request.uri().path().starts_with("/.ztka/");
        let answer = || text(request.uri().path().to_owned());
        Ok::<_, std::convert::Infallible>(if own { Reply::Response(status(StatusCode::NO_CONTENT)) } else { answer() })
    });
    let dial = DialSettings { tunnels: 1, ..DialSettings::default() };
    let dialer = Dialer::start_with(connect, ["proxy:443".parse().unwrap()], service, net.settings, dial);
    let mut states = dialer.states();
    timeout(LONG, states.wait_for(|states| states.iter().any(|state| state.proxy.is_some()))).await.unwrap().unwrap();
    (dialer, served)
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_in_one_direction_is_noticed_by_both_ends_in_under_fifteen_seconds() {
    // The worst moment is right after a PING that was answered.
    for (to_proxy, offset) in [(true, 0), (true, 100), (true, 2_500), (false, 0), (false, 100), (false, 4_900)] {
        let (net, cable) = (Net::new(1), Cable::default());
        let (dialer, served) = connected(&net, &cable).await;
        let mut states = dialer.states();
        sleep(Duration::from_secs(3_600)).await;
        sleep(Duration::from_millis(offset)).await;
        assert_eq!(served.lock().unwrap().len(), 1, "quiet is neither dead nor deaf");
        let cut = Instant::now();
        if to_proxy {
            // Not even that the proxy gives up becomes known.
            cable.mute.cancel();
            cable.to_proxy.cancel()
        } else {
            cable.to_agent.cancel()
        }
        let old = served.lock().unwrap().remove(0);
        let by_proxy = async { (timeout(SOON, old).await.expect("the proxy notices").unwrap(), cut.elapsed()) };
        let by_agent = async {
            let lost = states.wait_for(|states| states.iter().all(|state| state.proxy.is_none()));
            let errors: Vec<_> = timeout(SOON, lost).await.expect("the agent notices").unwrap().to_vec();
            (errors.into_iter().find_map(|state| state.error).unwrap(), cut.elapsed())
        };
        let ((proxy, proxys), (agent, agents)) = tokio::join!(by_proxy, by_agent);
        println!("to the proxy: {to_proxy}: proxy after {proxys:?}: {proxy:?}; agent after {agents:?}: {agent}");
        match to_proxy {
            true => {
                assert!(
                    matches!(proxy, Err(TunnelError::Dead(_))) && agent.contains("has not answered a PING"),
                    "{agent}"
                )
            }
            // The proxy hears that the agent, which does not hear it, ends the connection.
            false => assert!(agent.contains("has sent nothing"), "{agent}"),
        }
        // And there is a new one.
        until("a tunnel again", || states.borrow().iter().any(|state| state.proxy.is_some())).await;
        assert_eq!(collected(net.ask(get("/version")).await).await.body(), "/version");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_does_not_take_its_peer_for_dead() {
    let net = Net::new(1);
    let dialer = net.connected(&Agent::new(|request| async move { text(request.uri().path().to_owned()) })).await;
    for _ in 0..5 {
        // Time goes on, and nobody has run meanwhile.
        advance(Duration::from_secs(60)).await;
        sleep(Duration::from_secs(7)).await;
        ready(&dialer).await;
        assert_eq!(collected(net.ask(get("/version")).await).await.body(), "/version");
    }
    assert_eq!(net.cables.lock().unwrap().len(), 1, "still the first tunnel");
}
