//! Policy in front of a tower service: what is denied never reaches it.
//! `cargo run -p ztka-authz --example embed_in_tower`

use std::{convert::Infallible, sync::Arc};

use http::{Request, Response};
use jiff::Timestamp;
use tower::{Layer as _, ServiceExt as _, service_fn};
use ztka_authz::{AuthorizeLayer, Engine};
use ztka_core::{
    Access, Attributes, AuditId, Authenticated, BoxError, DecisionSlot, DocumentHeader, DocumentKind, Evidence,
    Identity, KeyId, Permitted, Principal, Recorded, Reply, Revision, SeriesKey, Session, SignedDocument, SystemClock,
    Verified, body,
};

const POLICY: &str = r#"{"clusters": [{"id": "c1", "name": "prod"}], "bindings": [{"name": "look", "role": "view",
    "subjects": [{"group": "dev"}], "clusters": {"all": true}, "scope": {"namespaces": ["shop"]}}]}"#;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<(), BoxError> {
    // A receiver verifies what a controller has signed; here nobody has, and it is put in force all the same.
    let series = SeriesKey { kind: DocumentKind::Policy, org: Some("acme".parse()?), subject: String::new() };
    let (revision, issued, expires) = (Revision::default(), Timestamp::now(), Timestamp::MAX);
    let header = DocumentHeader { series, revision, issued, expires };
    let policy: serde_json::Value = serde_json::from_str(POLICY)?;
    let signed = SignedDocument::sign(header, &policy, |_| Ok::<_, BoxError>((KeyId(String::new()), Vec::new())))?;
    let engine = Engine::new(Arc::new(SystemClock));
    engine.apply(&Verified::assertion(signed))?;

    let inner = service_fn(|access: Access<Permitted, ()>| async move {
        Ok::<_, Infallible>(Reply::Response(Response::new(body(format!("by {}", access.stage().grant().binding)))))
    });
    let (user, credential, name) = ("u1".parse()?, "k1".parse()?, "alice".parse()?);
    let (groups, attributes) = (vec!["dev".parse()?], Attributes::new());
    let session = Session { user, credential, name, groups, attributes, active_until: expires };
    let alice = Verified::assertion(Principal::new("acme".parse()?, session));
    for path in ["/api/v1/namespaces/shop/pods/web", "/api/v1/namespaces/shop/secrets/key"] {
        let (head, ()) = Request::get(path).body(())?.into_parts();
        let identity = Identity::new(alice.clone(), "c1".parse()?, Evidence::new("…"));
        let access = Authenticated::assertion(identity, &head, ()); // an authenticator's part
        let access = Recorded::assertion(access, AuditId::generate(), DecisionSlot::default()); // the audit layer's
        if let Reply::Response(answer) = AuthorizeLayer::new(engine.clone()).layer(inner).oneshot(access).await? {
            println!("{path}: {}", answer.status());
            assert_eq!(answer.status().is_success(), path.contains("pods"), "as the policy has it");
        }
    }
    Ok(())
}
