//! A proxy that has joined as any proxy does, and then says what it likes.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use h2::client::SendRequest;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower::ServiceExt as _;
use ztka_audit::{MemoryJournal, Recorder};
use ztka_core::{
    Access, AuditId, Authenticated, ClusterId, Decision, DecisionSlot, DocumentHeader, DocumentKind, Evidence, Grant,
    Identity, KeyId, OrgId, Permitted, Principal, ProxyId, Recorded, Reply, Revision, SeriesKey, Session,
    SignedDocument, Subject, SystemClock, Verified, empty,
};
use ztka_e2e::{Fleet, User};
use ztka_follow::{Follower, Member, Membership};
use ztka_pki::{ClientAuth, Purpose, tls};
use ztka_proxy::{Accepted, Acceptor, Arrival, Drain, Handler, Limits, Listener, Names, PassOn, Tunnels};
use ztka_test_cluster::wait_for;
use ztka_tunnel::{Dispatch, HELLO_PATH, PROTOCOL, PROTOCOL_HEADER, READY_PATH, Registry};

const DOMAIN: &str = "ztka.test";

/// What the agent has answered.
#[derive(Debug)]
pub struct Answer {
    pub code: StatusCode,
    pub message: String,
    /// The agent asks for the evidence that the request names.
    pub asks_for_evidence: bool,
    /// Why no agent has answered, as one proxy tells another.
    pub tunnel: Option<String>,
}

impl Answer {
    fn new(code: StatusCode, headers: &http::HeaderMap, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or_default();
        let message = json["message"].as_str().unwrap_or_default().to_owned();
        let tunnel = headers.get("ztka-tunnel").and_then(|value| value.to_str().ok()).map(str::to_owned);
        Self { code, message, asks_for_evidence: headers.contains_key(&ztka_core::EVIDENCE), tunnel }
    }
}

/// A user as the proxy sees them: the chain of the certificate, and what it says.
#[derive(Clone, Debug)]
pub struct Person {
    pub chain: Vec<CertificateDer<'static>>,
    pub org: OrgId,
    pub session: Verified<SignedDocument>,
}

impl Person {
    pub fn principal(&self) -> Result<Principal> {
        Ok(Principal::new(self.org.clone(), self.session.body::<Session>()?))
    }

    /// As an honest proxy makes it.
    pub fn evidence(&self) -> Result<Evidence> {
        evidence(&self.chain, &self.session.to_wire())
    }
}

