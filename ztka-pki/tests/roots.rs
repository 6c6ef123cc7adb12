//! Roots whose key is elsewhere: offline, or somebody else's.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;
#[path = "support/world.rs"]
mod world;

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use support::{id, key, now, provider};
use world::{Folk, Process, States, World, days};
use x509_cert::{
    der::{
        DecodePem as _, Encode as _,
        pem::{LineEnding, encode_string},
    },
    request::CertReq,
};
use ztka_core::{Clock, ManualClock};
use ztka_pki::{
    AuthorityName, AuthorityStates as _, Awaited, CaPin, Hierarchy, ImportError, IssueError, KeyStore, Lifetimes,
    MemoryKeyStore, Names, Passphrase, Phase, Purpose, Root, RotationError, Rotator, SoftwareKey, TrustSource,
    ValidCsr,
};

fn names() -> Names {
    Names::of("example.com")
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(ManualClock::at(now()))
}

async fn issues_what_is_believed(hierarchy: &Hierarchy) {
    hierarchy.create_org(&id("acme")).await.unwrap();
    let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
    let trust = TrustSource::new(hierarchy.trust_bundle(), provider(), clock()).unwrap();
    let agent = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
    trust.verify(Purpose::Agents, agent.chain()).unwrap();
    let user = hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &id("k1"), days(30)).await.unwrap();
    trust.verify(Purpose::Users, user.chain()).unwrap();
    let server = hierarchy.issue_server(csr.key(), &["*.kube.example.com"]).await.unwrap();
    assert!(world::believes(&[hierarchy.root()], server.chain(), now()), "kubectl believes its servers");
}

/// A hierarchy below a root whose key went into a file with a passphrase, and the root as it is opened from there.
async fn offline() -> (Process, Arc<States>, Root) {
    let passphrase = Passphrase::new("correct horse battery staple").unwrap();
    let kept = SoftwareKey::generate(&provider()).unwrap().to_encrypted_pem(&passphrase).unwrap();
    assert!(kept.contains("ENCRYPTED PRIVATE KEY"));
    let wrong = Passphrase::new("wrong").unwrap();
    assert!(SoftwareKey::from_encrypted_pem(kept.as_bytes(), &wrong, &provider()).is_err());
    let signer = SoftwareKey::from_encrypted_pem(kept.as_bytes(), &passphrase, &provider()).unwrap();
    let root = Root::create(Arc::new(signer), &Lifetimes::default(), now()).await.unwrap();
    let keys: Arc<dyn KeyStore> = Arc::new(MemoryKeyStore::new(provider()));
    let made = Hierarchy::create_below(names(), Lifetimes::default(), &root, keys.clone(), clock()).await.unwrap();
    assert!(keys.open(&"root".parse().unwrap()).await.is_err(), "the root's key is not kept");
    let states = Arc::new(States::default());
    states.replace_hierarchy(&made.state(), None).await.unwrap();
    let hierarchy = Arc::new(Hierarchy::open(made.state(), Lifetimes::default(), keys, clock()).await.unwrap());
    let folk = Folk::nobody(&states, &ManualClock::at(now()));
    let rotator = Rotator::new(hierarchy.clone(), states.clone(), Arc::new(folk), provider());
    let signer = SoftwareKey::from_encrypted_pem(kept.as_bytes(), &passphrase, &provider()).unwrap();
    let root = Root::open(&root.pem(), Arc::new(signer)).unwrap();
    (Process { hierarchy, rotator }, states, root)
}

