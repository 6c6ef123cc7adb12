//! An organisation is deleted by the API: its users are out at once, its authorities' keys and all it has are gone soon.

mod kit;

use http::StatusCode;
use kit::{Kit, certificate_of, csr};
use serde_json::Value;
use ztka_core::OrgId;
use ztka_identity::AdminRole;
use ztka_pki::KeyError;

#[tokio::test]
async fn a_deleted_organisation_is_cut_off_at_once_and_gone_soon() {
    let kit = Kit::new().await;
    let root = kit.system_admin().await;
    let by = || Some(certificate_of(&root));
    let (status, made) = kit.call(by(), "POST", "/api/v1/orgs", r#"{"name": "acme"}"#).await;
    assert_eq!(status, StatusCode::CREATED);
    let org: OrgId = made.get("id").and_then(Value::as_str).unwrap().parse().unwrap();
    let boss = kit.user(&org, "boss", Some(AdminRole::OrgAdmin)).await;
    let path = format!("/api/v1/orgs/{org}/users/{}/credentials", boss.user.id);
    let (status, _) = kit.call(Some(certificate_of(&boss)), "POST", &path, &format!(r#"{{"csr": {}}}"#, csr().1)).await;
    assert_eq!(status, StatusCode::CREATED);
    let key = format!("users.{org}").parse().unwrap();
    kit.stores.keys.open(&key).await.unwrap();

    // The installation's own administrators stay.
    let own = format!("/api/v1/orgs/{}", OrgId::installation());
    let (status, answer) = kit.call(by(), "DELETE", &own, "").await;
    assert!(status.is_client_error(), "{answer}");

    let path = format!("/api/v1/orgs/{org}");
    assert_eq!(kit.call(by(), "DELETE", &path, "").await.0, StatusCode::ACCEPTED);
    kit.controller.publish_due().await.unwrap();
    let (status, _) = kit.call(Some(certificate_of(&boss)), "GET", "/api/v1/whoami", "").await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "cut off before anything is removed");
    assert_eq!(kit.call(by(), "GET", &format!("{path}/users"), "").await.0, StatusCode::NOT_FOUND);
    assert_eq!(kit.call(by(), "DELETE", &path, "").await.0, StatusCode::NOT_FOUND);
    let restore = format!("/api/v1/revocations/orgs/{org}");
    assert_eq!(kit.call(by(), "DELETE", &restore, "").await.0, StatusCode::NOT_FOUND, "there is no way back");
    let (_, deletions) = kit.call(by(), "GET", "/api/v1/deletions", "").await;
    assert!(deletions.pointer("/0/finished").is_none(), "{deletions}");

    assert!(kit.controller.work_off().await.unwrap() > 0);
    let (_, deletions) = kit.call(by(), "GET", "/api/v1/deletions", "").await;
    assert!(deletions.pointer("/0/finished").is_some(), "{deletions}");
    assert!(matches!(kit.stores.keys.open(&key).await, Err(KeyError::Absent(_))), "its keys are destroyed");
    assert!(kit.stores.authorities.org_authority(&org).await.unwrap().is_none());

    // The authority above says on its list that this one is not to be believed, and nobody makes it anew.
    kit.controller.refresh_crls().await.unwrap();
    assert!(matches!(kit.stores.keys.open(&key).await, Err(KeyError::Absent(_))));
    let mut listed = 0;
    for issuer in kit.controller.hierarchy().issuers() {
        assert_ne!(issuer.org.as_ref(), Some(&org), "it is closed");
        listed += kit.stores.revocations.revoked_certificates(&issuer.key, kit.controller_now()).await.unwrap().len();
    }
    assert_eq!(listed, 2, "for users and for agents");
    assert_eq!(
        kit.call(by(), "POST", "/api/v1/orgs", r#"{"name": "acme"}"#).await.0,
        StatusCode::CREATED,
        "its name is free"
    );
}