/// Evidence of any chain and any session document.
pub fn evidence(chain: &[CertificateDer<'_>], session: &[u8]) -> Result<Evidence> {
    let chain: Vec<_> = chain.iter().map(|certificate| BASE64_STANDARD.encode(certificate)).collect();
    let session: &RawValue = serde_json::from_slice(session)?;
    let json = json!({ "chain": chain }).to_string();
    Ok(Evidence::new(format!("{},\"session\":{session}}}", json.trim_end_matches('}'))))
}

/// `document` with `from` in its signed bytes replaced by `to`, and the signature as it was.
pub fn altered(document: &SignedDocument, from: &str, to: &str) -> Result<Vec<u8>> {
    let mut wire: Value = serde_json::from_slice(&document.to_wire())?;
    let signed = BASE64_STANDARD.decode(wire["signed"].as_str().context("signed")?)?;
    let signed = String::from_utf8(signed)?;
    ensure!(signed.contains(from), "{signed} does not contain {from}");
    wire["signed"] = BASE64_STANDARD.encode(signed.replace(from, to)).into();
    Ok(wire.to_string().into_bytes())
}

/// The name of the key that `document` is signed by.
pub fn key_of(document: &SignedDocument) -> Result<KeyId> {
    let wire: Value = serde_json::from_slice(&document.to_wire())?;
    Ok(serde_json::from_value(wire["key"].clone())?)
}

/// A proxy without layers. It sends by [`Dispatch`], or ([`Liar::raw`]) byte for byte what the test says.
#[derive(Debug)]
pub struct Liar {
    pub port: u16,
    pub id: ProxyId,
    member: Member,
    registry: Registry,
    raw: watch::Receiver<Option<SendRequest<Bytes>>>,
}

impl Liar {
    /// Joins with a token as every proxy; `by_hand`: without the library's end of the tunnel.
    pub async fn join(fleet: &Fleet, by_hand: bool) -> Result<Self> {
        let token = fleet.ztka(&["proxy", "create"]).await?;
        let config = std::fs::read_to_string(fleet.path("proxy-0.toml"))?;
        let controller = config.lines().find_map(|line| line.strip_prefix("controller = '")?.strip_suffix('\''));
        let controller = controller.context("the address of the controller")?.to_owned();
        let name = |role: &str| ServerName::try_from(format!("{role}.{DOMAIN}"));
        let membership = Membership {
            state: fleet.path(if by_hand { "liar-by-hand" } else { "liar" }),
            token: Some(token.parse()?),
            enrol: (controller.clone(), name("enroll")?),
            controller: (controller, name("controllers")?),
            controller_purpose: Purpose::Controllers,
            shared: None,
            egress: ztka_tunnel::Egress::direct(),
        };
        let (provider, clock) = (Arc::new(rustls::crypto::ring::default_provider()), Arc::new(SystemClock));
        let member = Member::join(membership, provider.clone(), clock.clone()).await?;
        let Subject::Proxy(id) = member.id().subject.clone() else { return Err(anyhow!("not a proxy")) };
        let documents = member.documents().clone();
        tokio::spawn(Follower::new(member.channel().clone(), documents.clone()).run(std::future::pending(), || {}));

        let registry = Registry::new(clock.clone());
        let (sender, raw) = watch::channel(None);
        let trust = documents.trust().clone();
        let agents = ClientAuth::Required(Purpose::Agents);
        let tls = tls::server(provider, member.credentials().clone(), agents, trust.clone(), &[ztka_tunnel::ALPN])?;
        let listener = match by_hand {
            true => Listener::new(tls, ByHand(sender)),
            false => Listener::new(tls, Tunnels::new(registry.clone(), trust, &Limits::default())),
        };
        let refusals = Arc::new(Recorder::new(Arc::new(MemoryJournal::default()), clock));
        let names = Names::new(DOMAIN, [], id.clone());
        // No user gets to this proxy.
        let acceptor = Acceptor::new(names, listener.clone(), listener, PassOn::Nowhere, &Limits::default(), refusals);
        let tcp = TcpListener::bind("127.0.0.1:0").await?;
        let port = tcp.local_addr()?.port();
        tokio::spawn(acceptor.serve(tcp, std::future::pending(), Duration::ZERO));
        Ok(Self { port, id, member, registry, raw })
    }

    /// A user whose certificate the proxy has seen.
    pub async fn person(&self, user: &User) -> Result<Person> {
        let kubeconfig = std::fs::read_to_string(&user.kubeconfig)?;
        let data = kubeconfig.lines().find_map(|line| line.trim().strip_prefix("client-certificate-data: "));
        let pem = BASE64_STANDARD.decode(data.context("no certificate in the kubeconfig")?)?;
        let chain = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>()?;
        let peer = self.member.documents().trust().verify(Purpose::Users, &chain)?;
        let Subject::User { org, credential, .. } = peer.id.subject.clone() else {
            return Err(anyhow!("the certificate is not a user's"));
        };
        let documents = self.member.documents();
        let session = wait_for("the session document", || async {
            documents.session(&org, &credential).context("not heard of yet")
        });
        let session = session.await?;
        Ok(Person { chain, org, session })
    }

    /// The newest policy of `org` that this proxy has heard of.
    pub fn policy(&self, org: &OrgId) -> Result<Verified<SignedDocument>> {
        let series = SeriesKey { kind: DocumentKind::Policy, org: Some(org.clone()), subject: String::new() };
        let all = self.member.documents().all();
        all.into_iter().find(|document| document.header().series == series).context("no policy")
    }

    /// The newest projection of that policy to `cluster` that this proxy has heard of.
    pub fn projection(&self, org: &OrgId, cluster: &ClusterId) -> Result<Verified<SignedDocument>> {
        let series = SeriesKey::projection(org.clone(), cluster);
        let all = self.member.documents().all();
        all.into_iter().find(|document| document.header().series == series).context("no projection")
    }

    /// A document signed by the proxy's own key, under the name of that key or under that of `key`.
    pub fn forged(&self, header: DocumentHeader, body: &Value, key: Option<KeyId>) -> Result<Vec<u8>> {
        let own = self.member.credentials().current();
        let name = self.member.documents().trust().verify(Purpose::Proxies, own.chain())?.spki.clone();
        let sign = |message: &[u8]| -> Result<_> { Ok((key.unwrap_or(name), own.sign(message)?)) };
        Ok(SignedDocument::sign(header, body, sign)?.to_wire())
    }

    /// Waits for the agent's tunnel.
    pub async fn connected(&self, org: &OrgId, cluster: &ClusterId) -> Result<()> {
        wait_for("the agent's tunnel to a liar", || async {
            let connected = self.registry.is_connected(org, cluster) || self.raw.borrow().is_some();
            ensure!(connected, "not there");
            Ok(())
        })
        .await
    }

    /// Sends a GET that no policy was asked about, as `claimed` and with `evidence`, under `id`.
    pub async fn send(
        &self,
        id: AuditId,
        cluster: &ClusterId,
        (claimed, evidence): (Principal, Evidence),
        policy: Revision,
        path: &str,
    ) -> Result<Answer> {
        let identity = Identity::new(Verified::assertion(claimed), cluster.clone(), evidence);
        let (head, body) = Request::get(path).body(empty())?.into_parts();
        let access = Authenticated::assertion(identity, &head, body);
        let access = Recorded::assertion(access, id, DecisionSlot::default());
        let grant = Grant {
            binding: "none".into(),
            role: "none".into(),
            policy,
            recording: ztka_core::Recording::Off,
            audit: None,
        };
        let access: Access<Permitted, _> = Permitted::assertion(access, |_, _, _| Decision::Allow(grant))?;
        match Dispatch::new(self.registry.clone()).oneshot(access).await? {
            Reply::Response(response) => {
                let (head, body) = response.into_parts();
                let body = body.collect().await.map_err(|error| anyhow!(error))?.to_bytes();
                Ok(Answer::new(head.status, &head.headers, &body))
            }
            Reply::Upgraded { .. } => Err(anyhow!("upgraded")),
        }
    }

    /// Connects to another proxy's listener for proxies at `port`, with the certificate of this one or without any, and says
    /// hello as it does to an agent.
    pub async fn link(&self, port: u16, with_certificate: bool) -> Result<Link> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let trust = self.member.documents().trust().clone();
        let own = with_certificate.then(|| self.member.credentials().clone());
        let tls = tls::client(provider, trust, own, Purpose::Proxies, &[ztka_tunnel::ALPN])?;
        let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
        let name = ServerName::try_from(format!("peer.{DOMAIN}"))?;
        let io = tokio_rustls::TlsConnector::from(tls).connect(name, tcp).await?;
        let (sender, connection) = h2::client::handshake(io).await?;
        tokio::spawn(connection);
        let link = Link(sender);
        for path in [HELLO_PATH, READY_PATH] {
            let request = Request::post(path).header(&PROTOCOL_HEADER, PROTOCOL).body(())?;
            let answer = link.say("proxy", request, "").await?;
            ensure!(answer.code == StatusCode::NO_CONTENT, "{path}: {answer:?}");
        }
        Ok(link)
    }

    /// Sends exactly this on a tunnel that was set up by hand.
    pub async fn raw(&self, request: Request<()>, body: impl Into<Bytes>) -> Result<Answer> {
        let sender = self.raw.borrow().clone().context("no tunnel")?;
        let (head, ()) = request.into_parts();
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = format!("https://agent{}", head.uri).parse()?;
        *request.headers_mut() = head.headers;
        say(sender, request, body.into()).await
    }
}

