//! A real cluster with the agent's own account, policies, and the end of the agent's stack in front of it.
#![allow(dead_code, reason = "each suite uses a part of it")]

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower::{Layer as _, Service};
use ztka_agent::{
    Pool, Upstream,
    accounts::{AGENT_RBAC, AgentToken, Client, Mode, ServiceAccounts, Settings},
    selfreview::SelfReviewLayer,
};
use ztka_authz::{AuthorizeLayer, Engine};
use ztka_core::{
    AuditId, Authenticated, Body, Clock, DecisionSlot, DocumentHeader, DocumentKind, Evidence, Identity, KeyId,
    ManualClock, Principal, Recorded, Reply, Revision, SeriesKey, Session, SignatureCheck, SignedDocument, Verified,
    empty,
};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for};

pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) engine: Engine,
    pub(crate) clock: ManualClock,
    pub(crate) pool: Pool,
    pub(crate) token_file: PathBuf,
    pub(crate) accounts: ServiceAccounts,
    settings: Settings,
    version: u64,
}

struct Any;

impl SignatureCheck for Any {
    fn is_signed(&self, _: &KeyId, _: &[u8], _: &[u8]) -> bool {
        true
    }
}

impl Stage {
    pub(crate) async fn set() -> Result<Self> {
        Self::set_with(AGENT_RBAC, Settings::default()).await
    }

    /// With other permissions and settings of the agent.
    pub(crate) async fn set_with(rbac: &str, settings: Settings) -> Result<Self> {
        let cluster = Cluster::level1(Options::default()).await?;
        cluster.kubectl().apply(rbac).await?;
        for namespace in ["dev", "web"] {
            cluster.kubectl().ok(["create", "namespace", namespace]).await?;
        }
        let token_file = token(&cluster, "ztka-system", "ztka-agent").await?;
        let pool = Pool::new(&cluster.url().parse()?, tls(&cluster)?)?;
        let clock = ManualClock::at(Timestamp::now());
        let engine = Engine::new(Arc::new(clock.clone()));
        let accounts = service_accounts(&pool, &token_file, &engine, &clock, &settings);
        Ok(Self { cluster, engine, clock, pool, token_file, accounts, settings, version: 0 })
    }

    /// Another agent of the same cluster.
    pub(crate) fn other_agent(&self, token_file: &PathBuf) -> ServiceAccounts {
        service_accounts(&self.pool, token_file, &self.engine, &self.clock, &self.settings)
    }

    /// Another one in another mode.
    pub(crate) fn agent_in(&self, mode: Mode) -> ServiceAccounts {
        let settings = Settings { mode, ..self.settings.clone() };
        service_accounts(&self.pool, &self.token_file, &self.engine, &self.clock, &settings)
    }

    /// Puts a policy in force, with these bindings: subject, role, scope.
    pub(crate) fn policy(&mut self, bindings: &[(Value, &str, Value)]) -> Result<()> {
        let binding = |(number, (subject, role, scope)): (usize, &(Value, &str, Value))| {
            json!({
                "name": format!("b{number}"), "subjects": [subject], "role": role,
                "clusters": {"all": true}, "scope": scope,
            })
        };
        let bindings: Vec<_> = bindings.iter().enumerate().map(binding).collect();
        self.bindings(bindings)
    }

    /// Puts a policy in force with these bindings as they are written down.
    pub(crate) fn bindings(&mut self, bindings: Vec<Value>) -> Result<()> {
        self.document(&json!({"clusters": [{"id": "c1", "name": "prod"}], "bindings": bindings}))
    }

