//! A proxy that is revoked loses the tunnels that are open.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    time::timeout,
};
use ztka_agent::Watched;
use ztka_core::{Clock, KeyId, ManualClock, ProxyId, SpiffeId, Subject, Verified};
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names, Peer, Revocations, TrustSource};
use ztka_tunnel::{Connect as _, ConnectError, connect_fn};

#[tokio::test]
async fn a_connection_ends_when_its_proxy_is_revoked_and_not_before() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at("2030-01-01T00:00:00Z".parse().unwrap()));
    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    let hierarchy =
        Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await.unwrap();
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider, clock).unwrap();
    let (near, mut far) = duplex(1024);
    let id: ProxyId = "p1".parse().unwrap();
    let peer = Verified::assertion(Peer {
        id: SpiffeId { trust_domain: "example.com".into(), subject: Subject::Proxy(id.clone()) },
        serial: "1f".into(),
        not_after: "2031-01-01T00:00:00Z".parse().unwrap(),
        spki: KeyId("00".into()),
        authorities: Vec::new(),
    });
    let (near, known) = (std::sync::Mutex::new(Some(near)), Verified::assertion(id));
    let connect = connect_fn(move |_| {
        let near = near.lock().unwrap().take().unwrap();
        let known = known.clone();
        async move { Ok::<(DuplexStream, _), ConnectError>((near, known)) }
    });
    let watched = Watched::new(connect, trust.clone(), move |_| Some(peer.clone()));
    let (mut io, _) = watched.connect(&"tunnel.example.com:443".parse().unwrap()).await.unwrap();

    far.write_all(b"x").await.unwrap();
    assert_eq!(io.read_u8().await.unwrap(), b'x');
    let others = Revocations { proxies: ["p2".parse().unwrap()].into(), ..Revocations::default() };
    trust.set_revocations(None, others);
    far.write_all(b"y").await.unwrap();
    assert_eq!(io.read_u8().await.unwrap(), b'y', "another one");
    let reading = tokio::spawn(async move { io.read_u8().await });
    tokio::task::yield_now().await;
    trust.set_revocations(None, Revocations { serials: ["1f".into()].into(), ..Revocations::default() });
    let ended = timeout(Duration::from_secs(30), reading).await.unwrap().unwrap();
    assert!(ended.unwrap_err().to_string().contains("revoked"));
}
