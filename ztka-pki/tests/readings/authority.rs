//! What comes back from a root of somebody else's: what is imported is an authority that others believe, too.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use x509_cert::{
    Certificate,
    der::{Decode as _, DecodePem as _, Encode as _},
    ext::pkix::BasicConstraints,
};
use ztka_core::{Clock, ManualClock};
use ztka_pki::{
    Hierarchy, ImportError, Lifetimes, MemoryKeyStore, Names, Purpose, Root, SoftwareKey, TrustSource, ValidCsr,
};

use super::{id, now, provider, world};

/// Requests of an installation, and what its root has made of them.
struct Site {
    keys: Arc<MemoryKeyStore>,
    root: Root,
    chains: BTreeMap<Purpose, String>,
    genuine: Vec<(String, String)>,
}

fn names() -> Names {
    Names::of("example.com")
}

fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let runtime = &world().runtime;
        let keys = Arc::new(MemoryKeyStore::new(provider()));
        let requests = runtime.block_on(Hierarchy::requests(&names(), &*keys)).unwrap();
        let root = |life: &Lifetimes| {
            let key = Arc::new(SoftwareKey::generate(&provider()).unwrap());
            runtime.block_on(Root::create(key, life, now())).unwrap()
        };
        let life = Lifetimes::default();
        let (ours, other) = (root(&life), root(&life));
        let mut chains = BTreeMap::new();
        let mut genuine = vec![("@ROOT@".to_owned(), ours.pem()), ("@OTHER-ROOT@".to_owned(), other.pem())];
        for (purpose, request) in &requests {
            let sign = |root: &Root| runtime.block_on(root.certify(*purpose, request, &names(), &life, now())).unwrap();
            let name = purpose.to_string().to_uppercase();
            chains.insert(*purpose, sign(&ours));
            genuine.push((format!("@OTHER-{name}@"), sign(&other)));
            genuine.push((format!("@{name}@"), sign(&ours)));
            genuine.push((format!("@{name}-CSR@"), request.clone()));
        }
        let plain = SoftwareKey::generate(&provider()).unwrap();
        genuine.push(("@PLAIN-CSR@".into(), plain.csr_pem().unwrap()));
        Site { keys, root: ours, chains, genuine }
    })
}

/// The first byte says what the rest is: the chain of the agents' (`a`) or the servers' (`s`) intermediate as somebody has
/// signed it, the root (`r`), or a request to sign (`c`). True if it is taken.
pub(crate) fn authority_chain(data: &[u8]) -> bool {
    let site = site();
    let Some((kind, rest)) = data.split_first() else { return false };
    let mut text = String::from_utf8_lossy(rest).into_owned();
    for (name, value) in &site.genuine {
        text = text.replace(name, value);
    }
    let with = |purpose, text: String| {
        let mut chains = site.chains.clone();
        chains.insert(purpose, text);
        chains
    };
    match kind {
        b'a' => imported(site, &site.root.pem(), &with(Purpose::Agents, text)),
        b's' => imported(site, &site.root.pem(), &with(Purpose::Servers, text)),
        b'r' => imported(site, &text, &site.chains),
        b'c' => certified(site, &text),
        _ => false,
    }
}

fn imported(site: &Site, root: &str, chains: &BTreeMap<Purpose, String>) -> bool {
    let runtime = &world().runtime;
    let provider = provider();
    let state = Hierarchy::import(names(), root, chains, &*site.keys, &provider, now());
    let state = match runtime.block_on(state) {
        Ok(state) => state,
        Err(error) => {
            assert!(!matches!(error, ImportError::Issue(_) | ImportError::Missing(_)), "{error:?}");
            assert!(error.to_string().len() > 40, "says what to do: {error}");
            return false;
        }
    };
    // As a database keeps it.
    let state = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
    let opened = Hierarchy::open(state, Lifetimes::default(), site.keys.clone(), clock.clone());
    let hierarchy = runtime.block_on(opened).expect("what was imported is opened");
    runtime.block_on(hierarchy.create_org(&id("acme"))).unwrap();
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider.clone(), clock).unwrap();
    let key = super::support::key();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let agent = runtime.block_on(hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1"))).unwrap();
    trust.verify(Purpose::Agents, agent.chain()).expect("its agents are believed");
    let server = runtime.block_on(hierarchy.issue_server(key.public(), &["*.kube.example.com"])).unwrap();
    let [leaf, above @ ..] = server.chain() else { panic!("no chain") };
    // As kubectl does: from the root alone.
    let root = hierarchy.root();
    let anchors = [webpki::anchor_from_trusted_cert(&root).unwrap()];
    let leaf = webpki::EndEntityCert::try_from(leaf).unwrap();
    let (algorithms, usage) = (provider.signature_verification_algorithms.all, webpki::KeyUsage::server_auth());
    let at = std::time::Duration::from_secs(now().as_second().unsigned_abs());
    let at = rustls_pki_types::UnixTime::since_unix_epoch(at);
    leaf.verify_for_usage(algorithms, &anchors, above, at, usage, None, None).expect("its servers are believed");
    true
}

fn certified(site: &Site, request: &str) -> bool {
    let (names, life) = (names(), Lifetimes::default());
    let made = site.root.certify(Purpose::Agents, request, &names, &life, now());
    let Ok(pem) = world().runtime.block_on(made) else { return false };
    // Every word is the root's; of the request it has the key alone.
    let certificate = Certificate::from_pem(&pem).expect("one certificate");
    let certificate = certificate.tbs_certificate();
    let asked = CertificateSigningRequestDer::from_pem_slice(request.as_bytes()).expect("a request was certified");
    let asked = x509_cert::request::CertReq::from_der(&asked).expect("a request was certified");
    assert_eq!(certificate.subject_public_key_info().to_der(), asked.info.public_key.to_der());
    assert!(certificate.subject().to_string().contains("CN=agents "), "{}", certificate.subject());
    let (_, basic) = certificate.get_extension::<BasicConstraints>().unwrap().unwrap();
    assert_eq!((basic.ca, basic.path_len_constraint), (true, Some(1)));
    assert!(certificate.get_extension::<x509_cert::ext::pkix::SubjectAltName>().unwrap().is_none());
    true
}
