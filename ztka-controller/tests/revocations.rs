//! Who may revoke what, what the API makes of it, and the CRLs.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use std::sync::Arc;

use async_trait::async_trait;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use kit::{Kit, call, certificate_of, csr};
use serde_json::{Value, json};
use tower::ServiceExt as _;
use ztka_controller::{Controller, store::Instance};
use ztka_core::{InstanceId, OrgId, ProxyId, Subject, Verified};
use ztka_identity::{AdminRole, Caller};
use ztka_pki::{Credential, CredentialSource, KeyError, KeyKind, KeyName, KeyStore, Peer, PublicKey, Purpose, Signer};

async fn revoke(kit: &Kit, by: &Caller, org: Option<&OrgId>, kind: &str, name: &str) -> (StatusCode, Value) {
    let path = org.map_or("/api/v1/revocations".to_owned(), |org| format!("/api/v1/orgs/{org}/revocations"));
    let body = json!({"kind": kind, "name": name}).to_string();
    kit.call(Some(certificate_of(by)), "POST", &path, &body).await
}

/// A certificate of a new session of theirs: those of before have ended with time.
async fn fresh(kit: &Kit, who: &Caller) -> Verified<Peer> {
    let directory = kit.controller.directory();
    let credential = directory.issue_credential(&who.user.id, SignedDuration::from_hours(1)).await.unwrap();
    certificate_of(&directory.whoami(&who.user.id, &credential.id).await.unwrap())
}

