//! What the authorities issue, and what verifiers make of an authority that has gone bad.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;

use std::{collections::HashSet, sync::Arc};

use jiff::SignedDuration;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use rustls_pki_types::CertificateDer;
use support::{Installation, id, key, now, provider};
use x509_cert::{
    Certificate,
    der::Decode as _,
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, NameConstraints},
};
use ztka_core::{
    Clock, DocumentHeader, DocumentKind, KeyId, ManualClock, OrgId, Revision, SeriesKey, SignatureCheck as _,
};
use ztka_pki::{
    FileKeyStore, Hierarchy, IssueError, KeyKind, KeyStore, Lifetimes, Names, OrgState, OrgStates, PeerError,
    PeerVerifier, Purpose, ValidCsr,
};

fn anchor(at: &Hierarchy, purpose: Purpose) -> CertificateDer<'static> {
    at.trust_bundle().anchors[&purpose][0].certificate.certificate().into_owned()
}

fn path_length(certificate: &CertificateDer<'_>) -> Option<u8> {
    let certificate = Certificate::from_der(certificate).unwrap();
    let (critical, basic) = certificate.tbs_certificate().get_extension::<BasicConstraints>().unwrap().unwrap();
    assert!(critical && basic.ca);
    basic.path_len_constraint
}

#[tokio::test]
async fn authorities_are_limited_as_the_architecture_says() {
    let at = Installation::new().await;
    assert_eq!(path_length(&at.hierarchy.root()), Some(2));
    let expected = [
        (Purpose::Servers, vec!["1.3.6.1.5.5.7.3.1"]),
        (Purpose::Agents, vec!["1.3.6.1.5.5.7.3.2"]),
        (Purpose::Users, vec!["1.3.6.1.5.5.7.3.2"]),
        (Purpose::Proxies, vec!["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]),
        (Purpose::Controllers, vec!["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]),
        (Purpose::Signing, vec!["1.3.6.1.5.5.7.3.36"]),
    ];
    for (purpose, usages) in expected {
        let der = anchor(&at.hierarchy, purpose);
        assert_eq!(path_length(&der), Some(1), "{purpose}");
        let certificate = Certificate::from_der(&der).unwrap();
        let certificate = certificate.tbs_certificate();
        let (_, found) = certificate.get_extension::<ExtendedKeyUsage>().unwrap().unwrap();
        assert_eq!(found.0.iter().map(ToString::to_string).collect::<Vec<_>>(), usages, "{purpose}");
        let constrained = certificate.get_extension::<NameConstraints>().unwrap();
        assert_eq!(constrained.is_some(), purpose == Purpose::Servers);
    }
    for purpose in [Purpose::Agents, Purpose::Users] {
        let issued = at.issue(purpose, "acme", &key()).await;
        assert_eq!(path_length(&issued.chain()[1]), Some(0));
        assert_eq!(issued.chain().len(), 2);
    }
}

#[tokio::test]
async fn serial_numbers_are_long_and_never_the_same() {
    let at = Installation::new().await;
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let issued = at.issue(Purpose::Proxies, "", &key()).await;
        // 128 random bits: fewer than 100 are left out of two hundred about never.
        assert!((25..=32).contains(&issued.serial().len()), "{}", issued.serial());
        assert!(seen.insert(issued.serial().to_owned()));
    }
}

#[tokio::test]
async fn nothing_is_valid_longer_than_its_issuer() {
    let days = |days: i64| SignedDuration::from_hours(24 * days);
    let lifetimes = Lifetimes { root: days(100), purpose: days(300), org: days(300), ..Lifetimes::default() };
    let at = Installation::with(lifetimes).await;
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let user = at.hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &id("k1"), days(365)).await.unwrap();
    assert_eq!(user.not_after(), now() + days(100));
    let nothing = at.hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &id("k1"), SignedDuration::ZERO).await;
    assert!(matches!(nothing, Err(IssueError::Lifetime)));
    at.clock.advance(days(100));
    let late = at.hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await;
    assert!(matches!(late, Err(IssueError::IssuerExpired)), "{late:?}");
}

#[tokio::test]
async fn servers_are_named_at_or_under_the_domain_only() {
    let at = Installation::new().await;
    let key = key();
    for good in ["example.com", "kube.example.com", "*.kube.example.com", "c1.kube.example.com"] {
        at.hierarchy.issue_server(key.public(), &[good]).await.unwrap();
    }
    for bad in [
        "",
        "example.org",
        "badexample.com",
        "kube.example.com.",
        "*.*.example.com",
        "10.0.0.1",
        "Kube.example.com",
        "a b.example.com",
        "*example.com",
        "kube.example.com\n",
    ] {
        let issued = at.hierarchy.issue_server(key.public(), &["kube.example.com", bad]).await;
        assert!(matches!(issued, Err(IssueError::Name(_))), "{bad:?}");
    }
    assert!(at.hierarchy.issue_server(key.public(), &[]).await.is_err());
}

#[tokio::test]
async fn an_unknown_organisation_has_no_agents_and_no_users() {
    let at = Installation::new().await;
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let issued = at.hierarchy.issue_agent(&csr, &id("nobody"), &id("c1"), &id("i1")).await;
    assert!(matches!(issued, Err(IssueError::UnknownOrg(_))));
    assert!(!at.hierarchy.has_org(&id("nobody")) && at.hierarchy.has_org(&id("acme")));
}

#[tokio::test]
async fn a_hierarchy_is_opened_again_without_the_roots_key() {
    let directory = tempfile::tempdir().unwrap();
    let keys: Arc<dyn KeyStore> = Arc::new(FileKeyStore::open(directory.path().join("keys"), provider()).unwrap());
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
    let names = Names::of("example.com");
    let made = Hierarchy::create(names, Lifetimes::default(), keys.clone(), clock.clone()).await.unwrap();
    let org = made.create_org(&id("acme")).await.unwrap();
    // Whoever does it once more gets other certificates for the same keys.
    let again = made.create_org(&id("acme")).await.unwrap();
    assert_eq!(org.users.key, again.users.key);
    let state = serde_json::to_string(&made.state()).unwrap();
    assert!(!state.contains("PRIVATE"));
    keys.destroy(&"root".parse().unwrap()).await.unwrap();

    let state = serde_json::from_str(&state).unwrap();
    let opened = Hierarchy::open(state, Lifetimes::default(), keys.clone(), clock.clone()).await.unwrap();
    assert_eq!(opened.trust_bundle(), made.trust_bundle());
    opened.open_org(&org).await.unwrap();
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let verifier = PeerVerifier::new(&made.trust_bundle(), Purpose::Agents, provider()).unwrap();
    for hierarchy in [&made, &opened] {
        let issued = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
        verifier.verify(issued.chain(), now()).unwrap();
    }
    // A key that is not the certificate's.
    keys.destroy(&"users".parse().unwrap()).await.unwrap();
    keys.create(&"users".parse().unwrap(), KeyKind::default()).await.unwrap();
    let bad = Hierarchy::open(made.state(), Lifetimes::default(), keys.clone(), clock.clone()).await;
    assert!(matches!(bad, Err(IssueError::State(_))));
    let names = Names::of("not a domain");
    assert!(matches!(Hierarchy::create(names, Lifetimes::default(), keys, clock).await, Err(IssueError::Name(_))));
}

/// What one process has stored, and another finds.
#[derive(Debug, Default)]
struct Stored(std::sync::Mutex<Vec<OrgState>>);

#[async_trait::async_trait]
impl OrgStates for Stored {
    async fn org_state(&self, org: &OrgId) -> Result<Option<OrgState>, ztka_core::BoxError> {
        Ok(self.0.lock().unwrap().iter().find(|state| state.org == *org).cloned())
    }

    async fn recertified(&self, before: &OrgState, after: &OrgState) -> Result<(), ztka_core::BoxError> {
        for stored in self.0.lock().unwrap().iter_mut().filter(|stored| *stored == before) {
            *stored = after.clone();
        }
        Ok(())
    }
}

#[tokio::test]
async fn a_second_process_issues_in_an_organisation_that_the_first_has_made() {
    let at = Installation::new().await;
    let (stored, clock) = (Arc::new(Stored::default()), Arc::new(at.clock.clone()));
    let second = Hierarchy::open(at.hierarchy.state(), Lifetimes::default(), at.keys.clone(), clock).await.unwrap();
    let second = second.with_orgs(stored.clone());
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let issue = async || second.issue_agent(&csr, &id("late"), &id("c1"), &id("i1")).await;
    assert!(matches!(issue().await, Err(IssueError::UnknownOrg(_))));
    let made = at.hierarchy.create_org(&id("late")).await.unwrap();
    stored.0.lock().unwrap().push(made);
    at.trust.verify(Purpose::Agents, issue().await.unwrap().chain()).unwrap();
}

#[tokio::test]
async fn documents_are_signed_by_the_signing_key_and_no_other() {
    let at = Installation::new().await;
    let bundle = at.hierarchy.trust_bundle();
    let header = DocumentHeader {
        series: SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() },
        revision: Revision { epoch: 1, version: 1 },
        issued: now(),
        expires: now() + SignedDuration::from_hours(24),
    };
    let document = at.hierarchy.sign_document(header, &bundle).await.unwrap();
    let other = Installation::new().await.hierarchy.trust_bundle();
    assert!(document.clone().accept(&other, None, now()).is_err());
    let accepted = document.accept(&bundle, None, now()).unwrap();
    assert_eq!(accepted.body::<ztka_pki::TrustBundle>().unwrap(), bundle);

    let (key, signature) = at.hierarchy.sign(b"message").await.unwrap();
    assert!(bundle.is_signed(&key, b"message", &signature));
    assert!(!bundle.is_signed(&key, b"massage", &signature));
    assert!(!bundle.is_signed(&KeyId("0".repeat(64)), b"message", &signature));
    // A bundle that calls another key by the name of the trusted one.
    let mut renamed = bundle.clone();
    renamed.signing_keys[0].key = other.signing_keys[0].key.clone();
    assert!(!renamed.is_signed(&key, b"message", &signature));
    let wire = serde_json::to_string(&bundle).unwrap();
    assert_eq!(serde_json::from_str::<ztka_pki::TrustBundle>(&wire).unwrap(), bundle);
}

