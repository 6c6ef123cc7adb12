//! The listeners, over TLS on loopback: the first administrator, newcomers, feeds, reports, and those who are refused.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use kit::{DOMAIN, Kit, provider};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use ztka_api::{
    Client, ClientError, Code, CreateCluster, CreateCredential, CreateOrg, CreateToken, CreateUser, Endpoint,
};
use ztka_audit::{Batch, Chain, Event, Kind, Receipt, Record, Stage};
use ztka_controller::{
    Controller, FirstAdmin,
    serve::{Arrived, Sites},
};
use ztka_core::{AuditId, DocumentKind, OrgId, SignedDocument, Subject};
use ztka_pki::{
    Credential, CredentialSource, Enrolled, EnrolmentClient, EnrolmentToken, Purpose, SoftwareKey, TcpConnect,
    TrustSource, tls,
};

/// Nothing here takes longer unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

/// A controller with both of its listeners.
struct Served {
    kit: Kit,
    public: SocketAddr,
    internal: SocketAddr,
    admin: FirstAdmin,
}

impl Served {
    async fn new() -> Self {
        let kit = Kit::starting_at(&jiff::Timestamp::now().to_string()).await;
        let controller = kit.controller.clone();
        let admin = controller.admin_credential("root".parse().unwrap(), SignedDuration::from_hours(1)).await.unwrap();
        let servers = controller.server_credential(&controller.public_names()).await.unwrap();
        let own = controller.controller_credential().await.unwrap();
        let public = Sites::public(&controller, &CredentialSource::new(servers)).unwrap();
        let internal = Sites::internal(&controller, &CredentialSource::new(own)).unwrap();
        let (public, internal) = (listen(public).await, listen(internal).await);
        tokio::spawn(async move { controller.run(std::future::pending()).await });
        Self { kit, public, internal, admin }
    }

    fn api(&self, chain: &str, key: &str) -> Client {
        let endpoint = Endpoint {
            host: self.public.ip().to_string(),
            port: self.public.port(),
            server_name: name(&format!("api.{DOMAIN}")),
        };
        Client::new(endpoint, Arc::new(browser(&self.admin.ca_bundle, Some((chain, key)))))
    }

    fn admin_api(&self) -> Client {
        self.api(&self.admin.chain, self.admin.key.expose())
    }

    async fn enrol(&self, token: &str) -> (Enrolled, SoftwareKey) {
        let token: EnrolmentToken = token.parse().unwrap();
        let connect = Arc::new(TcpConnect::new(self.public.to_string()));
        let (server, clock) = (name(&format!("enroll.{DOMAIN}")), Arc::new(self.kit.clock.clone()));
        let client = EnrolmentClient::over_tls(token, connect, server, provider(), clock).unwrap();
        let key = SoftwareKey::generate(&provider()).unwrap();
        (client.enrol(&key).await.unwrap(), key)
    }

    fn member(&self, enrolled: &Enrolled, server: Purpose) -> Arc<ClientConfig> {
        let clock = Arc::new(self.kit.clock.clone());
        let trust = TrustSource::new(enrolled.trust.clone(), provider(), clock).unwrap();
        let source = CredentialSource::new(enrolled.credential.clone());
        tls::client(provider(), trust, Some(source), server, &[b"http/1.1"]).unwrap()
    }

    /// An organisation with a cluster, and a token for its agent.
    async fn cluster(&self) -> (OrgId, ztka_api::Cluster, String) {
        let api = self.admin_api();
        let org = api.create_org(&CreateOrg { name: "acme".parse().unwrap() }).await.unwrap().id;
        let create = CreateCluster { name: "test".parse().unwrap(), labels: Default::default() };
        let cluster = api.create_cluster(&org, &create).await.unwrap();
        let token = api.create_enrolment_token(&org, &cluster.id, &CreateToken::default()).await.unwrap();
        assert_eq!(token.enrol_at, "enroll.example.com:443");
        (org, cluster, token.token)
    }
}

async fn listen(sites: Sites) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(sites.serve(listener, false, std::future::pending()));
    address
}

fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// A client as anybody would write it, by the CA bundle alone.
fn browser(ca_bundle: &str, credential: Option<(&str, &str)>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_bundle.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_root_certificates(roots);
    match credential {
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
        None => config.with_no_client_auth(),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn ask(
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    server: &str,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let tcp = TcpStream::connect(to).await?;
    let tls = TlsConnector::from(tls).connect(name(server), tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
    let connection = tokio::spawn(connection);
    match sender.send_request(request).await {
        Ok(response) => Ok(response),
        // Why the connection ended says more.
        Err(error) => Err(connection.await?.err().unwrap_or(error).into()),
    }
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "x").body(Full::default()).unwrap()
}

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post(path).header("host", "x").body(Full::new(body.into())).unwrap()
}

/// Lines of a feed.
struct Feed {
    body: Incoming,
    held: Vec<u8>,
}

impl Feed {
    fn new(response: Response<Incoming>) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/x-ndjson");
        Self { body: response.into_body(), held: Vec::new() }
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = timeout(BOUND, self.body.frame()).await.unwrap()?;
            self.held.extend_from_slice(frame.ok()?.data_ref().unwrap());
        }
    }

    /// Documents up to the next bookmark.
    async fn documents(&mut self) -> Vec<SignedDocument> {
        let mut documents = Vec::new();
        loop {
            let line = self.line().await.unwrap();
            if line["bookmark"] == true {
                return documents;
            }
            if line["document"].is_null() {
                continue;
            }
            documents.push(SignedDocument::from_wire(line["document"].to_string().as_bytes()).unwrap());
        }
    }

    /// What the next line about proxies says.
    async fn proxies(&mut self) -> Value {
        loop {
            let line = self.line().await.unwrap();
            if !line["proxies"].is_null() {
                return line["proxies"].clone();
            }
        }
    }

    /// The next document of this kind, whatever comes before it.
    async fn next(&mut self, kind: DocumentKind) -> SignedDocument {
        loop {
            let line = self.line().await.unwrap();
            if line["document"].is_null() {
                continue;
            }
            let document = SignedDocument::from_wire(line["document"].to_string().as_bytes()).unwrap();
            if document.header().series.kind == kind {
                return document;
            }
        }
    }
}