#[tokio::test]
async fn a_root_that_is_offline_signs_what_is_requested_of_it() {
    let (Process { hierarchy, rotator }, states, root) = offline().await;
    issues_what_is_believed(&hierarchy).await;
    let agents: AuthorityName = "agents".parse().unwrap();
    for name in [agents.clone(), AuthorityName::Root] {
        assert!(matches!(rotator.publish(&name, false).await, Err(RotationError::RootElsewhere)), "{name}");
        assert!(matches!(rotator.cut_off(&name).await, Err(RotationError::RootElsewhere)), "{name}");
    }
    // An organisation's authority is the purpose's business.
    assert!(rotator.publish_certified(Purpose::Agents, &root.pem(), false).await.is_err(), "nothing was requested");
    let request = rotator.request(Purpose::Agents).await.unwrap();
    let again = rotator.request(Purpose::Agents).await.unwrap();
    let key = |request: &str| ValidCsr::from_pem(request.as_bytes()).err();
    assert_eq!(key(&request), key(&again), "both ask for an authority");
    assert_eq!(states.stored().rotations[&agents].phase, Phase::Requested);
    assert_eq!(hierarchy.trust_bundle().anchors[&Purpose::Agents].len(), 1, "nobody believes a request");
    let sign =
        async |purpose, request: &str| root.certify(purpose, request, &names(), &Lifetimes::default(), now()).await;
    let other = rotator.request(Purpose::Users).await.unwrap();
    let of_other = sign(Purpose::Agents, &other).await.unwrap();
    let refused = rotator.publish_certified(Purpose::Agents, &of_other, false).await;
    assert!(matches!(refused, Err(RotationError::Import(ImportError::Key(_)))), "{refused:?}");
    rotator.roll_back(&"users".parse().unwrap()).await.unwrap();
    let chain = sign(Purpose::Agents, &again).await.unwrap();
    rotator.publish_certified(Purpose::Agents, &chain, false).await.unwrap();
    assert_eq!(hierarchy.trust_bundle().anchors[&Purpose::Agents].len(), 2);
    rotator.activate(&agents, false).await.unwrap();
    rotator.retire(&agents, false).await.unwrap();
    issues_what_is_believed(&hierarchy).await;
    assert!(root.certify(Purpose::Agents, "rubbish", &names(), &Lifetimes::default(), now()).await.is_err());
}

#[tokio::test]
async fn a_root_that_is_offline_is_succeeded_by_another_one() {
    let (Process { hierarchy, rotator }, states, root) = offline().await;
    let old = hierarchy.root();
    let signer = Arc::new(SoftwareKey::generate(&provider()).unwrap());
    let next = Root::create(signer, &Lifetimes::default(), now()).await.unwrap();
    let cross = root.cross_certify(&next.pem(), now()).await.unwrap();
    let mut chains = BTreeMap::new();
    for (purpose, request) in rotator.requests().await.unwrap() {
        chains.insert(purpose, next.certify(purpose, &request, &names(), &Lifetimes::default(), now()).await.unwrap());
    }
    let stranger = Arc::new(SoftwareKey::generate(&provider()).unwrap());
    let stranger = Root::create(stranger, &Lifetimes::default(), now()).await.unwrap();
    let by_stranger = stranger.cross_certify(&next.pem(), now()).await.unwrap();
    let refused = rotator.publish_root(&next.pem(), Some(&by_stranger), &chains, false).await;
    assert!(matches!(refused, Err(RotationError::Import(ImportError::Cross))), "{refused:?}");
    rotator.publish_root(&next.pem(), Some(&cross), &chains, false).await.unwrap();
    rotator.activate(&AuthorityName::Root, false).await.unwrap();
    let server = hierarchy.issue_server(key().public(), &["*.kube.example.com"]).await.unwrap();
    for known in [old.clone(), hierarchy.root()] {
        assert!(world::believes(&[known], server.chain(), now()));
    }
    rotator.retire(&AuthorityName::Root, false).await.unwrap();
    let server = hierarchy.issue_server(key().public(), &["*.kube.example.com"]).await.unwrap();
    assert!(!world::believes(&[old], server.chain(), now()));
    issues_what_is_believed(&hierarchy).await;
    assert!(states.stored().root.key.is_empty());
}