/// A link to another proxy.
#[derive(Clone, Debug)]
pub struct Link(SendRequest<Bytes>);

impl Link {
    /// Sends exactly this, for `cluster`.
    pub async fn say(&self, cluster: &str, request: Request<()>, body: impl Into<Bytes>) -> Result<Answer> {
        let (mut head, ()) = request.into_parts();
        head.uri = format!("https://{cluster}{}", head.uri).parse()?;
        say(self.0.clone(), Request::from_parts(head, ()), body.into()).await
    }
}

async fn say(sender: SendRequest<Bytes>, request: Request<()>, body: Bytes) -> Result<Answer> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request, body.is_empty())?;
    if !body.is_empty() {
        stream.send_data(body, true)?;
    }
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    Ok(Answer::new(head.status, &head.headers, &bytes))
}

/// The proxy's end of a tunnel with nothing behind it.
#[derive(Debug)]
struct ByHand(watch::Sender<Option<SendRequest<Bytes>>>);

impl Handler for ByHand {
    fn handle(&self, tls: Accepted, _: Arrival, _: Drain) -> BoxFuture<'static, ()> {
        let tunnel = self.0.clone();
        Box::pin(async move {
            let Ok((sender, connection)) = h2::client::handshake(tls).await else { return };
            let set_up = async {
                for path in [HELLO_PATH, READY_PATH] {
                    let request = Request::post(format!("https://agent{path}"));
                    let request = request.header(&PROTOCOL_HEADER, PROTOCOL).body(()).unwrap();
                    say(sender.clone(), request, Bytes::new()).await.unwrap();
                }
                tunnel.send_replace(Some(sender));
                std::future::pending::<()>().await;
            };
            tokio::select! {
                _ = connection => {}
                () = set_up => {}
            }
        })
    }
}
