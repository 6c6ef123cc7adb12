//! Whose a refusal is on record.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "clippy.toml does not reach helpers")]

mod support;

use std::{convert::Infallible, sync::Arc};

use http::{Request, StatusCode};
use jiff::SignedDuration;
use support::*;
use tower::{Layer as _, ServiceExt as _, service_fn};
use ztka_core::{Access, Authenticated, Reply};
use ztka_pki::AuthenticateLayer;
use ztka_proxy::{Certificate, CertificateAuthenticator, Connection};

/// The answer to a request for a cluster, and whom the refusal is recorded of: name, id, organisation, credential.
async fn refused(
    made: &Installation,
    certificate: Option<Certificate>,
    cluster: &str,
) -> (StatusCode, [Option<String>; 4]) {
    let authenticator = CertificateAuthenticator::new(made.directory.clone(), made.names.clone());
    let layer = AuthenticateLayer::new(authenticator, Arc::new(made.recorder.clone()));
    let service = layer.layer(service_fn(|_: Access<Authenticated, ()>| async { Ok::<_, Infallible>(ok("let in")) }));
    let name = format!("{cluster}.kube.example.com");
    let mut request = Request::get(format!("https://{name}{POD}")).body(()).unwrap();
    let address = "192.0.2.1:4711".parse().unwrap();
    let connection = Connection::new(address, Some(name), Some(cluster.parse().unwrap()), certificate);
    request.extensions_mut().insert(connection);
    let Reply::Response(answer) = service.oneshot(request).await.unwrap() else { panic!("upgraded") };
    let event = made.journal.events().pop().unwrap();
    let fact = |name: &str| event.fact(name).map(str::to_owned);
    let name = Some(event.user.username.clone());
    (answer.status(), [name, Some(event.user.uid.clone()), fact("org"), fact("credential")])
}

fn who(name: &str, id: &str, org: &str, credential: &str) -> [Option<String>; 4] {
    [name, id, org, credential].map(|text| Some(text.to_owned()))
}

#[tokio::test]
async fn of_a_user_who_asks_for_a_cluster_of_another_organisation() {
    let made = installation().await;
    let seen = refused(&made, Some(made.certificate().await), "c9").await;
    assert_eq!(seen, (StatusCode::MISDIRECTED_REQUEST, who("alice", "u1", "acme", "k1")));
}

#[tokio::test]
async fn of_a_verified_certificate_without_a_session_by_its_ids() {
    let made = installation().await;
    let certificate = made.certificate().await;
    let theirs = (StatusCode::UNAUTHORIZED, who("org/acme/user/u1/credential/k1", "u1", "acme", "k1"));
    // The document is of the same credential, but of somebody else: their name is not taken.
    made.session("acme", "u2", "k1", "bob", 12).await;
    assert_eq!(refused(&made, Some(certificate.clone()), "c1").await, theirs);
    made.session("acme", "u1", "k1", "alice", -1).await;
    assert_eq!(refused(&made, Some(certificate.clone()), "c1").await, theirs);
    made.session("acme", "u1", "k1", "alice", 12).await;
    made.revoke("k1").await;
    assert_eq!(refused(&made, Some(certificate.clone()), "c1").await, theirs);
    made.clock.advance(SignedDuration::from_hours(24 * 40));
    assert_eq!(refused(&made, Some(certificate), "c1").await, theirs);
}

#[tokio::test]
async fn of_nobody_without_a_certificate() {
    let made = installation().await;
    let (code, seen) = refused(&made, None, "c1").await;
    assert_eq!((code, &seen[0], &seen[2]), (StatusCode::UNAUTHORIZED, &Some("system:anonymous".into()), &None));
}