#[tokio::test]
async fn a_new_root_is_not_published_without_its_cross_certificate() {
    let (Process { hierarchy, rotator }, states, root) = offline().await;
    let signer = Arc::new(SoftwareKey::generate(&provider()).unwrap());
    let next = Root::create(signer, &Lifetimes::default(), now()).await.unwrap();
    let cross = root.cross_certify(&next.pem(), now()).await.unwrap();
    let mut chains = BTreeMap::new();
    for (purpose, request) in rotator.requests().await.unwrap() {
        let chain = next.certify(purpose, &request, &names(), &Lifetimes::default(), now()).await.unwrap();
        // As somebody does who takes "the chain" for all that there is: it leads up to both roots.
        chains.insert(purpose, format!("{chain}{cross}"));
    }
    let before = states.stored();
    for bad in ["", "rubbish", &format!("{cross}{cross}"), &next.pem(), &root.pem()] {
        let refused = rotator.publish_root(&next.pem(), Some(bad), &chains, false).await;
        assert!(matches!(refused, Err(RotationError::Import(ImportError::Cross))), "{bad}: {refused:?}");
        assert_eq!(states.stored(), before);
    }
    rotator.publish_root(&next.pem(), Some(&cross), &chains, false).await.unwrap();
    rotator.activate(&AuthorityName::Root, false).await.unwrap();
    issues_what_is_believed(&hierarchy).await;
}

/// A root of somebody else's, with a tool of theirs.
struct Corporate {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Corporate {
    fn new() -> Self {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, "Corporate Root");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(), pem }
    }

    /// What they make of a request; `bend` says what they do wrong.
    fn sign(&self, purpose: Purpose, request: &str, bend: impl Fn(&mut CertificateParams)) -> String {
        let request = CertReq::from_pem(request).unwrap();
        let key = SubjectPublicKeyInfo::from_der(&request.info.public_key.to_der().unwrap()).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, purpose.as_str());
        let usages = match purpose {
            Purpose::Servers => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Purpose::Agents | Purpose::Users => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Proxies | Purpose::Controllers => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Purpose::Signing => vec![ExtendedKeyUsagePurpose::Other(vec![1, 3, 6, 1, 5, 5, 7, 3, 36])],
        };
        params.extended_key_usages = usages;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if purpose == Purpose::Servers {
            params.name_constraints = Some(permitted("example.com"));
        }
        params.not_before = rcgen::date_time_ymd(2029, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        bend(&mut params);
        params.signed_by(&key, &self.issuer).unwrap().pem()
    }
}

fn permitted(name: &str) -> NameConstraints {
    NameConstraints { permitted_subtrees: vec![GeneralSubtree::DnsName(name.into())], excluded_subtrees: vec![] }
}

