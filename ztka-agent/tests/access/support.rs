//! An installation in memory and the agent's stack in it, with a service of the test in the place of the apiserver.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{json, value::RawValue};
use tower::{Service as _, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService};
use ztka_agent::{ControlLayer, Witness};
use ztka_audit::{AuditLayer, Durability, Event, Journal, MemoryJournal, Opening, Recorder};
use ztka_authz::{AuthorizeLayer, CutLayer, Open};
use ztka_core::{
    Access, AuditId, Body, BoxError, Clock as _, DocumentHeader, DocumentKind, Evidence, ManualClock, Permitted,
    ProxyId, Reply, Revision, SeriesKey, Session, SignedDocument, Upgrade, Verified, body, empty,
};
use ztka_follow::Documents;
use ztka_pki::{AuthenticateLayer, Hierarchy, Lifetimes, MemoryKeyStore, Names, Revocations, SoftwareKey, ValidCsr};

pub(crate) const WATCH: &str = "/api/v1/pods?watch=true";
pub(crate) const LIST: &str = "/api/v1/pods";
pub(crate) const EXEC: &str = "/api/v1/namespaces/default/pods/web/exec?command=sh";

type Stack = BoxCloneSyncService<Request<Body>, Reply, BoxError>;

pub(crate) type Gate = Shared<BoxFuture<'static, ()>>;

/// Records wait at a gate, if there is one.
#[derive(Default)]
struct Gated {
    journal: MemoryJournal,
    gate: Mutex<Option<Gate>>,
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.journal.fmt(f)
    }
}

impl Journal for Gated {
    fn open(&self, event: &Event, durability: Durability) -> Opening {
        let opening = self.journal.open(event, durability);
        match self.gate.lock().unwrap().clone() {
            None => opening,
            Some(gate) => Opening::later(async move {
                gate.await;
                opening.await
            }),
        }
    }

    fn note(&self, event: &Event) {
        self.journal.note(event);
    }
}

pub(crate) struct Stage {
    pub(crate) clock: ManualClock,
    pub(crate) documents: Documents,
    pub(crate) witness: Witness,
    pub(crate) open: Open<Witness>,
    hierarchy: Hierarchy,
    journal: Arc<Gated>,
    version: Mutex<u64>,
}

