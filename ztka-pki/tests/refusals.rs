//! Everything that is wrong with a request: said in its own words, recorded, and not a signature made for it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use jiff::SignedDuration;
use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use support::{Installation, id, key, now, provider};
use tower::ServiceExt as _;
use x509_cert::der::pem::{LineEnding, encode_string};
use ztka_core::{Clock, ManualClock, Verified};
use ztka_pki::{
    CsrError, Enrollee, EnrolmentAudit, EnrolmentEvent, EnrolmentOutcome, EnrolmentRefusal, EnrolmentService,
    EnrolmentStore as _, EnrolmentToken, Hierarchy, KeyError, KeyKind, KeyName, KeyStore, Lifetimes,
    MemoryEnrolmentStore, MemoryKeyStore, Names, Peer, PublicKey, Purpose, RenewalService, Signer, SoftwareKey,
    StoreError, TrustSource, ValidCsr, WeakKey,
};

/// Counts what the authorities sign.
#[derive(Debug)]
struct Counting(MemoryKeyStore, Arc<AtomicUsize>);

#[derive(Debug)]
struct CountingSigner(Arc<dyn Signer>, Arc<AtomicUsize>);

#[async_trait]
impl Signer for CountingSigner {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.sign(message).await
    }
}

#[async_trait]
impl KeyStore for Counting {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(CountingSigner(self.0.create(name, kind).await?, self.1.clone())))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        Ok(Arc::new(CountingSigner(self.0.open(name).await?, self.1.clone())))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        self.0.destroy(name).await
    }
}

#[derive(Debug, Default)]
struct Audit(Mutex<Vec<EnrolmentEvent>>);

#[async_trait]
impl EnrolmentAudit for Audit {
    async fn record(&self, event: &EnrolmentEvent) -> Result<(), StoreError> {
        self.0.lock().unwrap().push(event.clone());
        Ok(())
    }
}

/// One value of DER: a tag, a length, a content.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = match content.len() {
        short @ ..128 => vec![u8::try_from(short).unwrap()],
        long => {
            let bytes = long.to_be_bytes();
            let bytes = &bytes[bytes.iter().position(|byte| *byte != 0).unwrap()..];
            [&[0x80 | u8::try_from(bytes.len()).unwrap()], bytes].concat()
        }
    };
    [&[tag][..], &length, content].concat()
}

const VERSION: [u8; 3] = [2, 1, 0];
const ECDSA_SHA256: [u8; 12] = [0x30, 10, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

/// The parts of a request that is signed well whatever is in them.
fn signed(key: &SoftwareKey, version: &[u8], attributes: &[u8]) -> Vec<Vec<u8>> {
    let info = tlv(0x30, &[version, &tlv(0x30, &[]), key.public().der(), &tlv(0xa0, attributes)].concat());
    let signature = futures_util::FutureExt::now_or_never(key.sign(&info)).unwrap().unwrap();
    vec![info, ECDSA_SHA256.to_vec(), tlv(3, &[&[0], &signature[..]].concat())]
}

/// An attribute that asks for one extension.
fn extension_request(extension: &[u8]) -> Vec<u8> {
    let oid = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14];
    tlv(0x30, &[&oid[..], &tlv(0x31, &tlv(0x30, extension))].concat())
}

fn extension(oid: &[u8], content: &[u8]) -> Vec<u8> {
    tlv(0x30, &[tlv(6, oid), tlv(4, content)].concat())
}

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(format!("{name}.csr"));
    CertificateSigningRequestDer::from_pem_slice(&std::fs::read(path).unwrap()).unwrap().to_vec()
}

