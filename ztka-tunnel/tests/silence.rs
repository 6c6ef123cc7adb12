//! A network that swallows packets: whoever hears nothing notices in under 15 s, and the agent comes back when it heals.
//!
//! Proxy and agent are in two network namespaces with a cable between them, on which iptables drops what goes by: no end of
//! a connection, no reset, nothing. Needs root, `ip` and `iptables`; without them the test says that it is skipped, and
//! fails with `CI=true`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    convert::Infallible,
    env,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use http::{Request, Response, StatusCode};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tower::service_fn;
use ztka_core::{Body, Reply, SystemClock, Verified, empty};
use ztka_tunnel::{
    ConnectError, Dialer, ProxyAddress, Registry, Settings, TunnelPeer, connect_fn, give_up_unacknowledged,
};

/// Tells the agent's process where the proxy is.
const PROXY: &str = "ZTKA_TEST_SILENCE_PROXY";
/// The promise, for each end, whether it hears the other or not.
const NOTICED: Duration = Duration::from_secs(15);
/// An attempt that hangs, and the wait after it.
const BACK: Duration = Duration::from_secs(45);

/// A namespace at the far end of a cable; gone when dropped.
struct Far {
    name: String,
    near: String,
    address: String,
}

impl Far {
    /// Why there can be none, if so.
    fn lay() -> Result<Self, String> {
        let process = std::process::id();
        let (name, near, far) = (format!("ztka{process}"), format!("zn{process}"), format!("zf{process}"));
        // A network of two addresses in a range for tests (RFC 2544), unlike that of another run.
        let [.., third, fourth] = (process % (1 << 14) * 4).to_be_bytes();
        let (ours, theirs) = (format!("198.18.{third}.{}", fourth | 1), format!("198.18.{third}.{}", fourth | 2));
        run("ip", &["netns", "add", &name])?;
        let laid = Self { name, near, address: ours };
        run("ip", &["link", "add", &laid.near, "type", "veth", "peer", "name", &far])?;
        run("ip", &["link", "set", &far, "netns", &laid.name])?;
        run("ip", &["address", "add", &format!("{}/30", laid.address), "dev", &laid.near])?;
        run("ip", &["link", "set", &laid.near, "up"])?;
        laid.inside(&["ip", "address", "add", &format!("{theirs}/30"), "dev", &far])?;
        laid.inside(&["ip", "link", "set", &far, "up"])?;
        laid.inside(&["iptables", "--list"])?;
        Ok(laid)
    }

    fn inside(&self, command: &[&str]) -> Result<(), String> {
        run("ip", &[&["netns", "exec", &self.name], command].concat())
    }

    fn agent(&self, proxy: &str) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(env::current_exe().unwrap());
        command.args(["--exact", "the_agent_in_its_namespace", "--nocapture"]).env(PROXY, proxy);
        command.stdout(Stdio::piped()).spawn().unwrap()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = run("ip", &["link", "delete", &self.near]);
        let _ = run("ip", &["netns", "delete", &self.name]);
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{program} {}: {said}", arguments.join(" ")))
}

/// Ends the agent's process with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits for a line of the agent's; how long that took.
fn hear(lines: &mpsc::Receiver<String>, word: &str, bound: Duration) -> Duration {
    let begun = Instant::now();
    loop {
        let left = bound.checked_sub(begun.elapsed()).unwrap_or_else(|| panic!("not {word} within {bound:?}"));
        let line = lines.recv_timeout(left).unwrap_or_else(|error| panic!("not {word} within {bound:?}: {error}"));
        println!("agent, after {:.1} s: {line}", begun.elapsed().as_secs_f64());
        if line.starts_with(word) {
            return begun.elapsed();
        }
    }
}

/// Waits until the proxy has so many tunnels.
async fn tunnels(registry: &Registry, count: usize, bound: Duration) -> Duration {
    let (begun, mut changes) = (Instant::now(), registry.subscribe());
    let reached = async {
        while registry.peers().len() != count {
            changes.changed().await.unwrap();
        }
    };
    tokio::time::timeout(bound, reached).await.unwrap_or_else(|_| panic!("not {count} tunnels within {bound:?}"));
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_dropped_silently_are_noticed_by_both_ends() {
    let far = match Far::lay() {
        Ok(far) => far,
        Err(reason) => {
            assert!(env::var("CI").is_err(), "no network namespaces: {reason}");
            return eprintln!("SKIPPED packets_that_are_dropped_silently_are_noticed_by_both_ends: {reason}");
        }
    };
    let listener = TcpListener::bind(format!("{}:0", far.address)).await.unwrap();
    let proxy = listener.local_addr().unwrap().to_string();
    let registry = Registry::new(Arc::new(SystemClock));
    let (org, cluster, instance) = ("acme".parse().unwrap(), "c1".parse().unwrap(), "i1".parse().unwrap());
    let peer = TunnelPeer { org, cluster, instance, not_after: Timestamp::MAX };
    let serving = registry.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            give_up_unacknowledged(&socket, Settings::default().deaf_after).unwrap();
            let (serving, peer) = (serving.clone(), peer.clone());
            tokio::spawn(async move { serving.serve(socket, peer).await });
        }
    });
    let mut agent = far.agent(&proxy);
    let (told, lines) = mpsc::channel();
    let stdout = BufReader::new(agent.stdout.take().unwrap());
    let _agent = Running(agent);
    thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| told.send(line)));

    // In both directions, and in each alone: that an end hears the other does not keep it from noticing.
    for chains in [&["INPUT", "OUTPUT"][..], &["OUTPUT"], &["INPUT"]] {
        tunnels(&registry, 1, BACK).await;
        tokio::task::block_in_place(|| hear(&lines, "ready", BACK));
        for chain in chains {
            far.inside(&["iptables", "--append", chain, "--jump", "DROP"]).unwrap();
        }
        let begun = Instant::now();
        let proxy_noticed = tunnels(&registry, 0, NOTICED).await;
        let left = NOTICED.saturating_sub(begun.elapsed());
        let agent_noticed = proxy_noticed + tokio::task::block_in_place(|| hear(&lines, "lost", left));
        println!(
            "{chains:?} dropped: noticed by the proxy after {proxy_noticed:.1?}, by the agent after {agent_noticed:.1?}"
        );
        far.inside(&["iptables", "--flush"]).unwrap();
    }
    tunnels(&registry, 1, BACK).await;
}

/// What runs in the other namespace; without being told where the proxy is, nothing.
#[tokio::test]
async fn the_agent_in_its_namespace() {
    let Ok(proxy) = env::var(PROXY) else { return };
    let connect = connect_fn(|to: ProxyAddress| async move {
        let io = TcpStream::connect((to.host(), to.port())).await.map_err(|error| ConnectError::Other(error.into()))?;
        give_up_unacknowledged(&io, Settings::default().deaf_after).unwrap();
        Ok((io, Verified::assertion("p1".parse().unwrap())))
    });
    let service = service_fn(|_: Request<Body>| async {
        let mut response = Response::new(empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok::<_, Infallible>(Reply::Response(response))
    });
    let dialer = Dialer::start(connect, [proxy.parse().unwrap()], service);
    let (mut states, mut was_ready) = (dialer.states(), false);
    loop {
        let (ready, errors) = {
            let states = states.borrow_and_update();
            let errors: Vec<_> = states.iter().filter_map(|state| state.error.clone()).collect();
            (states.iter().any(|state| state.proxy.is_some()), errors)
        };
        if ready != was_ready {
            was_ready = ready;
            println!("{} {errors:?}", if ready { "ready" } else { "lost" });
        }
        states.changed().await.unwrap();
    }
}