#[tokio::test]
async fn a_root_of_somebody_elses_signs_our_intermediates() {
    let keys = MemoryKeyStore::new(provider());
    let requests = Hierarchy::requests(&names(), &keys).await.unwrap();
    assert_eq!(requests.len(), 6);
    assert_eq!(Hierarchy::requests(&names(), &keys).await.unwrap().keys().count(), 6, "may be repeated");
    let corporate = Corporate::new();
    let good: BTreeMap<_, _> =
        requests.iter().map(|(purpose, request)| (*purpose, corporate.sign(*purpose, request, |_| ()))).collect();
    let state = Hierarchy::import(names(), &corporate.pem, &good, &keys, &provider(), now()).await.unwrap();
    let keys: Arc<dyn KeyStore> = Arc::new(keys);
    let hierarchy = Hierarchy::open(state, Lifetimes::default(), keys.clone(), clock()).await.unwrap();
    issues_what_is_believed(&hierarchy).await;

    // By a sub-CA of theirs, which servers then present.
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(2));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "Corporate Sub-CA");
    let between = params.signed_by(&key, &corporate.issuer).unwrap().pem();
    let below = Corporate { issuer: Issuer::from_ca_cert_pem(&between, key).unwrap(), pem: corporate.pem.clone() };
    let chained: BTreeMap<_, _> = requests
        .iter()
        .map(|(purpose, request)| {
            (*purpose, format!("{}{between}{}", below.sign(*purpose, request, |_| ()), below.pem))
        })
        .collect();
    let state = Hierarchy::import(names(), &below.pem, &chained, &*keys, &provider(), now()).await.unwrap();
    let hierarchy = Hierarchy::open(state, Lifetimes::default(), keys.clone(), clock()).await.unwrap();
    issues_what_is_believed(&hierarchy).await;

    // What may be wrong with one, each with words of its own; and nothing is taken over then.
    let import = async |chains: &BTreeMap<Purpose, String>, root: &str, at| {
        Hierarchy::import(names(), root, chains, &*keys, &provider(), at).await.err().map(|error| {
            assert!(error.to_string().len() > 40, "says what to do: {error}");
            error
        })
    };
    let bent = async |purpose: Purpose, bend: &dyn Fn(&mut CertificateParams)| {
        let mut chains = good.clone();
        chains.insert(purpose, corporate.sign(purpose, &requests[&purpose], bend));
        import(&chains, &corporate.pem, now()).await.unwrap()
    };
    let with = async |purpose: Purpose, chain: String| {
        let mut chains = good.clone();
        chains.insert(purpose, chain);
        import(&chains, &corporate.pem, now()).await.unwrap()
    };
    let (agents, servers) = (Purpose::Agents, Purpose::Servers);
    let error = bent(agents, &|params| params.is_ca = IsCa::ExplicitNoCa).await;
    assert!(matches!(error, ImportError::NotAuthority(Purpose::Agents)), "{error:?}");
    let error = bent(agents, &|params| params.key_usages = vec![KeyUsagePurpose::DigitalSignature]).await;
    assert!(matches!(error, ImportError::NotAuthority(_)), "{error:?}");
    let error = bent(agents, &|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0))).await;
    assert!(matches!(error, ImportError::PathLength { needed: 1, .. }), "{error:?}");
    for (purpose, wrong) in [
        (agents, ExtendedKeyUsagePurpose::ServerAuth),
        (servers, ExtendedKeyUsagePurpose::ClientAuth),
        (Purpose::Proxies, ExtendedKeyUsagePurpose::ClientAuth),
        (Purpose::Signing, ExtendedKeyUsagePurpose::ServerAuth),
    ] {
        let error = bent(purpose, &|params| params.extended_key_usages = vec![wrong.clone()]).await;
        assert!(matches!(error, ImportError::Usage { .. }), "{purpose}: {error:?}");
    }
    let error = bent(servers, &|params| params.name_constraints = None).await;
    assert!(matches!(error, ImportError::Unconstrained), "{error:?}");
    for other in ["example.org", "sub.example.com", "ample.com"] {
        let error = bent(servers, &|params| params.name_constraints = Some(permitted(other))).await;
        assert!(matches!(error, ImportError::NameConstraints(_)), "{other}: {error:?}");
    }
    let error = bent(agents, &|params| params.name_constraints = Some(permitted("example.com"))).await;
    assert!(matches!(error, ImportError::NameConstraints(Purpose::Agents)), "{error:?}");
    let error = bent(agents, &|params| params.not_after = rcgen::date_time_ymd(2029, 6, 1)).await;
    assert!(matches!(error, ImportError::NotValid(_)), "{error:?}");
    let error = bent(agents, &|params| params.not_before = rcgen::date_time_ymd(2031, 6, 1)).await;
    assert!(matches!(error, ImportError::NotValid(_)), "{error:?}");
    let error = with(agents, good[&servers].clone()).await;
    assert!(matches!(error, ImportError::Key(Purpose::Agents)), "{error:?}");
    for unreadable in ["", "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        let error = with(agents, unreadable.into()).await;
        assert!(matches!(error, ImportError::Unreadable(Purpose::Agents)), "{error:?}");
    }
    let error = with(agents, good[&agents].clone() + &between + &between + &between + &between).await;
    assert!(matches!(error, ImportError::Length(_)), "{error:?}");
    let stranger = Corporate::new();
    let error = with(agents, stranger.sign(agents, &requests[&agents], |_| ())).await;
    assert!(matches!(error, ImportError::NotBelowRoot(_)), "{error:?}");
    let error = with(agents, below.sign(agents, &requests[&agents], |_| ())).await;
    assert!(matches!(error, ImportError::NotBelowRoot(_)), "the one in between is missing: {error:?}");
    let mut missing = good.clone();
    missing.remove(&Purpose::Signing);
    let error = import(&missing, &corporate.pem, now()).await.unwrap();
    assert!(matches!(error, ImportError::Missing(Purpose::Signing)), "{error:?}");
    for root in ["", &good[&agents][..100], &(corporate.pem.clone() + &corporate.pem)] {
        let error = import(&good, root, now()).await.unwrap();
        assert!(matches!(error, ImportError::Root), "{error:?}");
    }
    let empty = MemoryKeyStore::new(provider());
    let error = Hierarchy::import(names(), &corporate.pem, &good, &empty, &provider(), now()).await.unwrap_err();
    assert!(matches!(error, ImportError::Issue(IssueError::Key(_))), "{error:?}");
}