/// Each bad request with the one thing that is wrong with it.
fn table() -> Vec<(&'static str, Vec<u8>, CsrError)> {
    let key = key();
    let whole = |parts: Vec<Vec<u8>>| tlv(0x30, &parts.concat());
    let good = whole(signed(&key, &VERSION, &[]));
    // The builder itself makes good ones, or the rest would prove nothing.
    assert_eq!(ValidCsr::from_der(&good).unwrap().key(), key.public());
    assert!(
        ValidCsr::from_der(&whole(signed(&key, &VERSION, &extension_request(&extension(&[0x2a, 3, 4], b"x"))))).is_ok()
    );

    let mut bent = good.clone();
    *bent.last_mut().unwrap() ^= 1;
    let parts = signed(&key, &VERSION, &[]).concat();
    let long_form = [&[0x30, 0x83, 0, 0, u8::try_from(parts.len()).unwrap()][..], &parts].concat();
    let indefinite = [&[0x30, 0x80][..], &parts, &[0, 0]].concat();
    let unordered = [extension_request(&extension(&[0x2a, 3, 4], b"x")), tlv(0x30, &[6, 1, 0x2a, 0x31, 0])].concat();
    let odd_truth = tlv(0x30, &[&tlv(6, &[0x55, 0x1d, 19])[..], &[1, 1, 1], &tlv(4, &[0x30, 0])].concat());
    let mebibyte = vec![b'x'; 1 << 20];
    let ca = tlv(0x30, &[1, 1, 0xff]);
    let cert_sign = [3, 2, 2, 4];
    let names = tlv(0x30, &tlv(0x82, b"kube.example.com"));
    let asks = |extension: Vec<u8>| whole(signed(&key, &VERSION, &extension_request(&extension)));
    vec![
        ("bad signature", bent, CsrError::Signature),
        ("truncated DER", good[..good.len() - 7].to_vec(), CsrError::Truncated),
        ("only a beginning", good[..3].to_vec(), CsrError::Truncated),
        ("something behind it", [&good[..], &[5, 0]].concat(), CsrError::Unreadable),
        ("a certificate", tlv(0x30, &tlv(0x30, &[])), CsrError::Truncated),
        ("a megabyte of extensions", asks(extension(&[0x2a, 3, 4], &mebibyte)), CsrError::TooLarge),
        ("length in the long form", long_form, CsrError::NotCanonical),
        ("indefinite length", indefinite, CsrError::NotCanonical),
        ("version with a leading zero", whole(signed(&key, &[2, 2, 0, 0], &[])), CsrError::NotCanonical),
        ("attributes out of order", whole(signed(&key, &VERSION, &unordered)), CsrError::NotCanonical),
        ("TRUE that is not FF", asks(odd_truth), CsrError::NotCanonical),
        ("CA:TRUE", asks(extension(&[0x55, 0x1d, 19], &ca)), CsrError::Authority),
        ("keyCertSign", asks(extension(&[0x55, 0x1d, 15], &cert_sign)), CsrError::Authority),
        ("names", asks(extension(&[0x55, 0x1d, 17], &names)), CsrError::Names),
        ("names by openssl", data("p256-names"), CsrError::Names),
        ("all of it", data("p256-greedy"), CsrError::Authority),
        ("RSA 1024", data("rsa1024"), CsrError::Key(WeakKey::Size)),
        ("RSA with exponent 3", data("rsa2048-e3"), CsrError::Key(WeakKey::Exponent)),
        ("P-224", data("p224"), CsrError::Key(WeakKey::Kind)),
        ("SHA-1", data("p256-sha1"), CsrError::Algorithm),
    ]
}

struct Site {
    hierarchy: Arc<Hierarchy>,
    signatures: Arc<AtomicUsize>,
    store: Arc<MemoryEnrolmentStore>,
    audit: Arc<Audit>,
    trust: TrustSource,
}

impl Site {
    async fn new() -> Self {
        let signatures = Arc::new(AtomicUsize::new(0));
        let keys = Arc::new(Counting(MemoryKeyStore::new(provider()), signatures.clone()));
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
        let made = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock.clone()).await;
        let hierarchy = Arc::new(made.unwrap());
        hierarchy.create_org(&id("acme")).await.unwrap();
        let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock).unwrap();
        Self { hierarchy, signatures, store: Arc::default(), audit: Arc::default(), trust }
    }

    async fn token(&self) -> EnrolmentToken {
        let enrollee = Enrollee::Agent { org: id("acme"), cluster: id("c1") };
        let life = SignedDuration::from_hours(1);
        let (token, record) = EnrolmentToken::generate(enrollee, self.hierarchy.pin(), now(), life).unwrap();
        self.store.add_token(record).await.unwrap();
        token
    }

    /// Sends a request to enrolment, or with a certificate to renewal: status, and what is said.
    async fn ask(&self, der: &[u8], as_who: As<'_>) -> (u16, String) {
        let csr = encode_string("CERTIFICATE REQUEST", LineEnding::LF, der).unwrap();
        let (hierarchy, store) = (self.hierarchy.clone(), self.store.clone());
        let answer = match as_who {
            As::Newcomer(token) => {
                let body = serde_json::json!({ "token": token.to_text().as_str(), "csr": csr }).to_string();
                let service = EnrolmentService::new(hierarchy.clone(), store, hierarchy, self.audit.clone());
                service.oneshot(Request::post("/v1/enrol").body(Full::new(Bytes::from(body))).unwrap()).await
            }
            As::Member(peer) => {
                let body = serde_json::json!({ "csr": csr }).to_string();
                let trust = self.trust.clone();
                let service = RenewalService::new(hierarchy.clone(), store, hierarchy, self.audit.clone(), trust);
                let mut request = Request::post("/v1/renew").body(Full::new(Bytes::from(body))).unwrap();
                request.extensions_mut().insert(peer.clone());
                service.oneshot(request).await
            }
        };
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        let said = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(said.to_vec()).unwrap())
    }

    fn last(&self) -> EnrolmentOutcome {
        self.audit.0.lock().unwrap().last().unwrap().outcome.clone()
    }

    fn signatures(&self) -> usize {
        self.signatures.load(Ordering::Relaxed)
    }
}