impl Stage {
    /// Policy gives alice of acme everything on c1, whose agent this is.
    pub(crate) async fn set() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clock = ManualClock::at(Timestamp::now());
        let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
        let lives = Lifetimes::default();
        let hierarchy =
            Hierarchy::create(Names::of("example.com"), lives, keys, Arc::new(clock.clone())).await.unwrap();
        hierarchy.create_org(&"acme".parse().unwrap()).await.unwrap();
        let trust = hierarchy.trust_bundle();
        let documents = Documents::open(trust, None, provider, Arc::new(clock.clone())).unwrap();
        let witness = Witness::new("acme".parse().unwrap(), "c1".parse().unwrap(), documents.clone());
        let open = Open::new(witness.clone(), documents.engine().clone());
        let stage =
            Self { clock, documents, witness, open, hierarchy, journal: Arc::default(), version: Mutex::default() };
        stage.policy(&["c1"], "cluster-admin").await;
        stage
    }

    async fn sign(&self, kind: DocumentKind, subject: &str, body: &(impl serde::Serialize + Sync)) -> SignedDocument {
        let version = {
            let mut version = self.version.lock().unwrap();
            *version += 1;
            *version
        };
        self.sign_as(Revision { epoch: 0, version }, kind, subject, body).await
    }

    async fn sign_as(
        &self,
        revision: Revision,
        kind: DocumentKind,
        subject: &str,
        body: &(impl serde::Serialize + Sync),
    ) -> SignedDocument {
        let issued = self.clock.now();
        let series = SeriesKey { kind, org: Some("acme".parse().unwrap()), subject: subject.into() };
        let expires = issued + SignedDuration::from_hours(24);
        let header = DocumentHeader { series, revision, issued, expires };
        self.hierarchy.sign_document(header, body).await.unwrap()
    }

    /// A policy that gives the team `role` on c1 and is otherwise this.
    pub(crate) async fn policy_of(&self, roles: serde_json::Value, role: &str) {
        let binding = json!({
            "name": "team", "subjects": [{"group": "ops"}], "role": role, "clusters": {"all": true},
            "scope": "cluster",
        });
        let policy = json!({"clusters": [{"id": "c1", "name": "c1"}], "roles": roles, "bindings": [binding]});
        self.documents.accept(self.sign(DocumentKind::Policy, "", &policy).await).unwrap();
    }

    pub(crate) async fn policy(&self, clusters: &[&str], role: &str) {
        let clusters: Vec<_> = clusters.iter().map(|id| json!({"id": id, "name": id})).collect();
        let binding = json!({
            "name": "team", "subjects": [{"group": "ops"}], "role": role, "clusters": {"all": true},
            "scope": "cluster",
        });
        let policy = json!({"clusters": clusters, "bindings": [binding]});
        self.documents.accept(self.sign(DocumentKind::Policy, "", &policy).await).unwrap();
    }

    /// A policy whose one binding, of the team to `cluster-admin`, says this as well.
    pub(crate) async fn bound_with(&self, more: serde_json::Value) {
        let mut binding = json!({
            "name": "team", "subjects": [{"group": "ops"}], "role": "cluster-admin", "clusters": {"all": true},
            "scope": "cluster",
        });
        binding.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let policy = json!({"clusters": [{"id": "c1", "name": "c1"}], "bindings": [binding]});
        self.documents.accept(self.sign(DocumentKind::Policy, "", &policy).await).unwrap();
    }

    /// A document of `org` that is signed as it should be.
    pub(crate) async fn document_of(&self, org: &str, kind: DocumentKind, body: &serde_json::Value) -> SignedDocument {
        let issued = self.clock.now();
        let series = SeriesKey { kind, org: Some(org.parse().unwrap()), subject: String::new() };
        let expires = issued + SignedDuration::from_hours(24);
        let header = DocumentHeader { series, revision: Revision { epoch: 0, version: 1000 }, issued, expires };
        self.hierarchy.sign_document(header, body).await.unwrap()
    }

    /// What the agent says to a document that a proxy brings.
    pub(crate) async fn bring(&self, stack: &Stack, document: &SignedDocument) -> StatusCode {
        let request = Request::post("/.ztka/documents").body(body(document.to_wire())).unwrap();
        let mut stack = stack.clone();
        response(stack.ready().await.unwrap().call(request).await.unwrap()).status()
    }

    pub(crate) async fn revoke(&self, revocations: Revocations) {
        self.documents.accept(self.sign(DocumentKind::Revocations, "", &revocations).await).unwrap();
    }

    pub(crate) async fn revoke_credential(&self) {
        let credentials = BTreeSet::from(["k1".parse().unwrap()]);
        self.revoke(Revocations { credentials, ..Revocations::default() }).await;
    }

    /// Alice's session document, which ends in so many hours.
    pub(crate) async fn session(&self, hours: i64, groups: &[&str]) -> SignedDocument {
        let session = self.session_body(hours, groups);
        self.sign(DocumentKind::Session, "k1", &session).await
    }

    fn session_body(&self, hours: i64, groups: &[&str]) -> Session {
        Session {
            user: "u1".parse().unwrap(),
            credential: "k1".parse().unwrap(),
            name: "alice".parse().unwrap(),
            groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
            attributes: ztka_core::Attributes::new(),
            active_until: self.clock.now() + SignedDuration::from_hours(hours),
        }
    }

    /// The same document, signed now.
    pub(crate) async fn again(&self, document: &SignedDocument) -> SignedDocument {
        let key = self.documents.trust().bundle();
        let body: Session = document.clone().accept(&*key, None, self.clock.now()).unwrap().body().unwrap();
        self.sign_as(document.header().revision, DocumentKind::Session, "k1", &body).await
    }

    /// A certificate of alice's credential for so many hours.
    pub(crate) async fn chain(&self, hours: i64) -> Vec<String> {
        let key = SoftwareKey::generate(&Arc::new(rustls::crypto::ring::default_provider())).unwrap();
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let (org, user, credential) = ("acme".parse().unwrap(), "u1".parse().unwrap(), "k1".parse().unwrap());
        let life = SignedDuration::from_hours(hours);
        let issued = self.hierarchy.issue_user(&csr, &org, &user, &credential, life).await.unwrap();
        issued.chain().iter().map(|der| BASE64_STANDARD.encode(der)).collect()
    }

    /// Hands over what a proxy would, and returns its name.
    pub(crate) fn admit(&self, chain: &[String], session: &SignedDocument) -> String {
        let evidence = evidence(chain, session);
        let id = evidence.id().to_string();
        let headers = HeaderMap::from_iter([(ztka_core::EVIDENCE.clone(), HeaderValue::try_from(&id).unwrap())]);
        self.witness.admit(&headers, Bytes::copy_from_slice(evidence.bytes())).unwrap();
        id
    }

    /// Alice with a certificate of 30 days and a session of 12 hours.
    pub(crate) async fn alice(&self) -> String {
        self.admit(&self.chain(24 * 30).await, &self.session(12, &["ops"]).await)
    }

    /// From now on records wait; until the gate is opened by the sender.
    pub(crate) fn gate(&self, gate: Option<Gate>) {
        *self.journal.gate.lock().unwrap() = gate;
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        self.journal.journal.events()
    }

    /// The agent's stack; `answer` stands for the apiserver.
    pub(crate) fn stack(&self, answer: impl Fn() -> Reply + Clone + Send + Sync + 'static) -> Stack {
        let apiserver = service_fn(move |_: Access<Permitted, Body>| {
            let reply = answer();
            async { Ok::<_, BoxError>(reply) }
        });
        let recorder = Recorder::new(self.journal.clone(), Arc::new(self.clock.clone()));
        let refusals = Arc::new(recorder.clone());
        let stack = ServiceBuilder::new()
            .layer(ControlLayer::new(self.witness.clone(), self.documents.clone(), refusals.clone()))
            .layer(AuthenticateLayer::new(self.witness.clone(), refusals))
            .layer(AuditLayer::new(recorder))
            .layer(AuthorizeLayer::new(self.documents.engine().clone()).with_ports_watched())
            .layer(CutLayer::new(self.open.clone()))
            .service(apiserver);
        BoxCloneSyncService::new(stack)
    }

    /// The answer to a request that a proxy passes on with this evidence.
    pub(crate) async fn ask(&self, stack: &Stack, target: &str, evidence: &str) -> Reply {
        let upgrade = (target == EXEC).then_some(Upgrade::WebSocket);
        self.ask_to(stack, target, evidence, upgrade, "").await
    }

    /// The same with a protocol to change to, and one that is offered inside of it.
    pub(crate) async fn ask_to(
        &self,
        stack: &Stack,
        target: &str,
        evidence: &str,
        upgrade: Option<Upgrade>,
        offered: &str,
    ) -> Reply {
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(target)
            .header(&ztka_core::EVIDENCE, evidence)
            .header("audit-id", AuditId::generate().to_string())
            .header(&ztka_core::POLICY, "0.1")
            .header(&ztka_core::SOURCE, "192.0.2.7")
            .body(empty())
            .unwrap();
        let proxy: ProxyId = "p1".parse().unwrap();
        request.extensions_mut().insert(Verified::assertion(proxy));
        if let Some(upgrade) = upgrade {
            request.extensions_mut().insert(upgrade);
        }
        if !offered.is_empty() {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::try_from(offered).unwrap());
        }
        let mut stack = stack.clone();
        stack.ready().await.unwrap().call(request).await.unwrap()
    }

    /// Waits until `condition` holds, with a bound of ten seconds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}

pub(crate) fn evidence(chain: &[String], session: &SignedDocument) -> Evidence {
    let session = RawValue::from_string(String::from_utf8(session.to_wire()).unwrap()).unwrap();
    let chain = serde_json::to_string(chain).unwrap();
    Evidence::new(format!(r#"{{"chain":{chain},"session":{session}}}"#))
}

pub(crate) fn response(reply: Reply) -> Response<Body> {
    match reply {
        Reply::Response(response) => response,
        Reply::Upgraded { .. } => panic!("upgraded"),
    }
}

pub(crate) async fn text(reply: Reply) -> String {
    let body = response(reply).into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}
