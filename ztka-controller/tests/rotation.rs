//! Rotation of certificate authorities by several controllers over one store, with members that confirm.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "these are tests")]

mod kit;

use http::StatusCode;
use jiff::SignedDuration;
use kit::{Kit, call, certificate_of, peer, provider};
use serde_json::Value;
use ztka_controller::{
    Controller,
    store::{Acknowledgement, Cluster, Instance, MemberStore as _, Proxy, ResourceStore as _},
};
use ztka_core::{Clock as _, ClusterId, InstanceId, OrgId, ProxyId, Subject, Verified};
use ztka_identity::Caller;
use ztka_pki::{AuthorityName, Awaited, CredentialSource, Peer, Population as _, Purpose, SoftwareKey, ValidCsr};

/// An agent and a proxy that are known, with certificates of an hour.
struct Members {
    kit: Kit,
    system: Caller,
    agent: Subject,
    proxy: Subject,
}

impl Members {
    async fn new() -> Self {
        let kit = Kit::new().await;
        let system = kit.system_admin().await;
        let org = kit.org("acme").await.id;
        let (cluster, instance) = (ClusterId::generate(), InstanceId::generate());
        let created = kit.clock.now();
        let made = Cluster {
            id: cluster.clone(),
            org: org.clone(),
            name: "dev".parse().unwrap(),
            labels: Default::default(),
            created,
        };
        kit.store.create_cluster(&made).await.unwrap();
        let not_after = created + SignedDuration::from_hours(1);
        let agent =
            Instance { id: instance.clone(), org: org.clone(), cluster: cluster.clone(), not_after, renewed: None };
        kit.store.record_instance(&agent).await.unwrap();
        let proxy = ProxyId::generate();
        let made = Proxy { id: proxy.clone(), created, not_after: Some(not_after), renewed: None };
        kit.store.create_proxy(&made).await.unwrap();
        kit.controller.publish_due().await.unwrap();
        let (agent, proxy) = (Subject::Agent { org, cluster, instance }, Subject::Proxy(proxy));
        Self { kit, system, agent, proxy }
    }

    /// A member that has a certificate by the authorities of the moment.
    async fn certified(&self, subject: &Subject) -> Verified<Peer> {
        let key = SoftwareKey::generate(&provider()).unwrap();
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let hierarchy = self.kit.controller.hierarchy();
        let (issued, purpose) = match subject {
            Subject::Agent { org, cluster, instance } => {
                if !hierarchy.has_org(org) {
                    let made = hierarchy.create_org(org).await.unwrap();
                    self.kit.stores.authorities.create_org_authority(&made).await.unwrap();
                }
                (hierarchy.issue_agent(&csr, org, cluster, instance).await.unwrap(), Purpose::Agents)
            }
            Subject::Proxy(proxy) => (hierarchy.issue_proxy(&csr, proxy).await.unwrap(), Purpose::Proxies),
            _ => unreachable!("only agents and proxies are members"),
        };
        self.kit.controller.trust().verify(purpose, issued.chain()).unwrap()
    }

    async fn trust_revision(&self) -> String {
        let admin = certificate_of(&self.system);
        self.kit.call(Some(admin), "GET", "/api/v1/pki", "").await.1["trust"].as_str().unwrap().to_owned()
    }