/// Issues whatever it is told to, with the keys of an authority of ours.
struct Rogue {
    directory: tempfile::TempDir,
    hierarchy: Hierarchy,
    org: OrgState,
}

impl Rogue {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let keys: Arc<dyn KeyStore> = Arc::new(FileKeyStore::open(directory.path().join("keys"), provider()).unwrap());
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(now()));
        let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap();
        let org = hierarchy.create_org(&id("acme")).await.unwrap();
        Self { directory, hierarchy, org }
    }

    fn issuer(&self, key: &str, certificate: &str) -> Issuer<'static, KeyPair> {
        let pem = std::fs::read_to_string(self.directory.path().join("keys").join(format!("{key}.key"))).unwrap();
        Issuer::from_ca_cert_pem(certificate, KeyPair::from_pem(&pem).unwrap()).unwrap()
    }

    fn sign(&self, issuer: &Issuer<'static, KeyPair>, uris: &[&str], ca: bool) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2029, 1, 1);
        params.not_after = rcgen::date_time_ymd(2031, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
        if ca {
            params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        }
        params.signed_by(&KeyPair::generate().unwrap(), issuer).unwrap().into()
    }
}

#[tokio::test]
async fn an_authority_that_has_gone_bad_names_nobody_outside_its_prefix() {
    let rogue = Rogue::new().await;
    let bundle = rogue.hierarchy.trust_bundle();
    let verify = |purpose, chain: &[CertificateDer<'_>]| {
        PeerVerifier::new(&bundle, purpose, provider()).unwrap().verify(chain, now()).map(|peer| peer.id.to_string())
    };
    let org = rogue.issuer(&rogue.org.users.key, &rogue.org.users.certificate);
    let above: CertificateDer<'static> =
        rustls_pki_types::pem::PemObject::from_pem_slice(rogue.org.users.certificate.as_bytes()).unwrap();
    let fine = "spiffe://example.com/org/acme/user/u1/credential/k1";
    assert_eq!(verify(Purpose::Users, &[rogue.sign(&org, &[fine], false), above.clone()]).unwrap(), fine);
    for bad in [
        &["spiffe://example.com/org/evil/user/u1/credential/k1"][..],
        &["spiffe://example.com/org/acme2/user/u1/credential/k1"],
        &["spiffe://example.org/org/acme/user/u1/credential/k1"],
        &["spiffe://example.com/org/acme/cluster/c1/agent/i1"],
        &["spiffe://example.com/proxy/p1"],
        &["spiffe://example.com/controller/t1"],
        &["https://example.com/org/acme/user/u1/credential/k1"],
        &["spiffe://example.com/org/acme/user/../credential/k1"],
        &[fine, "spiffe://example.com/proxy/p1"],
        &[],
    ] {
        let chain = [rogue.sign(&org, bad, false), above.clone()];
        assert_eq!(verify(Purpose::Users, &chain), Err(PeerError::Name), "{bad:?}");
    }
    // An authority below the organisation's; an authority as an end entity.
    let chain = [rogue.sign(&org, &[fine], true), above.clone()];
    assert_eq!(verify(Purpose::Users, &chain), Err(PeerError::Use));

    // The purpose's own authority may not name users directly, past the organisations'.
    let users = anchor(&rogue.hierarchy, Purpose::Users);
    let state = rogue.hierarchy.state();
    let purpose = rogue.issuer("users", &state.purposes[&Purpose::Users].certificate);
    assert_eq!(verify(Purpose::Users, &[rogue.sign(&purpose, &[fine], false), users]), Err(PeerError::Name));
    // Nor a proxy's authority a user; and a user's verifier does not know it at all.
    let proxies = rogue.issuer("proxies", &state.purposes[&Purpose::Proxies].certificate);
    let chain = [rogue.sign(&proxies, &[fine], false)];
    assert_eq!(verify(Purpose::Proxies, &chain), Err(PeerError::Name));
    assert_eq!(verify(Purpose::Users, &chain), Err(PeerError::Untrusted));
    // The root itself is no anchor.
    let root = rogue.issuer("root", &state.root.certificate);
    assert_eq!(verify(Purpose::Users, &[rogue.sign(&root, &[fine], false)]), Err(PeerError::Untrusted));
}