/// From our own root, whose key is at hand, to one of somebody else's.
#[tokio::test]
async fn a_root_of_somebody_elses_succeeds_our_own() {
    let world = World::new().await;
    let (hierarchy, rotator) = (world.process.hierarchy.clone(), world.process.rotator.clone());
    let (old, corporate) = (hierarchy.root(), Corporate::new());
    let chains = async |by: &Corporate| {
        let requests = rotator.requests().await.unwrap().into_iter();
        requests.map(|(purpose, request)| (purpose, by.sign(purpose, &request, |_| ()))).collect::<BTreeMap<_, _>>()
    };
    for (root, error) in
        [("rubbish", "not one CA certificate"), (chains(&corporate).await[&Purpose::Agents].as_str(), "")]
    {
        let refused = rotator.publish_root(root, None, &chains(&corporate).await, false).await.unwrap_err();
        assert!(refused.to_string().contains(error) && !format!("{refused:?}").contains("Conflict"), "{refused:?}");
    }
    let refused = rotator.publish_root(&corporate.pem, None, &chains(&Corporate::new()).await, false).await;
    assert!(matches!(refused, Err(RotationError::Import(ImportError::NotBelowRoot(_)))), "{refused:?}");
    rotator.publish_root(&corporate.pem, None, &chains(&corporate).await, false).await.unwrap();
    world.hear().await;
    let early = world.kubeconfig(world::days(30)).await;
    rotator.activate(&AuthorityName::Root, false).await.unwrap();
    world.hear().await;
    // Whoever knows one of the roots believes a server, by webpki and by openssl.
    let server = hierarchy.issue_server(key().public(), &["*.kube.example.com"]).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        std::fs::write(directory.path().join(name), content).unwrap();
    };
    let pem = server.pem();
    let end = "-----END CERTIFICATE-----\n";
    let (leaf, above) = pem.split_once(end).unwrap();
    file("leaf", &format!("{leaf}{end}"));
    file("above", above);
    let as_pem = |der: &CertificateDer<'_>| encode_string("CERTIFICATE", LineEnding::LF, der).unwrap();
    for known in [old.clone(), hierarchy.root()] {
        assert!(world::believes(std::slice::from_ref(&known), server.chain(), world.clock.now()));
        file("root", &as_pem(&known));
        let at = world.clock.now().as_second().to_string();
        let verify = ["verify", "-purpose", "sslserver", "-attime", &at, "-CAfile", "root"];
        let mut command = std::process::Command::new("openssl");
        command.args(verify).args(["-untrusted", "above", "leaf"]).current_dir(directory.path());
        let judged = command.output().unwrap();
        assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    }
    assert_eq!(early.roots.len(), 2, "kubeconfigs since publish know both");
    rotator.retire(&AuthorityName::Root, true).await.unwrap();
    let server = hierarchy.issue_server(key().public(), &["*.kube.example.com"]).await.unwrap();
    assert!(!world::believes(&[old], server.chain(), world.clock.now()));
    assert!(world::believes(&[hierarchy.root()], server.chain(), world.clock.now()));
    issues_what_is_believed(&hierarchy).await;
    assert!(world.states.stored().root.key.is_empty(), "its key is elsewhere");
}

