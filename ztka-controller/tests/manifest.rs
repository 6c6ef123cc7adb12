//! The bootstrap manifest, held against a golden file: set `UPDATE_GOLDEN=1` to write it anew.
#![expect(clippy::unwrap_used, reason = "these are tests")]

mod kit;

use http::StatusCode;
use kit::{Kit, certificate_of};
use ztka_api::{AccountMode, HostAlias};
use ztka_authz::PolicyDocument;
use ztka_controller::{AgentAccess, Manifest, render};
use ztka_identity::AdminRole;

fn manifest() -> Manifest {
    Manifest {
        image: "registry.example.com/ztka-agent:1".into(),
        apiserver: Some("https://192.0.2.1:6443".into()),
        host_aliases: vec![HostAlias {
            ip: "192.0.2.2".parse().unwrap(),
            hostnames: vec!["enroll.example.com".into(), "agents.example.com".into(), "tunnel.example.com".into()],
        }],
        domain: "example.com".into(),
        front: "kube.example.com:443".into(),
        proxies: vec!["tunnel.example.com:443".into()],
        token: "ztka1.e0.secret.pin".into(),
        access: AgentAccess::default(),
    }
}

#[test]
fn is_as_it_was() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/manifest.yaml");
    let yaml = render(&manifest());
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &yaml).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(yaml == golden, "the manifest has changed; if it should have: UPDATE_GOLDEN=1\n{yaml}");
}

#[test]
fn gives_the_agent_what_the_agent_asks_for() {
    let ceiling = AgentAccess::ceiling(&PolicyDocument::default(), &["view".into(), "edit".into()]).unwrap();
    for (file, access) in [("agent-rbac.yaml", AgentAccess::default()), ("agent-rbac-ceiling.yaml", ceiling)] {
        // What the agent's own tests are made with.
        let path = format!("{}/../ztka-agent/src/accounts/{file}", env!("CARGO_MANIFEST_DIR"));
        let yaml = access.yaml();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &yaml).unwrap();
        }
        assert!(
            yaml == std::fs::read_to_string(&path).unwrap(),
            "{file} has changed; if it should have: UPDATE_GOLDEN=1"
        );
        assert!(render(&Manifest { access, ..manifest() }).starts_with(&yaml));
    }
}

#[test]
fn explains_each_permission_and_what_a_stolen_agent_could_do() {
    let ceiling = AgentAccess::ceiling(&PolicyDocument::default(), &["view".into()]).unwrap();
    let impersonating = AgentAccess { accounts: AccountMode::Impersonate, ..AgentAccess::default() };
    for (name, access) in [("dynamic", AgentAccess::default()), ("ceiling", ceiling), ("impersonate", impersonating)] {
        let path = format!("{}/tests/golden/explain-{name}.txt", env!("CARGO_MANIFEST_DIR"));
        let text = access.explain();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert!(
            text == std::fs::read_to_string(&path).unwrap(),
            "{name} has changed; if it should have: UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn a_ceiling_takes_roles_that_there_are() {
    let error = AgentAccess::ceiling(&PolicyDocument::default(), &["viewer".into()]).unwrap_err();
    assert!(error.to_string().contains("no role \"viewer\""), "{error}");
}

#[test]
fn hostile_texts_stay_texts() {
    let evil = "a\"\n---\nkind: ClusterRoleBinding\n# ";
    let yaml = render(&Manifest {
        image: evil.into(),
        apiserver: Some(evil.into()),
        host_aliases: vec![HostAlias { ip: "::1".parse().unwrap(), hostnames: vec![evil.into()] }],
        token: evil.into(),
        ..manifest()
    });
    let documents = |yaml: &str| yaml.lines().filter(|line| *line == "---").count();
    assert_eq!(documents(&yaml), documents(&render(&manifest())));
}

#[tokio::test]
async fn what_cannot_be_in_a_manifest_is_refused() {
    let kit = Kit::new().await;
    let acme = kit.org("acme").await.id;
    let admin = certificate_of(&kit.user(&acme, "boss", Some(AdminRole::OrgAdmin)).await);
    let clusters = format!("/api/v1/orgs/{acme}/clusters");
    let (_, cluster) = kit.call(Some(admin.clone()), "POST", &clusters, r#"{"name": "test"}"#).await;
    let path = format!("{clusters}/{}/manifest", cluster.get("id").unwrap().as_str().unwrap());
    for bad in [
        r#"{"image": ""}"#,
        r#"{"image": "a b"}"#,
        r#"{"image": "a\nb"}"#,
        r#"{"image": "a", "apiserver": "http://192.0.2.1"}"#,
        r#"{"image": "a", "host_aliases": [{"ip": "192.0.2.1", "hostnames": []}]}"#,
        r#"{"image": "a", "host_aliases": [{"ip": "192.0.2.1", "hostnames": ["A b"]}]}"#,
        r#"{"image": "a", "host_aliases": [{"ip": "somewhere", "hostnames": ["a"]}]}"#,
        r#"{"image": "a", "ttl_seconds": 0}"#,
        r#"{"image": "a", "ttl_seconds": 604801}"#,
        r#"{"image": "a", "more": 1}"#,
        r#"{"image": "a", "sources": ["10.0.0.0/33"]}"#,
        r#"{"image": "a", "sources": "10.0.0.0/8"}"#,
        r#"{"image": "a", "approval": "yes"}"#,
    ] {
        let (status, problem) = kit.call(Some(admin.clone()), "POST", &path, bad).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}: {problem}");
    }
    let many = vec!["10.0.0.0/8"; 65];
    let many = serde_json::json!({ "image": "a", "sources": many }).to_string();
    assert_eq!(kit.call(Some(admin.clone()), "POST", &path, &many).await.0, StatusCode::BAD_REQUEST);
    let tokens = format!("{}/tokens", path.trim_end_matches("/manifest"));
    let (_, listed) = kit.call(Some(admin.clone()), "GET", &tokens, "").await;
    assert_eq!(listed, serde_json::json!([]), "a token was made");
    let careful = r#"{"image": "ztka-agent:1", "sources": ["10.0.0.0/8"], "approval": true, "ttl_seconds": 60}"#;
    assert_eq!(kit.call(Some(admin.clone()), "POST", &path, careful).await.0, StatusCode::CREATED);
    let (_, listed) = kit.call(Some(admin.clone()), "GET", &tokens, "").await;
    let token = listed.get(0).unwrap();
    let says = |key: &str| token.get(key).unwrap().clone();
    assert_eq!((says("state"), says("approval")), ("unused".into(), true.into()), "{token}");
    assert_eq!(says("sources"), serde_json::json!(["10.0.0.0/8"]));
    let (status, yaml) = kit.call(Some(admin), "POST", &path, r#"{"image": "ztka-agent:1"}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    let serde_json::Value::String(yaml) = yaml else { panic!("not a text") };
    assert!(yaml.contains("token: \"ztka1.e"), "{yaml}");
}
