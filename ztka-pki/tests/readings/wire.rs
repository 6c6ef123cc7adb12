//! Enrolment and renewal: whatever is sent, a certificate is for the one who may have it, and no answer tells a secret.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde_json::Value;
use tower::ServiceExt as _;
use ztka_core::Body;
use ztka_pki::{
    ENROL_PATH, EnrolError, EnrolmentAnswer, EnrolmentAudit, EnrolmentClient, EnrolmentEvent, EnrolmentRequest,
    EnrolmentService, EnrolmentStore as _, Exchange, ExchangeError, INSTANCES_PATH, MemoryEnrolmentStore, PeerVerifier,
    Purpose, RENEW_PATH, RenewalRequest, RenewalService, ReplicaService, StoreError, ValidCsr,
};

use super::{World, provider, world};

/// The first byte says what the rest is: the body of an enrolment, of a renewal, of another agent's, or of an answer to one, where the
/// second byte is the class of its HTTP status. True if a certificate comes of it.
pub(crate) fn enrolment_messages(data: &[u8]) -> bool {
    let world = world();
    let Some((kind, rest)) = data.split_first() else { return false };
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => world.fill(text, true).into_bytes(),
        Err(_) => bytes.to_vec(),
    };
    match kind {
        b'e' => world.runtime.block_on(enrol(world, &text(rest))),
        b'r' => world.runtime.block_on(renew(world, &text(rest))),
        b'i' => world.runtime.block_on(instance(world, &text(rest))),
        b'a' => match rest.split_first() {
            Some((class, rest)) => world.runtime.block_on(answer(world, *class, text(rest))),
            None => false,
        },
        _ => false,
    }
}

#[derive(Debug)]
struct Unheard;

#[async_trait]
impl EnrolmentAudit for Unheard {
    async fn record(&self, event: &EnrolmentEvent) -> Result<(), StoreError> {
        let shown = format!("{event:?}");
        assert!(world().secrets().iter().all(|secret| !shown.contains(secret)), "{shown}");
        Ok(())
    }
}

async fn enrol(world: &World, body: &[u8]) -> bool {
    let store = Arc::new(MemoryEnrolmentStore::default());
    store.add_token(world.token.1.clone()).await.unwrap();
    let hierarchy = world.at.hierarchy.clone();
    let service = EnrolmentService::new(hierarchy.clone(), store.clone(), hierarchy, Arc::new(Unheard));
    let request = || Request::post(ENROL_PATH).body(Full::new(Bytes::from(body.to_vec()))).unwrap();
    let first = answered(world, service.clone().oneshot(request()).await.unwrap()).await;
    // The same key gets the same again, and who was refused is refused.
    let again = answered(world, service.oneshot(request()).await.unwrap()).await;
    assert_eq!(first, again);
    let Ok(answer) = first else {
        let spent = store.token(world.token.0.id()).await.unwrap().unwrap().spent;
        assert!(spent.is_none(), "refused, and the token is spent");
        return false;
    };
    let asked = serde_json::from_slice::<Value>(body).unwrap();
    let asked = asked.as_object().unwrap();
    assert_eq!(asked.keys().collect::<Vec<_>>(), ["csr", "token"]);
    assert_eq!(asked["token"].as_str().unwrap().trim(), &*world.token.0.to_text());
    let csr = asked["csr"].as_str().unwrap();
    is_for(world, &answer, csr);
    // Both ends have the same spelling.
    let read: EnrolmentRequest = serde_json::from_slice(body).unwrap();
    assert!(world.secrets().iter().all(|secret| !format!("{read:?}").contains(secret)));
    let written: Value = serde_json::from_slice(&serde_json::to_vec(&read).unwrap()).unwrap();
    assert_eq!(written.as_object(), Some(asked));
    true
}

async fn renew(world: &World, body: &[u8]) -> bool {
    let hierarchy = world.at.hierarchy.clone();
    let (store, trust) = (Arc::new(MemoryEnrolmentStore::default()), world.at.trust.clone());
    let service = RenewalService::new(hierarchy.clone(), store, hierarchy, Arc::new(Unheard), trust);
    let mut request = Request::post(RENEW_PATH).body(Full::new(Bytes::from(body.to_vec()))).unwrap();
    // Without a certificate, nothing that is said helps.
    let refused = answered(world, service.clone().oneshot(request.clone()).await.unwrap()).await;
    assert_eq!(refused.unwrap_err(), StatusCode::UNAUTHORIZED);
    request.extensions_mut().insert(world.peer.clone());
    let Ok(answer) = answered(world, service.oneshot(request).await.unwrap()).await else { return false };
    let asked: RenewalRequest = serde_json::from_slice(body).unwrap();
    is_for(world, &answer, &asked.csr);
    true
}