/// Enrolment tokens pin the root that signs when they are made.
#[tokio::test]
async fn tokens_are_good_until_the_end_of_their_root_and_are_waited_for() {
    let world = World::new().await;
    let (hierarchy, rotator, root) = (&world.process.hierarchy, &world.process.rotator, AuthorityName::Root);
    let token = || {
        let token = (world.clock.now(), hierarchy.pin());
        world.folk.0.lock().unwrap().tokens.push(token);
        token
    };
    let works = async |token: &(Timestamp, CaPin)| world.pinned(token.1, &world.server().await).await;
    let waited_for = async || {
        let awaited = rotator.awaited(&root).await.unwrap();
        let tokens = awaited.into_iter().filter(|one| one.awaited == Awaited::Token);
        tokens.map(|one| one.who).collect::<Vec<_>>()
    };
    let first = token();
    world.advance(SignedDuration::from_mins(1));
    rotator.publish(&root, false).await.unwrap();
    world.hear().await;
    let second = token();
    world.advance(SignedDuration::from_secs(1));
    assert_eq!(waited_for().await, Vec::<String>::new(), "to activate harms no token");
    rotator.activate(&root, false).await.unwrap();
    world.hear().await;
    let third = token();
    for token in [&first, &second, &third] {
        assert!(works(token).await, "{token:?}");
    }
    let who = |token: &(Timestamp, CaPin)| format!("token/{}", token.0);
    assert_eq!(waited_for().await, [who(&first), who(&second)]);
    assert!(matches!(rotator.retire(&root, false).await, Err(RotationError::Waiting(_))));

    // Back, and forth again.
    let lost = rotator.roll_back(&root).await.unwrap();
    assert_eq!(lost.iter().map(|one| one.who.clone()).collect::<Vec<_>>(), [who(&third)]);
    assert!(works(&first).await && works(&second).await && !works(&third).await);
    world.hear().await;
    assert_eq!(rotator.roll_back(&root).await.unwrap(), [], "the old root's go on working");
    for token in [&first, &second, &third] {
        assert!(works(token).await, "{token:?}");
    }
    // An emergency names them.
    world.advance(SignedDuration::from_mins(1));
    let lost = rotator.cut_off(&root).await.unwrap();
    let lost: Vec<_> = lost.iter().filter(|one| one.awaited == Awaited::Token).map(|one| one.who.clone()).collect();
    assert!(lost.contains(&who(&first)) && lost.contains(&who(&second)), "{lost:?}");
    assert!(!works(&first).await && works(&third).await);
}

/// A tool that grants what the requests ask for: so they ask for all that is needed.
#[tokio::test]
async fn what_the_requests_ask_for_is_enough() {
    let keys = MemoryKeyStore::new(provider());
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let (root, root_key) = (path("root.pem"), path("root.key"));
    openssl(&[
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=Corporate",
        "-days",
        "7000",
        "-keyout",
        &root_key,
        "-out",
        &root,
    ]);
    let mut chains = BTreeMap::new();
    for (purpose, request) in Hierarchy::requests(&names(), &keys).await.unwrap() {
        let file = path(purpose.as_str());
        std::fs::write(&file, request).unwrap();
        let sign = [
            "x509",
            "-req",
            "-in",
            &file,
            "-CA",
            &root,
            "-CAkey",
            &root_key,
            "-copy_extensions",
            "copyall",
            "-days",
            "6000",
        ];
        chains.insert(purpose, openssl(&sign));
    }
    let root = std::fs::read_to_string(root).unwrap();
    let now = ztka_core::SystemClock.now();
    let state = Hierarchy::import(names(), &root, &chains, &keys, &provider(), now).await.unwrap();
    let keys: Arc<dyn KeyStore> = Arc::new(keys);
    let hierarchy = Hierarchy::open(state, Lifetimes::default(), keys, clock()).await.unwrap();
    issues_what_is_believed(&hierarchy).await;
}

#[tokio::test]
async fn a_hierarchy_of_before_there_were_rotations_is_opened() {
    let world = World::new().await;
    let mut state = serde_json::to_value(world.states.stored()).unwrap();
    state.as_object_mut().unwrap().remove("generation");
    assert_eq!(state.as_object().unwrap().len(), 3, "names, root and purposes: {state}");
    let state = serde_json::from_value(state).unwrap();
    let opened = Hierarchy::open(state, Lifetimes::default(), world.keys.clone(), clock()).await.unwrap();
    assert_eq!(opened.trust_bundle(), world.process.hierarchy.trust_bundle());
}