    /// Puts this policy in force.
    pub(crate) fn document(&mut self, body: &Value) -> Result<()> {
        self.version += 1;
        let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse()?), subject: String::new() };
        let revision = Revision { epoch: 1, version: self.version };
        let header = DocumentHeader { series, revision, issued: self.clock.now(), expires: Timestamp::MAX };
        let sign = |_: &[u8]| Ok::<_, serde_json::Error>((KeyId(String::new()), Vec::new()));
        let document = SignedDocument::sign(header, body, sign)?.accept(&Any, None, self.clock.now())?;
        self.engine.apply(&document)?;
        Ok(())
    }

    /// The apiserver's answer to a GET under the token that `who` gets for `namespace`.
    pub(crate) async fn get(
        &self,
        who: &Principal,
        namespace: Option<&str>,
        path: &str,
    ) -> Result<(StatusCode, Value)> {
        let mut request = Request::get(path).body(empty())?;
        self.accounts.acting(who, namespace).await?.apply(request.headers_mut());
        let response = self.pool.send(request).await?;
        let code = response.status();
        let bytes = response.into_body().collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        Ok((code, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    /// Names of objects of a kind that belong to the user, in all namespaces.
    pub(crate) async fn objects(&self, user: &str, kind: &str) -> Result<Vec<String>> {
        let selector = format!("ztka.dev/user={user}");
        let path = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {end}";
        let names = self.cluster.kubectl().ok(["get", kind, "-A", "-l", &selector, "-o", path]).await?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// kubectl through authorization, self-reviews and upstream, as `who`; no proxy, no tunnel.
    pub(crate) async fn kubectl_as(&self, who: &Principal) -> Result<Kubectl> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let accounts = Arc::new(self.accounts.clone());
        let client = Client::new(self.pool.clone(), AgentToken::file(&self.token_file));
        let inner = Upstream::new(self.pool.clone(), accounts.clone());
        let inner = SelfReviewLayer::new(self.engine.clone(), accounts, client).layer(inner);
        let stack = AuthorizeLayer::new(self.engine.clone()).layer(inner);
        let kubeconfig = self.cluster.slot().folder().join(format!("{}.kubeconfig", who.name()));
        std::fs::write(&kubeconfig, kubeconfig_of(address))?;
        let who = who.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (stack, who) = (stack.clone(), who.clone());
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let (mut stack, who) = (stack.clone(), who.clone());
                    async move {
                        let (head, body) = request.into_parts();
                        let body = Body::new(body.map_err(Into::into));
                        let identity =
                            Identity::new(Verified::assertion(who), "c1".parse().unwrap(), Evidence::new("none"));
                        let access = Authenticated::assertion(identity, &head, body);
                        let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default());
                        match stack.call(access).await {
                            Ok(Reply::Response(response)) => Ok::<_, Infallible>(response),
                            _ => Ok(Response::builder().status(500).body(empty()).unwrap()),
                        }
                    }
                });
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), service));
            }
        });
        Kubectl::new(kubeconfig).await
    }
}

fn kubeconfig_of(address: SocketAddr) -> String {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    })
    .to_string()
}

fn service_accounts(
    pool: &Pool,
    token_file: &PathBuf,
    engine: &Engine,
    clock: &ManualClock,
    settings: &Settings,
) -> ServiceAccounts {
    let client = Client::new(pool.clone(), AgentToken::file(token_file));
    let cluster = "c1".parse().unwrap();
    ServiceAccounts::new(client, engine.clone(), cluster, Arc::new(clock.clone()), settings.clone())
}

/// A token of a ServiceAccount, in a file.
pub(crate) async fn token(cluster: &Cluster, namespace: &str, name: &str) -> Result<PathBuf> {
    let kubectl = cluster.kubectl();
    let token = wait_for("a token", || kubectl.ok(["create", "token", name, "-n", namespace])).await?;
    let file = cluster.slot().folder().join(format!("{namespace}-{name}.token"));
    std::fs::write(&file, token)?;
    Ok(file)
}

fn tls(cluster: &Cluster) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(cluster.ca_path()).context("the cluster's CA")? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

pub(crate) fn user(id: &str, name: &str, groups: &[&str]) -> Principal {
    let session = Session {
        user: id.parse().unwrap(),
        credential: "k1".parse().unwrap(),
        name: name.parse().unwrap(),
        groups: groups.iter().map(|group| group.parse().unwrap()).collect(),
        attributes: ztka_core::Attributes::new(),
        active_until: Timestamp::MAX,
    };
    Principal::new("acme".parse().unwrap(), session)
}