/// Another agent of the cluster: a name of its own, in the same cluster.
async fn instance(world: &World, body: &[u8]) -> bool {
    let hierarchy = world.at.hierarchy.clone();
    let (store, trust) = (Arc::new(MemoryEnrolmentStore::default()), world.at.trust.clone());
    let service = ReplicaService::new(hierarchy.clone(), store, hierarchy, Arc::new(Unheard), trust, 1);
    let mut request = Request::post(INSTANCES_PATH).body(Full::new(Bytes::from(body.to_vec()))).unwrap();
    let refused = answered(world, service.clone().oneshot(request.clone()).await.unwrap()).await;
    assert_eq!(refused.unwrap_err(), StatusCode::UNAUTHORIZED);
    let credential = world.at.credential(Purpose::Agents).await;
    request.extensions_mut().insert(world.at.trust.verify(Purpose::Agents, credential.chain()).unwrap());
    let Ok(answer) = answered(world, service.oneshot(request).await.unwrap()).await else { return false };
    let (answer, asked): (EnrolmentAnswer, RenewalRequest) =
        (serde_json::from_slice(&answer).unwrap(), serde_json::from_slice(body).unwrap());
    let (above, instance) = answer.id.rsplit_once('/').unwrap();
    assert_eq!(above, "spiffe://example.com/org/acme/cluster/c1/agent");
    assert_ne!(instance, "i1", "a name of its own");
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(answer.chain.as_bytes()).map(Result::unwrap).collect();
    let peer = world.at.trust.verify(Purpose::Agents, &chain).unwrap();
    let csr = ValidCsr::from_pem(asked.csr.as_bytes()).unwrap();
    assert_eq!((peer.id.to_string(), &peer.spki), (answer.id, csr.key().id()));
    true
}

/// The body of an answer, or the status of a refusal; nothing is our own fault, and nothing tells a secret.
async fn answered(world: &World, response: Response<Body>) -> Result<Vec<u8>, StatusCode> {
    let code = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    let text = String::from_utf8_lossy(&body);
    assert!(world.secrets().iter().all(|secret| !text.contains(secret)), "{text}");
    assert!(!code.is_server_error(), "{text}");
    if code.is_success() {
        return Ok(body);
    }
    let status: Value = serde_json::from_slice(&body).unwrap();
    assert!(status["kind"] == "Status" && status["code"] == code.as_u16() && status["message"].is_string());
    Err(code)
}

/// It names proxy `p1`, and the key of `csr` alone.
fn is_for(world: &World, answer: &[u8], csr: &str) {
    let answer: EnrolmentAnswer = serde_json::from_slice(answer).unwrap();
    assert_eq!(answer.id, "spiffe://example.com/proxy/p1");
    assert_eq!(answer.trust, world.at.hierarchy.trust_bundle());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(answer.chain.as_bytes()).map(Result::unwrap).collect();
    let peer = world.at.trust.verify(Purpose::Proxies, &chain).unwrap();
    let csr = ValidCsr::from_pem(csr.as_bytes()).unwrap();
    assert_eq!((peer.id.to_string(), &peer.spki), (answer.id, csr.key().id()));
}

/// A controller, or who says to be one, that answers this.
#[derive(Debug)]
struct Says(StatusCode, Bytes);

#[async_trait]
impl Exchange for Says {
    async fn post(&self, _: &str, _: Bytes) -> Result<(StatusCode, Bytes), ExchangeError> {
        Ok((self.0, self.1.clone()))
    }
}

async fn answer(world: &World, class: u8, body: Vec<u8>) -> bool {
    let code = [StatusCode::OK, StatusCode::CONFLICT, StatusCode::SERVICE_UNAVAILABLE, StatusCode::ACCEPTED];
    let code = code[usize::from(class.wrapping_sub(b'0')) % code.len()];
    let exchange = Arc::new(Says(code, Bytes::from(body)));
    let clock = Arc::new(world.at.clock.clone());
    let client = EnrolmentClient::new(world.token.0.clone(), exchange, provider(), clock);
    let enrolled = match client.enrol(&world.key).await {
        Ok(enrolled) => enrolled,
        Err(error) => {
            // Only a controller's no is final; what cannot be read may be well again.
            assert_eq!(error.is_final(), code == StatusCode::CONFLICT);
            let waits = matches!(error, EnrolError::Waiting { .. });
            assert!(!waits || code == StatusCode::ACCEPTED);
            assert_eq!(waits || matches!(error, EnrolError::Answer(_)), code.is_success());
            if let EnrolError::Waiting { key, again } = &error {
                assert_eq!(key, &world.key.public().id().0, "the key that is shown is ours, whatever they say");
                assert!((1..=60).contains(&again.as_secs()), "asked again after {again:?}");
            }
            return false;
        }
    };
    assert_eq!(code, StatusCode::OK);
    // We have one certificate for this key, whoever else is to be trusted.
    assert_eq!(enrolled.id, world.peer.id);
    assert_eq!(enrolled.credential.id().as_ref(), Some(&world.peer.id));
    let verifier = PeerVerifier::new(&enrolled.trust, Purpose::Proxies, provider()).unwrap();
    let peer = verifier.verify(enrolled.credential.chain(), super::now()).unwrap();
    assert_eq!(peer.spki, *world.key.public().id());
    assert!(enrolled.document.is_none(), "nobody has signed one");
    true
}