/// A certificate that the controller has issued to somebody, as the acceptor sees it.
async fn certificate(kit: &Kit, owner: &Caller, admin: &Caller) -> Verified<Peer> {
    use rustls_pki_types::{CertificateDer, pem::PemObject as _};
    let path = format!("/api/v1/orgs/{}/users/{}/credentials", owner.user.org, owner.user.id);
    let body = format!(r#"{{"csr": {}}}"#, csr().1);
    let (status, issued) = kit.call(Some(certificate_of(admin)), "POST", &path, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{issued}");
    let chain = issued.get("chain").and_then(Value::as_str).unwrap().as_bytes();
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().unwrap();
    kit.controller.trust().identify(Purpose::Users, &chain).unwrap()
}

#[tokio::test]
async fn administrators_revoke_what_is_theirs_and_nothing_else() {
    let kit = Kit::new().await;
    let (acme, other) = (kit.org("acme").await.id, kit.org("other").await.id);
    let root = kit.system_admin().await;
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let foreign = kit.user(&other, "boss", Some(AdminRole::OrgAdmin)).await;
    let alice = certificate(&kit, &kit.user(&acme, "alice", None).await, &boss).await;

    for (by, org, kind, name, status) in [
        (&foreign, Some(&other), "serial", alice.serial.as_str(), 404),
        (&boss, Some(&acme), "serial", "1f", 404),
        (&boss, Some(&acme), "serial", "1F", 400),
        (&boss, Some(&acme), "serial", "001f", 400),
        (&boss, Some(&acme), "serial", "1", 400),
        (&boss, Some(&acme), "instance", "i1", 404),
        (&boss, Some(&acme), "proxy", "p1", 400),
        (&boss, Some(&acme), "org", "o1", 400),
        (&boss, Some(&acme), "planet", "p1", 400),
        (&boss, None, "serial", alice.serial.as_str(), 403),
        (&root, None, "instance", "i1", 400),
        (&root, None, "org", "onone", 404),
        (&root, None, "org", "installation", 409),
        (&root, None, "proxy", "pnone", 404),
    ] {
        let (got, answer) = revoke(&kit, by, org, kind, name).await;
        assert_eq!(got.as_u16(), status, "{kind} {name}: {answer}");
    }
    kit.controller.publish_due().await.unwrap();
    assert_eq!(kit.call(Some(alice.clone()), "GET", "/api/v1/whoami", "").await.0, StatusCode::OK);

    let (status, revoked) = revoke(&kit, &boss, Some(&acme), "serial", &alice.serial).await;
    assert_eq!((status, revoked.get("ends")), (StatusCode::CREATED, Some(&json!(alice.not_after))), "{revoked}");
    kit.controller.publish_due().await.unwrap();
    let (status, refused) = kit.call(Some(alice.clone()), "GET", "/api/v1/whoami", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{refused}");
    // Her other certificates count, and it is listed until it has expired.
    let list = format!("/api/v1/orgs/{acme}/revocations");
    let listed = async || kit.call(Some(certificate_of(&root)), "GET", &list, "").await.1;
    assert_eq!(listed().await.as_array().unwrap().len(), 1);
    assert!(kit.controller.trust().is_revoked(&alice));

    // A whole organisation, which its own administrator cannot take back.
    assert_eq!(revoke(&kit, &root, None, "org", acme.as_str()).await.0, StatusCode::CREATED);
    kit.controller.publish_due().await.unwrap();
    assert_eq!(kit.call(Some(certificate_of(&boss)), "GET", "/api/v1/whoami", "").await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(kit.call(Some(certificate_of(&foreign)), "GET", "/api/v1/whoami", "").await.0, StatusCode::OK);
    let restore = format!("/api/v1/revocations/orgs/{acme}");
    assert_eq!(kit.call(Some(certificate_of(&foreign)), "DELETE", &restore, "").await.0, StatusCode::FORBIDDEN);
    assert_eq!(kit.call(Some(certificate_of(&root)), "DELETE", &restore, "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(kit.call(Some(certificate_of(&root)), "DELETE", &restore, "").await.0, StatusCode::NOT_FOUND);
    kit.controller.publish_due().await.unwrap();
    assert_eq!(kit.call(Some(certificate_of(&boss)), "GET", "/api/v1/whoami", "").await.0, StatusCode::OK);
}

/// The lists as anybody gets them: number and length of each by its issuer.
async fn crls(controller: &Controller) -> Vec<(String, u64, usize)> {
    let (status, all) = call(controller.api(), None, "GET", "/crl", "").await;
    assert_eq!(status, StatusCode::OK);
    let mut lists = Vec::new();
    for crl in all.as_array().unwrap() {
        let path = crl.get("path").and_then(Value::as_str).unwrap();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let answer = controller.crls().oneshot(request).await.unwrap();
        assert_eq!(answer.headers().get("content-type").unwrap(), "application/pkix-crl");
        let der = answer.into_body().collect().await.unwrap().to_bytes();
        let read = webpki::BorrowedCertRevocationList::from_der(&der).unwrap();
        let (issuer, number) = (crl.get("issuer").and_then(Value::as_str).unwrap(), crl.get("number").unwrap());
        lists.push((issuer.to_owned(), number.as_u64().unwrap(), read.into_iter().count()));
    }
    lists
}

#[tokio::test]
async fn each_authority_has_a_list_that_is_made_anew_when_it_says_something_new_or_is_half_over() {
    let kit = Kit::new().await;
    let (acme, root) = (kit.org("acme").await.id, kit.system_admin().await);
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let alice = kit.user(&acme, "alice", None).await;
    certificate(&kit, &alice, &boss).await;
    // One in sixteen serial numbers begins with the digit 0; this one does.
    let alice = loop {
        let issued = certificate(&kit, &alice, &boss).await;
        if issued.serial.starts_with('0') {
            break issued;
        }
    };
    let made = kit.controller.refresh_crls().await.unwrap();
    // Six purposes, and agents and users of two organisations: the installation's own has administrators.
    assert!(made >= 8, "{made}");
    assert!(crls(&kit.controller).await.iter().all(|(_, number, entries)| (*number, *entries) == (1, 0)));
    assert_eq!(kit.controller.refresh_crls().await.unwrap(), 0, "nothing is new");
    // Another controller serves the same lists, and makes none.
    let another = kit.another().await;
    assert_eq!(another.refresh_crls().await.unwrap(), 0);
    assert_eq!(crls(&another).await, crls(&kit.controller).await);

    let (status, revoked) = revoke(&kit, &boss, Some(&acme), "serial", &alice.serial).await;
    assert_eq!(status, StatusCode::CREATED, "{revoked}");
    assert_eq!(another.refresh_crls().await.unwrap(), 1, "one authority's");
    assert_eq!(kit.controller.refresh_crls().await.unwrap(), 0);
    let lists = crls(&kit.controller).await;
    let new: Vec<_> = lists.iter().filter(|(_, number, _)| *number == 2).collect();
    assert!(matches!(new.as_slice(), [(_, 2, 1)]), "{lists:?}");

    // A whole organisation: its certificates, and its authorities in the lists of those above.
    revoke(&kit, &root, None, "org", acme.as_str()).await;
    let made = kit.controller.refresh_crls().await.unwrap();
    assert_eq!(
        made, 3,
        "of all agents' and all users' authorities, and of acme's users' with alice's other certificate"
    );
    kit.clock.advance(SignedDuration::from_hours(13));
    assert_eq!(kit.controller.refresh_crls().await.unwrap(), lists.len(), "half over");
    kit.clock.advance(SignedDuration::from_hours(24 * 31));
    kit.controller.refresh_crls().await.unwrap();
    let left: usize = crls(&kit.controller).await.iter().map(|(.., entries)| entries).sum();
    assert_eq!(left, 2, "alice's certificates have expired; the authorities have not");

    let unknown = Request::get("/crl/00.crl").body(Body::empty()).unwrap();
    assert_eq!(kit.controller.crls().oneshot(unknown).await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn whose_renewal_is_overdue_is_shown() {
    let kit = Kit::new().await;
    let (acme, root) = (kit.org("acme").await.id, kit.system_admin().await);
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let path = format!("/api/v1/orgs/{acme}/clusters");
    let (_, made) = kit.call(Some(certificate_of(&boss)), "POST", &path, r#"{"name": "dev"}"#).await;
    let cluster = made.get("id").and_then(Value::as_str).unwrap().parse().unwrap();
    let (issued, day) = (kit.controller_now(), SignedDuration::from_hours(24));
    let instance = Instance {
        id: InstanceId::generate(),
        org: acme.clone(),
        cluster,
        not_after: issued + day,
        renewed: Some(issued),
    };
    kit.stores.resources.record_instance(&instance).await.unwrap();
    let proxy =
        ztka_controller::store::Proxy { id: ProxyId::generate(), created: issued, not_after: None, renewed: None };
    kit.stores.resources.create_proxy(&proxy).await.unwrap();
    kit.stores.resources.record_proxy(&proxy.id, issued, issued + day + day).await.unwrap();

    // The controller's own, of 30 days, whose renewal fails.
    let own = kit.controller.server_credential(&kit.controller.public_names()).await.unwrap();
    let source = CredentialSource::new(own);
    let keeping = kit.controller.keep_fresh("servers", source, || async { Err::<Credential, _>("no key".into()) });
    let shown = async {
        tokio::task::yield_now().await;
        // An hour after each of: 7/9 of a day, of two days, of thirty.
        let table = [(18, 0, 0, false), (19, 1, 0, false), (38, 0, 1, false), (561, 0, 0, true)];
        for (hours, agents, proxies, servers) in table {
            kit.clock.advance((issued + SignedDuration::from_hours(hours)).duration_since(kit.controller_now()));
            let (code, status) = kit.call(Some(fresh(&kit, &root).await), "GET", "/api/v1/status", "").await;
            assert_eq!(code, StatusCode::OK, "{status}");
            let of = |name: &str| status.get(name).and_then(Value::as_u64);
            assert_eq!(
                (of("overdue_agents"), of("overdue_proxies")),
                (Some(agents), Some(proxies)),
                "{hours}: {status}"
            );
            let own = status.pointer("/certificates/0").unwrap();
            assert_eq!(
                (own.get("name"), own.get("overdue")),
                (Some(&json!("servers")), Some(&json!(servers))),
                "{own}"
            );
            assert_eq!(kit.controller.own_certificates().get("servers").unwrap().overdue, servers);
            assert_eq!(kit.controller.figures().certificates.get("servers").unwrap().1, servers);
            let (_, clusters) = kit.call(Some(fresh(&kit, &boss).await), "GET", &path, "").await;
            let agent = clusters.pointer("/0/instances/0").and_then(|agent| agent.get("overdue"));
            assert_eq!(agent, (hours < 24).then(|| json!(agents == 1)).as_ref(), "{clusters}");
            let (_, proxies_listed) = kit.call(Some(fresh(&kit, &root).await), "GET", "/api/v1/proxies", "").await;
            let overdue = proxies_listed.pointer("/0/overdue").unwrap();
            assert_eq!(*overdue, json!(hours >= 38), "{proxies_listed}");
        }
    };
    tokio::select! {
        () = keeping => {}
        () = shown => {}
    }
}

#[tokio::test]
async fn who_renews_while_they_are_revoked_stays_revoked_for_as_long_as_what_they_got() {
    let kit = Kit::new().await;
    let (acme, root) = (kit.org("acme").await.id, kit.system_admin().await);
    let boss = kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await;
    let path = format!("/api/v1/orgs/{acme}/clusters");
    let (_, made) = kit.call(Some(certificate_of(&boss)), "POST", &path, r#"{"name": "dev"}"#).await;
    let cluster: ztka_core::ClusterId = made.get("id").and_then(Value::as_str).unwrap().parse().unwrap();
    let (start, hour) = (kit.controller_now(), SignedDuration::from_hours(1));
    let instance = Instance {
        id: InstanceId::generate(),
        org: acme.clone(),
        cluster: cluster.clone(),
        not_after: start + hour,
        renewed: Some(start),
    };
    kit.stores.resources.record_instance(&instance).await.unwrap();
    let proxy = ProxyId::generate();
    let made = ztka_controller::store::Proxy { id: proxy.clone(), created: start, not_after: None, renewed: None };
    kit.stores.resources.create_proxy(&made).await.unwrap();
    kit.stores.resources.record_proxy(&proxy, start, start + hour).await.unwrap();
    assert_eq!(revoke(&kit, &boss, Some(&acme), "instance", instance.id.as_str()).await.0, StatusCode::CREATED);
    assert_eq!(revoke(&kit, &root, None, "proxy", proxy.as_str()).await.0, StatusCode::CREATED);
    // A controller that had yet to hear of it has renewed both.
    let until = start + SignedDuration::from_hours(72);
    kit.stores.resources.record_instance(&Instance { not_after: until, ..instance.clone() }).await.unwrap();
    kit.stores.resources.record_proxy(&proxy, start, until).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    kit.clock.advance(SignedDuration::from_hours(70));
    kit.stores.revocations.forget_expired(kit.controller_now()).await.unwrap();
    kit.controller.publish_due().await.unwrap();
    let agent = kit::peer(Subject::Agent { org: acme, cluster, instance: instance.id });
    assert!(kit.controller.trust().is_revoked(&agent));
    assert!(kit.controller.trust().is_revoked(&kit::peer(Subject::Proxy(proxy))));
}

#[tokio::test]
async fn a_controller_that_is_older_than_a_revoked_organisation_lists_its_authorities_too() {
    let kit = Kit::new().await;
    let root = kit.system_admin().await;
    let older = kit.another().await;
    let (status, made) = kit.call(Some(certificate_of(&root)), "POST", "/api/v1/orgs", r#"{"name": "acme"}"#).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let acme = made.get("id").and_then(Value::as_str).unwrap();
    assert_eq!(revoke(&kit, &root, None, "org", acme).await.0, StatusCode::CREATED);
    kit.controller.refresh_crls().await.unwrap();
    let lists = crls(&kit.controller).await;
    assert_eq!(lists.iter().map(|(.., entries)| entries).sum::<usize>(), 2, "its agents' and its users'");
    assert_eq!(older.refresh_crls().await.unwrap(), 0, "they say what it would say");
    assert_eq!(crls(&older).await, lists);
}

/// One key of these cannot sign.
#[derive(Debug)]
struct Broken {
    keys: Arc<dyn KeyStore>,
    name: KeyName,
}

#[derive(Debug)]
struct CannotSign(Arc<dyn Signer>);

#[async_trait]
impl Signer for CannotSign {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, _: &[u8]) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::Unavailable("the token does not answer".into()))
    }
}

#[async_trait]
impl KeyStore for Broken {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        self.keys.create(name, kind).await
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        let signer = self.keys.open(name).await?;
        Ok(if *name == self.name { Arc::new(CannotSign(signer)) } else { signer })
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.keys.destroy(name).await
    }
}

#[tokio::test]
async fn an_authority_that_cannot_sign_keeps_no_other_ones_list_back() {
    let mut kit = Kit::new().await;
    let broken = Broken { keys: kit.stores.keys.clone(), name: "agents".parse().unwrap() };
    kit.stores.keys = Arc::new(broken);
    let controller = kit.another().await;
    controller.refresh_crls().await.expect_err("somebody has to hear of it");
    assert_eq!(crls(&controller).await.len(), 5, "of servers, users, proxies, controllers and signing");
}