#[derive(Clone, Copy)]
enum As<'a> {
    Newcomer(&'a EnrolmentToken),
    Member(&'a Verified<Peer>),
}

#[tokio::test]
async fn each_bad_request_has_its_own_answer_and_gets_nothing() {
    let site = Site::new().await;
    let token = site.token().await;
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let member = site.hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
    let member = site.trust.verify(Purpose::Agents, member.chain()).unwrap();
    let before = site.signatures();
    for (what, der, expected) in table() {
        assert_eq!(ValidCsr::from_der(&der).err(), Some(expected), "{what}");
        for who in [As::Newcomer(&token), As::Member(&member)] {
            let (status, said) = site.ask(&der, who).await;
            // So large a body is refused before it is read as a request at all.
            let (code, refusal) = match der.len() {
                0..60_000 => (400, EnrolmentRefusal::Csr(expected)),
                _ => (413, EnrolmentRefusal::TooLarge),
            };
            assert_eq!(status, code, "{what}: {said}");
            let message = serde_json::from_str::<serde_json::Value>(&said).unwrap()["message"].to_string();
            assert!(message.contains(&refusal.to_string()), "{what}: {message}");
            assert_eq!(site.last(), EnrolmentOutcome::Refused(refusal), "{what}");
        }
    }
    assert_eq!(site.signatures(), before, "something was signed");
    assert_eq!(site.store.token(token.id()).await.unwrap().unwrap().spent, None, "the token was spent");
    // The same token and the same way are good for a good request.
    let (status, said) = site.ask(&key().csr().unwrap(), As::Newcomer(&token)).await;
    assert_eq!((status, site.signatures()), (200, before + 1), "{said}");
}

#[tokio::test]
async fn a_key_under_another_subject_gets_nothing() {
    let site = Site::new().await;
    let (first, second) = (site.token().await, site.token().await);
    let csr = key().csr().unwrap();
    assert_eq!(site.ask(&csr, As::Newcomer(&first)).await.0, 200);
    let before = site.signatures();
    let (status, said) = site.ask(&csr, As::Newcomer(&second)).await;
    assert_eq!((status, site.last()), (409, EnrolmentOutcome::Refused(EnrolmentRefusal::KeyBound)), "{said}");
    // Nor by renewal of somebody else's certificate.
    let other = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let other = site.hierarchy.issue_agent(&other, &id("acme"), &id("c1"), &id("i9")).await.unwrap();
    let other = site.trust.verify(Purpose::Agents, other.chain()).unwrap();
    let (status, said) = site.ask(&csr, As::Member(&other)).await;
    assert_eq!((status, site.last()), (409, EnrolmentOutcome::Refused(EnrolmentRefusal::KeyBound)), "{said}");
    assert_eq!(site.signatures(), before + 1, "only what this test asked for itself");
}

#[tokio::test]
async fn an_installation_does_not_open_with_what_is_no_authority() {
    let at = Installation::new().await;
    let leaf = at.issue(Purpose::Agents, "acme", &key()).await.pem();
    let mut state = at.hierarchy.state();
    let end = leaf.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len();
    state.purposes.get_mut(&Purpose::Agents).unwrap().certificate = leaf[..end].into();
    let clock: Arc<dyn Clock> = Arc::new(at.clock.clone());
    let refused = Hierarchy::open(state, Lifetimes::default(), at.keys.clone(), clock).await.unwrap_err();
    assert!(refused.to_string().contains("may not sign certificates"), "{refused}");
}