fn kinds(documents: &[SignedDocument]) -> Vec<(DocumentKind, Option<OrgId>)> {
    let mut kinds: Vec<_> = documents
        .iter()
        .map(|document| document.header().series.clone())
        .map(|series| (series.kind, series.org))
        .collect();
    kinds.sort();
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_administrator_makes_an_organisation_whose_users_get_kubeconfigs() {
    let served = Served::new().await;
    let api = served.admin_api();
    let me = api.whoami().await.unwrap();
    assert_eq!(me.user.name.as_str(), "root");
    let (org, cluster, _) = served.cluster().await;
    let alice = api.create_user(&org, &CreateUser { name: "alice".parse().unwrap(), admin: None }).await.unwrap();
    let key = SoftwareKey::generate(&provider()).unwrap();
    let asked = CreateCredential { csr: key.csr_pem().unwrap(), life_seconds: Some(600) };
    let issued = api.create_credential(&org, &alice.id, &asked).await.unwrap();
    assert_eq!(issued.access.clusters, [], "nothing is bound yet");
    assert_eq!(issued.access.front, "kube.example.com:443");
    let binding = serde_json::json!({
        "name": "alice-looks", "role": "view", "subjects": [{"user": "alice"}],
        "clusters": {"names": ["test"]}, "scope": {"namespaces": ["shop"]},
    });
    api.create_binding(&org, &serde_json::from_value(binding).unwrap()).await.unwrap();

    let alices = served.api(&issued.chain, &key.to_pem());
    let me = alices.whoami().await.unwrap();
    assert_eq!((me.user.id, me.org.id, me.credential), (alice.id.clone(), org.clone(), issued.credential.id.clone()));
    let access = alices.access(&org, &alice.id).await.unwrap();
    let reachable = &access.clusters[0];
    assert_eq!((&reachable.id, reachable.name.as_str()), (&cluster.id, "test"));
    assert_eq!(reachable.server_name, format!("{}.kube.{DOMAIN}", cluster.id));
    assert_eq!(alices.clusters(&org).await.unwrap().len(), 1);
    // She gets another credential by herself, which lasts no longer than her session.
    let again = CreateCredential { life_seconds: Some(3600), ..asked };
    let refused = alices.create_credential(&org, &alice.id, &again).await;
    assert!(
        matches!(refused, Err(ClientError::Problem(problem)) if problem.code() == Code::Refused),
        "a key is one credential's"
    );
    let csr = SoftwareKey::generate(&provider()).unwrap().csr_pem().unwrap();
    let again = CreateCredential { csr, ..again };
    let again = alices.create_credential(&org, &alice.id, &again).await.unwrap();
    assert!(again.credential.not_after <= issued.credential.not_after);
    assert!(
        matches!(alices.users(&org).await, Err(ClientError::Problem(problem)) if problem.code() == Code::Forbidden)
    );

    // What was done is on record, and so is the refusal.
    let query = ztka_api::EventQuery { limit: Some(50), ..Default::default() };
    let events = api.events(&org, &query).await.unwrap();
    assert!(events.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first");
    let said = |event: &ztka_api::Event| {
        let event = &event.event;
        (event["user"]["username"].clone(), event["requestURI"].clone(), event["responseStatus"]["code"].clone())
    };
    let said: Vec<_> = events.iter().map(said).collect();
    assert!(said.contains(&("alice".into(), format!("/api/v1/orgs/{org}/users").into(), 403.into())), "{said:?}");
    assert!(said.contains(&("root".into(), format!("/api/v1/orgs/{org}/bindings").into(), 201.into())), "{said:?}");

    // Disabled: refused with the next request, on whatever connection.
    api.disable_user(&org, &alice.id).await.unwrap();
    assert!(
        matches!(alices.whoami().await, Err(ClientError::Problem(problem)) if problem.code() == Code::Unauthenticated)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_enrols_follows_renews_reports_and_goes_with_its_cluster() {
    let served = Served::new().await;
    let (org, cluster, token) = served.cluster().await;
    let (enrolled, key) = served.enrol(&token).await;
    assert!(enrolled.document.is_some(), "newcomers are given the trust document");
    let Subject::Agent { org: of, cluster: at, .. } = &enrolled.id.subject else { panic!("not an agent") };
    assert_eq!((of, at), (&org, &cluster.id));
    let tls = served.member(&enrolled, Purpose::Servers);
    let agents = format!("agents.{DOMAIN}");

    let feed = ask(served.public, tls.clone(), &agents, get("/v1/documents?from=0")).await.unwrap();
    let mut feed = Feed::new(feed);
    let held = feed.documents().await;
    let expected = [
        (DocumentKind::Trust, None),
        (DocumentKind::Policy, Some(org.clone())),
        (DocumentKind::Revocations, None),
        (DocumentKind::Revocations, Some(org.clone())),
    ];
    assert_eq!(kinds(&held), expected, "of its own organisation, and no sessions");
    for document in held {
        document.accept(&enrolled.trust, None, jiff::Timestamp::now()).unwrap();
    }
    // A change is there at once.
    let api = served.admin_api();
    let role =
        serde_json::json!({"name": "r", "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    api.create_role(&org, &serde_json::from_value(role).unwrap()).await.unwrap();
    feed.next(DocumentKind::Policy).await;

    let beyond = ask(served.public, tls.clone(), &agents, get("/v1/documents?from=999999")).await.unwrap();
    assert_eq!(beyond.status(), StatusCode::GONE);

    // Connected: the token's answer is not given again, not even to the same key.
    let body = serde_json::json!({"token": token, "csr": key.csr_pem().unwrap()}).to_string();
    let no_certificate = Arc::new(browser(&served.admin.ca_bundle, None));
    let again = ask(served.public, no_certificate, &format!("enroll.{DOMAIN}"), post("/v1/enrol", body)).await.unwrap();
    assert_eq!(again.status(), StatusCode::CONFLICT);

    let new_key = SoftwareKey::generate(&provider()).unwrap();
    let body = serde_json::json!({"csr": new_key.csr_pem().unwrap()}).to_string();
    let renewed = ask(served.public, tls.clone(), &agents, post("/v1/renew", body)).await.unwrap();
    assert_eq!(renewed.status(), StatusCode::OK);
    let renewed: Value = serde_json::from_slice(&renewed.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!(renewed["id"], enrolled.id.to_string());

    receipts(&served, &tls, &enrolled.credential, &org, &cluster).await;

    api.delete_cluster(&org, &cluster.id).await.unwrap();
    // The feed comes to its end, and nothing begins again.
    while feed.line().await.is_some() {}
    let refused = ask(served.public, tls, &agents, get("/v1/documents?from=0")).await.unwrap_err();
    assert!(format!("{refused:?}").contains("Certificate"), "{refused:?}");
}

/// Receipts of an agent whose proxy says nothing.
async fn receipts(
    served: &Served,
    tls: &Arc<ClientConfig>,
    credential: &Credential,
    org: &OrgId,
    cluster: &ztka_api::Cluster,
) {
    let agents = format!("agents.{DOMAIN}");
    let mut event = Event::new(AuditId::generate(), Stage::RequestReceived, jiff::Timestamp::now());
    event.annotations.set("org", org.as_str());
    event.annotations.set("cluster", cluster.id.as_str());
    let start = Chain::start();
    let record = Record {
        position: Default::default(),
        sequence: start.next,
        previous: start.head,
        kind: Kind::Open,
        id: event.audit_id,
        payload: serde_json::to_string(&Receipt::of(&event)).unwrap(),
    };
    let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    let unsigned = batch.encode();
    let answer = ask(served.public, tls.clone(), &agents, post("/v1/receipts", unsigned)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "unsigned");
    let signed = batch.signed(|message| Ok(credential.sign(message)?)).unwrap();
    let signed = signed.encode();
    let answer = ask(served.public, tls.clone(), &agents, post("/v1/receipts", signed)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let until = jiff::Timestamp::now() + SignedDuration::from_mins(1);
    let query = ztka_api::FindingQuery { since: None, until: Some(until) };
    let findings = served.admin_api().findings(org, &query).await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!((findings[0].kind.as_str(), findings[0].audit_id), ("receipt-without-event", Some(event.audit_id)));
    let query = ztka_api::FindingQuery { since: None, until: None };
    assert_eq!(served.admin_api().findings(org, &query).await.unwrap(), [], "it may still be on its way");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_joins_follows_everything_and_reports_events() {
    let served = Served::new().await;
    let (org, cluster, _) = served.cluster().await;
    let api = served.admin_api();
    let join = api.create_proxy(&CreateToken { ttl_seconds: Some(60), ..CreateToken::default() }).await.unwrap();
    let (enrolled, _) = served.enrol(&join.token).await;
    assert_eq!(enrolled.id.subject, Subject::Proxy(join.proxy.unwrap()));
    assert!(api.proxies().await.unwrap()[0].not_after.is_some());
    let tls = served.member(&enrolled, Purpose::Controllers);
    let controllers = format!("controllers.{DOMAIN}");

    let feed = ask(served.internal, tls.clone(), &controllers, get("/v1/documents")).await.unwrap();
    let mut feed = Feed::new(feed);
    let held = kinds(&feed.documents().await);
    assert!(held.contains(&(DocumentKind::Session, Some(OrgId::installation()))), "{held:?}");
    assert!(held.contains(&(DocumentKind::Policy, Some(org.clone()))), "{held:?}");

    // A user's session is known within moments, and so is its end.
    let alice = api.create_user(&org, &CreateUser { name: "alice".parse().unwrap(), admin: None }).await.unwrap();
    let key = SoftwareKey::generate(&provider()).unwrap();
    let asked = CreateCredential { csr: key.csr_pem().unwrap(), life_seconds: None };
    let issued = api.create_credential(&org, &alice.id, &asked).await.unwrap();
    let session = |document: SignedDocument| {
        assert_eq!(document.header().series.subject, issued.credential.id.as_str());
        let verified = document.accept(&enrolled.trust, None, jiff::Timestamp::now()).unwrap();
        verified.body::<ztka_core::Session>().unwrap()
    };
    let active = session(feed.next(DocumentKind::Session).await);
    assert_eq!((active.user.clone(), active.name.as_str()), (alice.id.clone(), "alice"));
    api.disable_user(&org, &alice.id).await.unwrap();
    assert!(session(feed.next(DocumentKind::Session).await).active_until < active.active_until);

    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, jiff::Timestamp::now());
    event.annotations.set("org", org.as_str());
    event.annotations.set("cluster", cluster.id.as_str());
    let start = Chain::start();
    let record = Record {
        position: Default::default(),
        sequence: start.next,
        previous: start.head,
        kind: Kind::Close,
        id: event.audit_id,
        payload: String::from_utf8(event.to_json()).unwrap(),
    };
    let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    let batch = batch.encode();
    let query = ztka_api::EventQuery { cluster: Some(cluster.id.clone()), limit: Some(1), ..Default::default() };
    let mut following = api.follow_events(&org, &query).await.unwrap();
    for known in [0, 1] {
        let request = post("/v1/events", batch.clone());
        let answer = ask(served.internal, tls.clone(), &controllers, request).await.unwrap();
        let taken: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(taken["known"], known);
    }
    let listed = api.events(&org, &query).await.unwrap();
    assert_eq!(listed[0].event["auditID"], event.audit_id.to_string());
    let seen = timeout(BOUND, following.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(seen, listed[0]);

    // The certificate of the users' port, which names every cluster.
    let body = serde_json::json!({"csr": key.csr_pem().unwrap()}).to_string();
    let answer = ask(served.internal, tls, &controllers, post("/v1/server-certificate", body)).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let chain: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    Credential::from_pem(chain["chain"].as_str().unwrap().as_bytes(), &key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_another_purpose_end_in_an_alert() {
    let served = Served::new().await;
    let (_, _, token) = served.cluster().await;
    let join = served.admin_api().create_proxy(&CreateToken::default()).await.unwrap();
    let (agent, proxy) = (served.enrol(&token).await.0, served.enrol(&join.token).await.0);
    let admin = Arc::new(browser(&served.admin.ca_bundle, Some((&served.admin.chain, served.admin.key.expose()))));
    let nobody = Arc::new(browser(&served.admin.ca_bundle, None));
    let as_agent = served.member(&agent, Purpose::Servers);
    let as_proxy = served.member(&proxy, Purpose::Servers);
    let (agents, api) = (format!("agents.{DOMAIN}"), format!("api.{DOMAIN}"));
    for (who, tls, server) in [
        ("a user", &admin, &agents),
        ("nobody", &nobody, &agents),
        ("a proxy", &as_proxy, &agents),
        ("an agent", &as_agent, &api),
        ("a proxy", &as_proxy, &api),
    ] {
        let refused = ask(served.public, tls.clone(), server, get("/v1/documents")).await;
        let refused = refused.map(|response| response.status()).unwrap_err();
        let text = format!("{refused:?}");
        assert!(text.contains("AlertReceived"), "{who} at {server}: {text}");
    }
    let as_agent = served.member(&agent, Purpose::Controllers);
    let refused = ask(served.internal, as_agent, &format!("controllers.{DOMAIN}"), get("/v1/documents")).await;
    assert!(format!("{:?}", refused.unwrap_err()).contains("AlertReceived"));
    // Without a certificate the API says what to do, and a name that nobody has gets no answer.
    let answer = ask(served.public, nobody.clone(), &api, get("/api/v1/whoami")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    assert!(ask(served.public, nobody, &format!("controllers.{DOMAIN}"), get("/")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_agents_race_for_a_token_and_one_has_it() {
    let served = Served::new().await;
    let (org, _, token) = served.cluster().await;
    let router = served.kit.controller.enrol();
    let racers = (0..50).map(|_| {
        let csr = SoftwareKey::generate(&provider()).unwrap().csr_pem().unwrap();
        let body = serde_json::json!({"token": token, "csr": csr}).to_string();
        let router = router.clone();
        tokio::spawn(async move { kit::call(router, None, "POST", "/v1/enrol", &body).await.0 })
    });
    let mut statuses = Vec::new();
    for racer in racers.collect::<Vec<_>>() {
        statuses.push(racer.await.unwrap());
    }
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::OK).count(), 1);
    assert_eq!(statuses.iter().filter(|status| **status == StatusCode::CONFLICT).count(), 49);
    // All of it is on record.
    let api = served.admin_api();
    let mut query = ztka_api::EventQuery { limit: Some(200), ..Default::default() };
    timeout(BOUND, async {
        loop {
            query.decision = Some("deny".into());
            let refused = api.events(&org, &query).await.unwrap();
            query.decision = Some("allow".into());
            let allowed = api.events(&org, &query).await.unwrap();
            let enrol = |events: &[ztka_api::Event]| events.iter().filter(|e| e.event["verb"] == "enrol").count();
            if (enrol(&refused), enrol(&allowed)) == (49, 1) {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_proxy_has_accepted_are_served_too() {
    let kit = Kit::starting_at(&jiff::Timestamp::now().to_string()).await;
    let controller: Controller = kit.controller.clone();
    let servers = controller.server_credential(&controller.public_names()).await.unwrap();
    let sites = Sites::public(&controller, &CredentialSource::new(servers)).unwrap();
    let (passed, arrived) = mpsc::channel::<Arrived>(1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let arrived = futures_util::stream::unfold(arrived, |mut arrived| async { Some((arrived.recv().await?, arrived)) });
    let served = tokio::spawn(sites.serve_arrived(arrived, async { drop(stopped.await) }));
    let (near, far) = tokio::io::duplex(64 << 10);
    passed.send(Arrived { io: Box::new(far), client: Some("192.0.2.1:1".parse().unwrap()) }).await.unwrap();
    let tls = Arc::new(browser(&controller.hierarchy().root_pem(), None));
    let tls = TlsConnector::from(tls).connect(name(&format!("api.{DOMAIN}")), near).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let answer = sender.send_request(get("/api/v1/whoami")).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    drop(stop);
    timeout(BOUND, served).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_hears_which_proxies_there_are() {
    let served = Served::new().await;
    let (_, _, token) = served.cluster().await;
    let (agent, _) = served.enrol(&token).await;
    let tls = served.member(&agent, Purpose::Servers);
    let feed = ask(served.public, tls, &format!("agents.{DOMAIN}"), get("/v1/documents?from=0")).await.unwrap();
    let mut agents = Feed::new(feed);

    let api = served.admin_api();
    let controllers = format!("controllers.{DOMAIN}");
    let mut told = Vec::new();
    let mut feeds = Vec::new();
    for (zone, address) in [("eu-1a", "p1.example.com:443"), ("not a zone", "nowhere")] {
        let join = api.create_proxy(&CreateToken { ttl_seconds: Some(60), ..CreateToken::default() }).await.unwrap();
        let (enrolled, _) = served.enrol(&join.token).await;
        let tls = served.member(&enrolled, Purpose::Controllers);
        let mut request = get("/v1/documents");
        request.headers_mut().insert("ztka-proxy-zone", zone.parse().unwrap());
        request.headers_mut().insert("ztka-proxy-address", address.parse().unwrap());
        // Whose id it is, the certificate says.
        request.headers_mut().insert("ztka-proxy-id", "p0".parse().unwrap());
        let mut feed = Feed::new(ask(served.internal, tls, &controllers, request).await.unwrap());
        told.push(join.proxy.unwrap().to_string());
        let all = agents.proxies().await;
        // Proxies hear of each other too; this one may have begun before it was known itself.
        while feed.proxies().await != all {}
        let ids: Vec<_> = all.as_array().unwrap().iter().map(|proxy| proxy["id"].as_str().unwrap()).collect();
        let mut known = told.clone();
        known.sort();
        assert_eq!(ids, known);
        let own = all.as_array().unwrap().iter().find(|proxy| proxy["id"] == *told.last().unwrap()).unwrap();
        match told.len() {
            1 => assert_eq!((own["zone"].as_str(), own["address"].as_str()), (Some(zone), Some(address))),
            _ => assert!(own["zone"].is_null() && own["address"].is_null(), "what cannot be read is left out: {own}"),
        }
        feeds.push(feed);
    }
    // Who comes later is told at once.
    let (tls, agents) = (served.member(&agent, Purpose::Servers), format!("agents.{DOMAIN}"));
    let feed = ask(served.public, tls, &agents, get("/v1/documents")).await.unwrap();
    assert_eq!(Feed::new(feed).proxies().await.as_array().unwrap().len(), 2);
}