    /// Everybody renews, and confirms the newest trust.
    async fn confirm(&self) {
        self.kit.clock.advance(SignedDuration::from_secs(1));
        self.kit.controller.publish_due().await.unwrap();
        self.kit.controller.confirm_trust().await.unwrap();
        let trust = self.trust_revision().await;
        let chain = self.kit.controller.hierarchy().trust_bundle().server_chain_id();
        for (subject, router) in
            [(&self.agent, self.kit.controller.agents()), (&self.proxy, self.kit.controller.proxies())]
        {
            let body = match subject {
                Subject::Proxy(_) => format!(r#"{{"trust": "{trust}", "server_chain": "{chain}"}}"#),
                _ => format!(r#"{{"trust": "{trust}"}}"#),
            };
            let by = Some(self.certified(subject).await);
            let (status, answer) = call(router, by, "POST", "/v1/acknowledgement", &body).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
        }
    }

    async fn step(&self, name: &str, step: &str, body: &str) -> (StatusCode, Value) {
        let path = format!("/api/v1/pki/authorities/{name}/{step}");
        self.kit.call(Some(certificate_of(&self.system)), "POST", &path, body).await
    }

    async fn waiting(&self, name: &str) -> Vec<String> {
        let (status, pki) = self.kit.call(Some(certificate_of(&self.system)), "GET", "/api/v1/pki", "").await;
        assert_eq!(status, StatusCode::OK, "{pki}");
        let all = pki["authorities"].as_array().unwrap();
        let authority = all.iter().find(|authority| authority["name"] == name).unwrap();
        let waiting = authority["rotation"]["waiting"].as_array().unwrap();
        waiting.iter().map(|waiting| waiting["who"].as_str().unwrap().to_owned()).collect()
    }
}

#[tokio::test]
async fn a_step_says_who_has_not_taken_it_and_waits() {
    let members = Members::new().await;
    members.confirm().await;
    let (status, taken) = members.step("agents", "publish", "{}").await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    assert_eq!(taken["authority"]["rotation"]["phase"], "published");
    let both = [members.agent.to_string(), members.proxy.to_string()];
    assert_eq!(members.waiting("agents").await, both);
    let (status, refused) = members.step("agents", "activate", "{}").await;
    assert_eq!((status, &refused["code"]), (StatusCode::CONFLICT, &Value::from("refused")), "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains(&both[0]), "{refused}");

    members.confirm().await;
    assert_eq!(members.waiting("agents").await, Vec::<String>::new());
    let old = members.certified(&members.agent).await;
    assert_eq!(members.step("agents", "activate", "{}").await.0, StatusCode::OK);
    members.kit.controller.publish_due().await.unwrap();
    // They have heard, and the agent still has its old certificate.
    let trust = members.trust_revision().await;
    let heard = Acknowledgement {
        trust: trust.parse().unwrap(),
        authorities: old.authorities.clone(),
        server_chain: None,
        at: members.kit.clock.now(),
    };
    for subject in [&members.agent, &members.proxy] {
        members.kit.store.acknowledge(subject, &heard).await.unwrap();
    }
    assert_eq!(members.waiting("agents").await, [members.agent.to_string()]);
    assert_eq!(members.step("agents", "retire", "{}").await.0, StatusCode::CONFLICT);
    members.confirm().await;
    assert_eq!(members.step("agents", "retire", "{}").await.0, StatusCode::OK);
    // The old certificate is believed no longer, and what is connected by it stays so.
    assert!(!members.kit.controller.trust().is_revoked(&old));
    let (status, gone) = members.step("agents", "retire", "{}").await;
    assert_eq!(status, StatusCode::CONFLICT, "{gone}");
    for (name, step) in
        [("agents", "vanish"), ("nobody", "publish"), ("agents.nobody", "publish"), ("servers.x", "publish")]
    {
        assert_eq!(members.step(name, step, "{}").await.0, StatusCode::NOT_FOUND, "{name} {step}");
    }
}

#[tokio::test]
async fn another_controller_goes_by_it_and_takes_the_next_step() {
    let members = Members::new().await;
    members.confirm().await;
    let other = members.kit.another().await;
    let own = other.controller_credential().await.unwrap();
    let server = other.users_port_credential().await.unwrap();
    for name in ["servers", "agents", "proxies", "controllers", "signing"] {
        let (status, taken) = members.step(name, "publish", r#"{"automatic": true}"#).await;
        assert_eq!(status, StatusCode::OK, "{taken}");
        let name: AuthorityName = name.parse().unwrap();
        for step in ["activate", "retire"] {
            other.publish_due().await.unwrap();
            assert_eq!(other.trust().bundle(), members.kit.controller.trust().bundle(), "{name} before {step}");
            assert!(other.advance_rotations().await.unwrap().is_empty(), "nobody has confirmed {name}");
            members.kit.controller.publish_due().await.unwrap();
            members.confirm().await;
            assert_eq!(other.advance_rotations().await.unwrap(), [(name.clone(), step)]);
            members.kit.controller.publish_due().await.unwrap();
        }
        assert!(other.advance_rotations().await.unwrap().is_empty(), "{name} is done");
    }
    // Its listeners are to get new certificates.
    for (purpose, credential) in [(Purpose::Controllers, &own), (Purpose::Servers, &server)] {
        assert!(other.hierarchy().has_moved_on(purpose, credential));
    }
    assert!(!other.hierarchy().has_moved_on(Purpose::Servers, &other.users_port_credential().await.unwrap()));
}

#[tokio::test]
async fn an_emergency_ends_what_is_connected_and_lists_who_is_left_outside() {
    let members = Members::new().await;
    members.confirm().await;
    let connected = members.certified(&members.agent).await;
    let Subject::Agent { org, .. } = &members.agent else { unreachable!() };
    let alice = members.kit.user(org, "alice", None).await;
    let (status, taken) = members.step(&format!("agents.{org}"), "cut-off", "{}").await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    let broken: Vec<_> = taken["broken"].as_array().unwrap().iter().map(|one| one["who"].as_str().unwrap()).collect();
    assert_eq!(broken, [members.agent.to_string()]);
    assert!(members.kit.controller.trust().is_revoked(&connected));
    let trust = format!(r#"{{"trust": "{}"}}"#, members.trust_revision().await);
    let (status, _) =
        call(members.kit.controller.agents(), Some(connected), "POST", "/v1/acknowledgement", &trust).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    members.confirm().await; // with a new certificate, by the new authority

    let (_, taken) = members.step("users", "cut-off", "{}").await;
    let broken: Vec<_> = taken["broken"].as_array().unwrap().iter().map(|one| one["who"].as_str().unwrap()).collect();
    let credential = format!("credential/{}", alice.credential.id);
    assert!(broken.iter().any(|who| who.ends_with(&credential)), "{broken:?}");
    let events = members.kit.stores.events.query(&ztka_audit::EventQuery::default()).await.unwrap();
    let recorded = |path: &str| events.iter().any(|event| event.event.request_uri.ends_with(path));
    assert!(recorded("/pki/authorities/users/cut-off"), "it is on record");
}

#[tokio::test]
async fn acknowledgements_are_of_members_alone_and_say_something() {
    let members = Members::new().await;
    let org: OrgId = "acme".parse().unwrap();
    let user = Subject::User { org, user: "u1".parse().unwrap(), credential: "k1".parse().unwrap() };
    let path = "/v1/acknowledgement";
    let agents = || members.kit.controller.agents();
    let good = r#"{"trust": "1.1"}"#;
    assert_eq!(call(agents(), None, "POST", path, good).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(call(agents(), Some(peer(user)), "POST", path, good).await.0, StatusCode::FORBIDDEN);
    let agent = || Some(peer(members.agent.clone()));
    for bad in ["", "{}", r#"{"trust": "x"}"#, r#"{"trust": "1"}"#, "[]"] {
        assert_eq!(call(agents(), agent(), "POST", path, bad).await.0, StatusCode::BAD_REQUEST, "{bad}");
    }
    let long = format!(r#"{{"trust": "1.1", "server_chain": "{}"}}"#, "a".repeat(65));
    assert_eq!(call(agents(), agent(), "POST", path, &long).await.0, StatusCode::BAD_REQUEST);
    assert_eq!(call(agents(), agent(), "POST", path, &"x".repeat(5000)).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(call(agents(), agent(), "POST", path, good).await.0, StatusCode::OK);

    // Who has confirmed an older document than the newest is waited for, and so is who has confirmed nothing.
    let waiting = members.kit.controller.without_trust().await.unwrap();
    assert_eq!(waiting.len(), 2);
    assert!(waiting.iter().all(|one| one.awaited == Awaited::Trust));
    assert_eq!(waiting.iter().filter(|one| one.last_seen.is_some()).count(), 1);
    members.kit.clock.advance(SignedDuration::from_hours(1));
    assert!(members.kit.controller.without_trust().await.unwrap().is_empty(), "their certificates are over");
}

#[tokio::test]
async fn an_authority_is_replaced_by_itself_when_two_thirds_of_its_life_are_over() {
    let members = Members::new().await;
    assert!(members.kit.controller.advance_rotations().await.unwrap().is_empty());
    members.kit.clock.advance(SignedDuration::from_hours(24 * 365 * 7));
    let controller: &Controller = &members.kit.controller;
    let due = controller.advance_rotations().await.unwrap();
    // Nobody is left who would have to be waited for.
    let published: Vec<_> =
        due.iter().filter(|(_, step)| *step == "publish").map(|(name, _)| name.to_string()).collect();
    assert_eq!(published, ["servers", "agents", "users", "proxies", "controllers", "signing"]);
    for _ in 0..3 {
        members.kit.clock.advance(SignedDuration::from_mins(1));
        controller.publish_due().await.unwrap();
        controller.advance_rotations().await.unwrap();
    }
    assert!(
        controller.hierarchy().state().rotations.is_empty(),
        "{:?}",
        controller.hierarchy().state().rotations.keys()
    );
}

#[tokio::test]
async fn a_step_waits_for_the_other_controllers_that_are_there() {
    let members = Members::new().await;
    members.confirm().await;
    let (other, own) = (members.kit.another().await, members.kit.controller.settings().id.clone());
    other.confirm_trust().await.unwrap();
    assert_eq!(members.step("controllers", "publish", "{}").await.0, StatusCode::OK);
    members.confirm().await;
    // It has not heard, and says nothing: what it goes by is the trust of before.
    let name = Subject::Controller(other.settings().id.clone()).to_string();
    assert_eq!(members.waiting("controllers").await, std::slice::from_ref(&name));
    let (status, refused) = members.step("controllers", "activate", "{}").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(refused["detail"].as_str().unwrap().contains(&name), "{refused}");
    other.publish_due().await.unwrap();
    other.confirm_trust().await.unwrap();
    assert_eq!(members.waiting("controllers").await, Vec::<String>::new());
    assert_eq!(members.step("controllers", "activate", "{}").await.0, StatusCode::OK);

    // One that is gone without a word is waited for no longer than a quarter of a minute.
    members.confirm().await;
    assert_eq!(members.waiting("controllers").await, [name]);
    members.kit.clock.advance(SignedDuration::from_secs(16));
    members.confirm().await;
    assert_eq!(members.waiting("controllers").await, Vec::<String>::new());
    assert_ne!(own, other.settings().id);
    assert_eq!(members.step("controllers", "retire", "{}").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_controller_whose_certificates_are_by_the_old_authority_is_waited_for() {
    let members = Members::new().await;
    let controller = &members.kit.controller;
    let own = CredentialSource::new(controller.controller_credential().await.unwrap());
    let servers = CredentialSource::new(controller.users_port_credential().await.unwrap());
    let name = Subject::Controller(controller.settings().id.clone()).to_string();
    // They are renewed as in a process, until both are by the newest authorities.
    let renewed = async || {
        let moved =
            |purpose, source: &CredentialSource| controller.hierarchy().has_moved_on(purpose, &source.current());
        let both = async {
            while moved(Purpose::Controllers, &own) || moved(Purpose::Servers, &servers) {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            _ = controller.keep_fresh("controller", own.clone(), || controller.controller_credential()) => {}
            _ = controller.keep_fresh("servers", servers.clone(), || controller.users_port_credential()) => {}
            () = both => {}
        }
    };
    renewed().await;
    for authority in ["controllers", "servers"] {
        members.confirm().await;
        assert_eq!(members.step(authority, "publish", "{}").await.0, StatusCode::OK);
        members.confirm().await;
        assert_eq!(members.step(authority, "activate", "{}").await.0, StatusCode::OK);
        members.confirm().await;
        assert_eq!(members.waiting(authority).await, std::slice::from_ref(&name), "{authority}");
        assert_eq!(members.step(authority, "retire", "{}").await.0, StatusCode::CONFLICT);
        renewed().await;
        members.confirm().await;
        assert_eq!(members.waiting(authority).await, Vec::<String>::new(), "{authority}");
        assert_eq!(members.step(authority, "retire", "{}").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn tokens_that_pin_the_old_root_are_waited_for_and_a_rollback_names_those_of_the_new_one() {
    let members = Members::new().await;
    members.confirm().await;
    let Subject::Agent { org, cluster, .. } = &members.agent else { unreachable!() };
    let path = format!("/api/v1/orgs/{org}/clusters/{cluster}/tokens");
    let token = async || {
        let admin = certificate_of(&members.system);
        let (status, made) = members.kit.call(Some(admin), "POST", &path, r#"{"ttl_seconds": 604800}"#).await;
        assert!(status.is_success(), "{made}");
        format!("token/{}", made["token"].as_str().unwrap().split('.').nth(1).unwrap())
    };
    let before = token().await;
    members.kit.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(members.step("root", "publish", "{}").await.0, StatusCode::OK);
    members.confirm().await;
    assert_eq!(members.step("root", "activate", "{}").await.0, StatusCode::OK);
    members.kit.clock.advance(SignedDuration::from_secs(1));
    let after = token().await;
    members.confirm().await;
    let waiting = members.waiting("root").await;
    assert!(waiting.contains(&before) && !waiting.contains(&after), "{waiting:?}");

    let (status, taken) = members.step("root", "rollback", "{}").await;
    assert_eq!(status, StatusCode::OK, "{taken}");
    let broken: Vec<_> = taken["broken"].as_array().unwrap().iter().map(|one| one["who"].as_str().unwrap()).collect();
    assert_eq!(broken, [after]);
    // What the one that signs again has made is of use, and so is not waited for.
    members.confirm().await;
    assert!(!members.waiting("root").await.contains(&before));
}

#[tokio::test]
async fn certificates_of_organisations_that_are_made_anew_are_stored() {
    let members = Members::new().await;
    let Subject::Agent { org, .. } = &members.agent else { unreachable!() };
    members.certified(&members.agent).await;
    let stored = async || members.kit.stores.authorities.org_authority(org).await.unwrap().unwrap();
    let before = stored().await;
    // Four years of five.
    members.kit.clock.advance(SignedDuration::from_hours(24 * 365 * 4));
    let other = members.kit.another().await;
    let after = stored().await;
    assert_eq!((&before.agents.key, &before.users.key), (&after.agents.key, &after.users.key));
    assert!(
        before.agents.certificate != after.agents.certificate && before.users.certificate != after.users.certificate
    );
    // The next start finds nothing to do.
    drop(other);
    members.kit.another().await;
    assert_eq!(stored().await, after);
}

#[tokio::test]
async fn an_organisations_lost_key_keeps_no_controller_from_starting() {
    let kit = Kit::new().await;
    let root = kit.system_admin().await;
    let mut orgs = Vec::new();
    for name in ["acme", "other"] {
        let body = format!(r#"{{"name": "{name}"}}"#);
        let (status, made) = kit.call(Some(certificate_of(&root)), "POST", "/api/v1/orgs", &body).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        orgs.push(made["id"].as_str().unwrap().parse::<OrgId>().unwrap());
    }
    kit.stores.keys.destroy(&format!("users.{}", orgs[0]).parse().unwrap()).await.unwrap();
    let controller = kit.another().await;
    for (org, expected) in [(&orgs[0], StatusCode::SERVICE_UNAVAILABLE), (&orgs[1], StatusCode::CREATED)] {
        let user = kit.user(org, "alice", None).await.user.id;
        let path = format!("/api/v1/orgs/{org}/users/{user}/credentials");
        let body = format!(r#"{{"csr": {}}}"#, kit::csr().1);
        let (status, answer) = call(controller.api(), Some(certificate_of(&root)), "POST", &path, &body).await;
        assert_eq!(status, expected, "{answer}");
    }
}
