//! Port 443 of an installation in memory, with real TCP and TLS.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use http::Request;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use ztka_core::Reply;
use ztka_pki::{ClientAuth, Purpose, tls};
use ztka_proxy::{Accepted, Acceptor, Arrival, Cidr, Drain, Handler, Limits, Listener, PassOn, Stopping};

use super::{Installation, installation};

#[derive(Debug)]
struct Tunnels(mpsc::UnboundedSender<Arrival>);

impl Handler for Tunnels {
    fn handle(&self, _: Accepted, arrival: Arrival, _: Drain) -> BoxFuture<'static, ()> {
        self.0.send(arrival).unwrap();
        Box::pin(std::future::ready(()))
    }
}

pub struct Front {
    pub made: Installation,
    pub address: SocketAddr,
    pub tunnels: mpsc::UnboundedReceiver<Arrival>,
    pub stop: Option<oneshot::Sender<()>>,
    pub server: tokio::task::JoinHandle<std::io::Result<()>>,
}

pub async fn front(controller: PassOn, answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static) -> Front {
    front_with(Limits::default(), controller, Vec::new(), answer).await
}

/// The same with other limits, behind these balancers.
pub async fn front_with(
    limits: Limits,
    controller: PassOn,
    balancers: Vec<Cidr>,
    answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static,
) -> Front {
    front_stopping((Duration::ZERO, Duration::from_secs(5)), limits, controller, balancers, answer).await
}

/// The same, with so much notice and grace when it stops.
pub async fn front_stopping(
    (notice, grace): (Duration, Duration),
    limits: Limits,
    controller: PassOn,
    balancers: Vec<Cidr>,
    answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static,
) -> Front {
    let made = installation().await;
    let (provider, trust) = (made.provider.clone(), made.documents.trust().clone());
    let server = made.server_credential(&["*.kube.example.com", "kube.example.com", "tunnel.example.com"]).await;
    let auth = ClientAuth::Requested(Purpose::Users);
    let alpn: &[&[u8]] = &[b"h2", b"http/1.1"];
    let users_tls = tls::server_for_users(provider.clone(), server.clone(), auth, trust.clone(), alpn).unwrap();
    let auth = ClientAuth::Required(Purpose::Agents);
    let tunnels_tls = tls::server(provider, server, auth, trust, &[b"h2"]).unwrap();
    let (told, tunnels) = mpsc::unbounded_channel();
    let users = Listener::new(users_tls, made.users(&limits, answer));
    let agents = Listener::new(tunnels_tls, Tunnels(told));
    let refusals = Arc::new(made.recorder.clone());
    let acceptor = Acceptor::new(made.names.clone(), users, agents, controller, &limits, refusals).behind(balancers);
    let open = made.open.clone();
    let acceptor = acceptor.stopping(notice, move |stage| {
        if stage == Stopping::Over {
            open.stop();
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let shutdown = async { drop(stopped.await) };
    let server = tokio::spawn(acceptor.serve(listener, shutdown, grace));
    Front { made, address, tunnels, stop: Some(stop), server }
}

impl Front {
    pub async fn connect(&self, name: &str, config: rustls::ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await
    }

    /// Alice's connection to c1.
    pub async fn alice(&self, alpn: &str) -> TlsStream<TcpStream> {
        let (key, issued) = self.made.user("acme", "u1", "k1", 30).await;
        let config = self.made.client(Some((&key, issued.chain())), alpn);
        self.connect("c1.kube.example.com", config).await.unwrap()
    }

    /// Everything that comes back for these bytes.
    pub async fn exchange(&self, bytes: &[u8]) -> String {
        let mut tls = self.alice("http/1.1").await;
        tls.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), tls.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "not closed: {}", String::from_utf8_lossy(&answer));
        String::from_utf8(answer).unwrap()
    }
}
