//! An installation in memory: authorities, documents, a stack with a spy in the place of the tunnels.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "shared by several test files; clippy.toml does not reach helpers"
)]

pub mod front;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use jiff::{SignedDuration, Timestamp};
use rustls::{ClientConfig, RootCertStore, crypto::CryptoProvider};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use tower::{ServiceBuilder, service_fn, util::BoxCloneSyncService};
use ztka_audit::{AuditLayer, MemoryJournal, Recorder};
use ztka_authz::{AuthorizeLayer, CutLayer, Open};
use ztka_core::{
    Access, Body, BoxError, Clock, DocumentHeader, DocumentKind, ManualClock, OrgId, Permitted, Reply, Revision,
    SeriesKey, Session, body,
};
use ztka_follow::Documents;
use ztka_pki::{
    AuthenticateLayer, Credential, CredentialSource, Hierarchy, Issued, Lifetimes, MemoryKeyStore, Purpose,
    Revocations, SoftwareKey, ValidCsr,
};
use ztka_proxy::{
    Certificate, CertificateAuthenticator, Connections, Directory, Limits, Names, PerUserLayer, ShedLayer, SpliceLayer,
    UserBody, Users,
};

pub const POD: &str = "/api/v1/namespaces/default/pods/web";
pub const DOMAIN: &str = "example.com";

/// What reached the place of the tunnels: request line, headers, and the body or why it broke off.
#[derive(Clone, Debug)]
pub struct Sent {
    pub request: Request<()>,
    pub cluster: String,
    pub body: Result<Bytes, String>,
}

type Answer = Arc<dyn Fn(&Request<()>) -> Reply + Send + Sync>;
pub type Stack = BoxCloneSyncService<Request<UserBody>, Response<Body>, BoxError>;

pub struct Installation {
    pub provider: Arc<CryptoProvider>,
    pub clock: ManualClock,
    pub hierarchy: Hierarchy,
    pub documents: Documents,
    pub directory: Directory,
    pub open: Open<Directory>,
    pub connections: Connections,
    pub journal: Arc<MemoryJournal>,
    pub recorder: Recorder,
    pub sent: Arc<Mutex<Vec<Sent>>>,
    pub names: Names,
    pub version: Mutex<u64>,
}

/// Policy gives alice of acme everything on c1 and c2; globex has c9.
pub async fn installation() -> Installation {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let clock = ManualClock::at(Timestamp::now());
    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    let names = ztka_pki::Names::of(DOMAIN);
    let hierarchy = Hierarchy::create(names, Lifetimes::default(), keys, Arc::new(clock.clone())).await.unwrap();
    for org in ["acme", "globex"] {
        hierarchy.create_org(&org.parse().unwrap()).await.unwrap();
    }
    let bundle = hierarchy.trust_bundle();
    let documents = Documents::open(bundle, None, provider.clone(), Arc::new(clock.clone())).unwrap();
    let directory = Directory::new(documents.clone(), "log in at https://console.example.com");
    directory.set_synced();
    let journal = Arc::new(MemoryJournal::default());
    let recorder = Recorder::new(journal.clone(), Arc::new(clock.clone()));
    let names = Names::new(DOMAIN, ["front.example.net".to_owned()], "p1".parse().unwrap());
    let open = Open::new(directory.clone(), directory.engine().clone());
    let connections = Connections::new(directory.clone());
    let (sent, version) = (Arc::default(), Mutex::new(0));
    let made = Installation {
        provider,
        clock,
        hierarchy,
        documents,
        directory,
        open,
        connections,
        journal,
        recorder,
        sent,
        names,
        version,
    };
    made.policy("acme", &["c1", "c2"], "cluster-admin").await;
    made.policy("globex", &["c9"], "cluster-admin").await;
    made.session("acme", "u1", "k1", "alice", 12).await;
    made
}

impl Installation {
    pub async fn document(
        &self,
        kind: DocumentKind,
        org: Option<&str>,
        subject: &str,
        body: &(impl serde::Serialize + Sync),
    ) {
        let version = {
            let mut version = self.version.lock().unwrap();
            *version += 1;
            *version
        };
        let org: Option<OrgId> = org.map(|org| org.parse().unwrap());
        let issued = self.clock.now();
        let header = DocumentHeader {
            series: SeriesKey { kind, org, subject: subject.into() },
            revision: Revision { epoch: 0, version },
            issued,
            expires: issued + SignedDuration::from_hours(24),
        };
        let document = self.hierarchy.sign_document(header, body).await.unwrap();
        assert!(self.documents.accept(document).unwrap());
    }

    pub async fn policy(&self, org: &str, clusters: &[&str], role: &str) {
        let clusters: Vec<_> = clusters.iter().map(|id| json!({"id": id, "name": id})).collect();
        let policy = json!({
            "clusters": clusters,
            "bindings": [{
                "name": "team",
                "subjects": [{"user": "alice"}],
                "role": role,
                "clusters": {"names": ["c1", "c2", "c9"]},
                "scope": "cluster",
            }],
        });
        self.document(DocumentKind::Policy, Some(org), "", &policy).await;
    }

    /// The projection of a policy, which a proxy only hands on.
    pub async fn projection(&self, org: &str, cluster: &str) {
        self.document(DocumentKind::Policy, Some(org), cluster, &json!({})).await;
    }