#[tokio::test]
async fn chains_that_are_nonsense_are_refused_in_bounded_time() {
    let at = Installation::new().await;
    let chain = at.issue(Purpose::Agents, "acme", &key()).await.chain().to_vec();
    let verify = |chain: &[CertificateDer<'_>]| at.trust.verify(Purpose::Agents, chain).map(drop);
    assert_eq!(verify(&[]), Err(PeerError::Length));
    assert_eq!(verify(&vec![chain[0].clone(); 7]), Err(PeerError::Length));
    assert_eq!(verify(&[CertificateDer::from_slice(b"rubbish")]), Err(PeerError::Unreadable));
    assert_eq!(verify(&[chain[1].clone(), chain[0].clone()]), Err(PeerError::Use));
    for at in 0..chain[0].len() {
        let mut bent = chain[0].to_vec();
        bent[at] ^= 1;
        assert!(verify(&[bent.into(), chain[1].clone()]).is_err(), "byte {at}");
    }
    verify(&chain).unwrap();
    let trust = at.trust.clone();
    at.clock.advance(SignedDuration::from_hours(72));
    assert!(trust.verify(Purpose::Agents, &chain).is_ok());
    at.clock.advance(SignedDuration::from_secs(1));
    assert_eq!(trust.verify(Purpose::Agents, &chain).err(), Some(PeerError::Expired));
}
