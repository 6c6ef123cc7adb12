//! Records what goes through a tower stack, and prints the events: `cargo run -p ztka-audit --example tower_layer`

use std::{convert::Infallible, env, sync::Arc};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use ztka_audit::{AuditLayer, Recorder, Spool, SpoolOptions, read};
use ztka_core::{
    Access, Authenticated, BoxError, Evidence, Identity, Principal, Recorded, Reply, Session, SystemClock, Verified,
    body,
};

/// In a proxy this comes from a verified certificate and a signed session document.
fn alice() -> Result<Identity, BoxError> {
    let session = Session {
        user: "u1".parse()?,
        credential: "k1".parse()?,
        name: "alice@example.com".parse()?,
        groups: vec!["developers".parse()?],
        attributes: ztka_core::Attributes::new(),
        active_until: jiff::Timestamp::MAX,
    };
    let alice = Verified::assertion(Principal::new("acme".parse()?, session));
    Ok(Identity::new(alice, "c1".parse()?, Evidence::new("certificate chain and session document")))
}

async fn pods(_: Access<Recorded, ()>) -> Result<Reply, Infallible> {
    Ok(Reply::Response(Response::new(body(r#"{"kind":"PodList"}"#))))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let dir = env::temp_dir().join(format!("ztka-audit-example-{}", std::process::id()));
    let (spool, _) = Spool::open(SpoolOptions::new(&dir), &SystemClock)?;
    let recorder = Recorder::new(Arc::new(spool.clone()), Arc::new(SystemClock));
    let stack = ServiceBuilder::new().layer(AuditLayer::new(recorder)).service(service_fn(pods));

    let (head, ()) = Request::get("/api/v1/namespaces/default/pods").body(())?.into_parts();
    let reply = stack.oneshot(Authenticated::assertion(alice()?, &head, ())).await?;
    if let Reply::Response(response) = reply {
        println!("answer: {:?}", response.into_body().collect().await?.to_bytes());
    }

    drop(spool); // the last clone: everything is written when this returns
    for record in read(&dir) {
        println!("{}", record?.payload);
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