    pub async fn session(&self, org: &str, user: &str, credential: &str, name: &str, hours: i64) {
        let session = Session {
            user: user.parse().unwrap(),
            credential: credential.parse().unwrap(),
            name: name.parse().unwrap(),
            groups: Vec::new(),
            attributes: ztka_core::Attributes::new(),
            active_until: self.clock.now() + SignedDuration::from_hours(hours),
        };
        self.document(DocumentKind::Session, Some(org), credential, &session).await;
    }

    pub async fn revoke(&self, credential: &str) {
        let credentials = BTreeSet::from([credential.parse().unwrap()]);
        let revocations = Revocations { credentials, ..Revocations::default() };
        self.document(DocumentKind::Revocations, Some("acme"), "", &revocations).await;
    }

    /// A key and a certificate for it.
    pub async fn user(&self, org: &str, user: &str, credential: &str, days: i64) -> (SoftwareKey, Issued) {
        let key = SoftwareKey::generate(&self.provider).unwrap();
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let (org, user, credential) = (org.parse().unwrap(), user.parse().unwrap(), credential.parse().unwrap());
        let life = SignedDuration::from_hours(24 * days);
        let issued = self.hierarchy.issue_user(&csr, &org, &user, &credential, life).await.unwrap();
        (key, issued)
    }

    /// Alice's certificate as the acceptor sees it.
    pub async fn certificate(&self) -> Certificate {
        let (_, issued) = self.user("acme", "u1", "k1", 30).await;
        let chain: Vec<_> = issued.chain().to_vec();
        let peer = self.documents.trust().identify(Purpose::Users, &chain).unwrap();
        Certificate { peer, chain }
    }

    pub async fn server_credential(&self, names: &[&str]) -> CredentialSource {
        let key = SoftwareKey::generate(&self.provider).unwrap();
        let issued = self.hierarchy.issue_server(key.public(), names).await.unwrap();
        CredentialSource::new(Credential::new(issued.chain().to_vec(), &key).unwrap())
    }

    /// A user's TLS client, as kubectl is one: the root from the kubeconfig, perhaps a certificate.
    pub fn client(&self, certificate: Option<(&SoftwareKey, &[CertificateDer<'static>])>, alpn: &str) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.hierarchy.root().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(self.provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match certificate {
            None => config.with_no_client_auth(),
            Some((key, chain)) => {
                let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
                config.with_client_auth_cert(chain.to_vec(), key).unwrap()
            }
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }

    /// The whole access stack; `answer` stands for agent and cluster.
    pub fn stack(&self, limits: &Limits, answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static) -> Stack {
        let (sent, answer): (_, Answer) = (self.sent.clone(), Arc::new(answer));
        let spy =
            service_fn(move |access: Access<Permitted, UserBody>| -> BoxFuture<'static, Result<Reply, BoxError>> {
                let (sent, answer) = (sent.clone(), answer.clone());
                Box::pin(async move {
                    let cluster = access.cluster().to_string();
                    let (head, body) = access.into_request().into_parts();
                    let body = body.collect().await.map(|body| body.to_bytes());
                    let request = Request::from_parts(head, ());
                    let failed = body.as_ref().err().map(ToString::to_string);
                    let body = body.map_err(|error| error.to_string());
                    sent.lock().unwrap().push(Sent { request: request.clone(), cluster, body });
                    match failed {
                        Some(error) => Err(error.into()),
                        None => Ok(answer(&request)),
                    }
                })
            });
        let refusals = Arc::new(self.recorder.clone());
        let authenticator = CertificateAuthenticator::new(self.directory.clone(), self.names.clone());
        let stack = ServiceBuilder::new()
            .layer(SpliceLayer)
            .layer(ShedLayer::new(limits))
            .layer(AuthenticateLayer::new(authenticator, refusals.clone()))
            .layer(PerUserLayer::new(limits, refusals))
            .layer(AuditLayer::new(self.recorder.clone()))
            .layer(AuthorizeLayer::new(self.directory.engine().clone()).with_ports_watched())
            .layer(CutLayer::new(self.open.clone()))
            .service(spy);
        BoxCloneSyncService::new(stack)
    }

    pub fn users(
        &self,
        limits: &Limits,
        answer: impl Fn(&Request<()>) -> Reply + Send + Sync + 'static,
    ) -> Users<Stack> {
        let refusals = Arc::new(self.recorder.clone());
        let trust = self.directory.trust().clone();
        Users::new(self.stack(limits, answer), self.connections.clone(), trust, limits, refusals)
    }

    /// Has what is open watched over from now on.
    pub fn enforce(&self) {
        tokio::spawn(self.open.clone().enforce());
        tokio::spawn(self.connections.clone().enforce());
    }

    pub fn sent(&self) -> Vec<Sent> {
        self.sent.lock().unwrap().clone()
    }

    /// The reasons of recorded denials.
    pub fn denials(&self) -> Vec<String> {
        let events = self.journal.events();
        let denied = events.iter().filter(|event| event.fact("decision") == Some("deny"));
        denied.filter_map(|event| event.fact("reason").map(Into::into)).collect()
    }

    /// Waits until `condition` holds, with a bound of ten seconds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}

/// 200 with this content.
pub fn ok(content: &'static str) -> Reply {
    Reply::Response(Response::new(body(content)))
}

pub fn full(content: &'static str) -> Full<Bytes> {
    Full::new(Bytes::from_static(content.as_bytes()))
}
