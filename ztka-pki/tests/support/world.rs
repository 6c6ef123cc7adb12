//! An installation whose authorities are rotated: its members, what they have heard, and what is stored.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::missing_panics_doc, clippy::expect_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rustls::{RootCertStore, client::WebPkiServerVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};
use ztka_core::{
    BoxError, Clock, DocumentHeader, DocumentKind, KeyId, ManualClock, OrgId, Revision, SeriesKey, SignedDocument,
    Subject,
};
use ztka_pki::{
    AuthorityStates, Awaited, CaPin, ClientAuth, Credential, CredentialSource, Hierarchy, HierarchyState, IssueError,
    KeyError, KeyKind, KeyName, KeyStore, Lifetimes, MemoryKeyStore, Names, OrgState, OrgStates, Population, PublicKey,
    Purpose, Rotator, Signed, Signer, SoftwareKey, Straggler, TrustSource, ValidCsr, tls,
};

use crate::support::{handshake, id, key, now, provider};

pub fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

/// Kills whoever writes for the n-th time: before it is written, or just after.
#[derive(Debug, Default)]
pub struct Killer {
    left: AtomicUsize,
    after: AtomicBool,
    armed: AtomicBool,
}

impl Killer {
    pub fn arm(&self, left: usize, after: bool) {
        self.left.store(left, SeqCst);
        self.after.store(after, SeqCst);
        self.armed.store(true, SeqCst);
    }

    /// `true` if it never came to that.
    pub fn disarm(&self) -> bool {
        self.armed.swap(false, SeqCst)
    }

    /// What happens to this write.
    fn write<T>(&self, write: impl FnOnce() -> T) -> Result<T, BoxError> {
        let hit = self.armed.load(SeqCst) && self.left.fetch_sub(1, SeqCst) == 0;
        if !hit {
            return Ok(write());
        }
        self.armed.store(false, SeqCst);
        if self.after.load(SeqCst) {
            write();
        }
        Err("killed".into())
    }
}

/// What is stored, in memory.
#[derive(Debug, Default)]
pub struct States {
    pub killer: Arc<Killer>,
    hierarchy: Mutex<Option<HierarchyState>>,
    orgs: Mutex<BTreeMap<OrgId, OrgState>>,
}

impl States {
    pub fn stored(&self) -> HierarchyState {
        self.hierarchy.lock().unwrap().clone().unwrap()
    }

    pub fn keep_org(&self, state: &OrgState) {
        self.orgs.lock().unwrap().insert(state.org.clone(), state.clone());
    }
}

#[async_trait]
impl OrgStates for States {
    async fn org_state(&self, org: &OrgId) -> Result<Option<OrgState>, BoxError> {
        Ok(self.orgs.lock().unwrap().get(org).cloned())
    }

    async fn recertified(&self, before: &OrgState, after: &OrgState) -> Result<(), BoxError> {
        for stored in self.orgs.lock().unwrap().values_mut().filter(|stored| *stored == before) {
            *stored = after.clone();
        }
        Ok(())
    }
}

#[async_trait]
impl AuthorityStates for States {
    async fn hierarchy_state(&self) -> Result<Option<HierarchyState>, BoxError> {
        Ok(self.hierarchy.lock().unwrap().clone())
    }

    async fn replace_hierarchy(&self, next: &HierarchyState, org: Option<&OrgState>) -> Result<bool, BoxError> {
        self.killer.write(|| {
            let mut stored = self.hierarchy.lock().unwrap();
            let fits = stored.as_ref().is_none_or(|stored| stored.generation + 1 == next.generation);
            // As a database keeps it.
            let json = serde_json::to_string(next).unwrap();
            if fits {
                *stored = Some(serde_json::from_str(&json).unwrap());
                org.into_iter().for_each(|org| self.keep_org(org));
            }
            fits
        })
    }
}

/// Keys in a module that may be away, and whose writes may kill.
#[derive(Debug)]
pub struct Module {
    inner: MemoryKeyStore,
    killer: Arc<Killer>,
    pub away: Arc<AtomicBool>,
}

#[derive(Debug)]
struct InModule(Arc<dyn Signer>, Arc<AtomicBool>);

#[async_trait]
impl Signer for InModule {
    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    async fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        there(&self.1)?;
        self.0.sign(message).await
    }
}

fn there(away: &AtomicBool) -> Result<(), KeyError> {
    if away.load(SeqCst) { Err(KeyError::Unavailable("the token is not there".into())) } else { Ok(()) }
}

#[async_trait]
impl KeyStore for Module {
    async fn create(&self, name: &KeyName, kind: KeyKind) -> Result<Arc<dyn Signer>, KeyError> {
        there(&self.away)?;
        let made = self.killer.write(|| self.inner.create(name, kind)).map_err(KeyError::Unavailable)?;
        Ok(Arc::new(InModule(made.await?, self.away.clone())))
    }

    async fn open(&self, name: &KeyName) -> Result<Arc<dyn Signer>, KeyError> {
        there(&self.away)?;
        Ok(Arc::new(InModule(self.inner.open(name).await?, self.away.clone())))
    }

    async fn destroy(&self, name: &KeyName) -> Result<(), KeyError> {
        there(&self.away)?;
        self.killer.write(|| self.inner.destroy(name)).map_err(KeyError::Unavailable)?.await
    }
}

/// An agent or a proxy.
#[derive(Debug)]
pub struct Member {
    pub subject: Subject,
    pub purpose: Purpose,
    pub credential: CredentialSource,
    pub trust: TrustSource,
    /// What it presents to users, if it is a proxy.
    pub server: Option<CredentialSource>,
    /// The generation of the trust that it has confirmed.
    pub confirmed: u64,
    pub asleep: bool,
}

/// A kubeconfig.
#[derive(Clone, Debug)]
pub struct Kubeconfig {
    pub roots: Vec<CertificateDer<'static>>,
    pub credential: Credential,
    pub created: Timestamp,
}

#[derive(Debug, Default)]
pub struct People {
    pub members: Vec<Member>,
    pub kubeconfigs: Vec<Kubeconfig>,
    /// When each document but trust was signed last.
    pub documents: Vec<Timestamp>,
    /// When enrolment tokens were made, for a week, and what they pin.
    pub tokens: Vec<(Timestamp, CaPin)>,
}

#[derive(Clone, Debug)]
pub struct Folk(pub Arc<Mutex<People>>, Arc<States>, ManualClock);

impl Folk {
    pub fn nobody(states: &Arc<States>, clock: &ManualClock) -> Self {
        Self(Arc::default(), states.clone(), clock.clone())
    }

    fn stragglers(&self, awaited: Awaited, of: impl Fn(&Member) -> bool) -> Vec<Straggler> {
        let people = self.0.lock().unwrap();
        let now = self.2.now();
        let live = people.members.iter().filter(|member| member.credential.current().not_after() > now);
        let straggler = |member: &Member| Straggler {
            who: member.subject.to_string(),
            awaited,
            last_seen: None,
            until: Some(member.credential.current().not_after()),
        };
        live.filter(|member| of(member)).map(straggler).collect()
    }
}

#[async_trait]
impl Population for Folk {
    async fn without_trust(&self) -> Result<Vec<Straggler>, BoxError> {
        let generation = self.1.stored().generation;
        Ok(self.stragglers(Awaited::Trust, |member| member.confirmed < generation))
    }

    async fn certified_by(
        &self,
        authority: &KeyId,
        purpose: Purpose,
        _: Option<&OrgId>,
    ) -> Result<Vec<Straggler>, BoxError> {
        Ok(self.stragglers(Awaited::Certificate, |member| {
            let verified = member.trust.identify(purpose, member.credential.current().chain());
            member.purpose == purpose && verified.is_ok_and(|peer| peer.authorities.contains(authority))
        }))
    }

    async fn not_presenting(&self, chain: &str) -> Result<Vec<Straggler>, BoxError> {
        Ok(self.stragglers(Awaited::ServerChain, |member| {
            member.server.as_ref().is_some_and(|server| server.current().above_id() != chain)
        }))
    }

    async fn credentials(&self, issued: Signed, _: Option<&OrgId>) -> Result<Vec<Straggler>, BoxError> {
        let people = self.0.lock().unwrap();
        let now = self.2.now();
        let live = people.kubeconfigs.iter().filter(|config| config.credential.not_after() > now);
        let then = live
            .filter(|config| issued.from.is_none_or(|from| config.created >= from) && config.created <= issued.until);
        let straggler = |config: &Kubeconfig| Straggler {
            who: config.credential.id().unwrap().subject.to_string(),
            awaited: Awaited::Credential,
            last_seen: None,
            until: Some(config.credential.not_after()),
        };
        Ok(then.map(straggler).collect())
    }

    async fn tokens(&self, made: Signed) -> Result<Vec<Straggler>, BoxError> {
        let (people, now) = (self.0.lock().unwrap(), self.2.now());
        let live = people.tokens.iter().filter(|(created, _)| *created + days(7) > now);
        let then = live.filter(|(created, _)| made.from.is_none_or(|from| *created >= from) && *created <= made.until);
        let straggler = |(created, _): &(Timestamp, CaPin)| Straggler {
            who: format!("token/{created}"),
            awaited: Awaited::Token,
            last_seen: None,
            until: Some(*created + days(7)),
        };
        Ok(then.map(straggler).collect())
    }

    async fn documents_before(&self, at: Timestamp) -> Result<usize, BoxError> {
        Ok(self.0.lock().unwrap().documents.iter().filter(|signed| **signed < at).count())
    }
}

/// One process over what is stored.
#[derive(Clone, Debug)]
pub struct Process {
    pub hierarchy: Arc<Hierarchy>,
    pub rotator: Rotator,
}

pub struct World {
    pub clock: ManualClock,
    pub killer: Arc<Killer>,
    pub away: Arc<AtomicBool>,
    pub keys: Arc<dyn KeyStore>,
    pub states: Arc<States>,
    pub folk: Folk,
    pub lifetimes: Lifetimes,
    pub process: Process,
    /// What a controller believes.
    controller: Mutex<Option<TrustSource>>,
}

impl World {
    /// Organisations `acme` and `evil`, an agent of each, two proxies, and a kubeconfig of 30 days in `acme`.
    pub async fn new() -> Self {
        let world = Self::empty(Lifetimes::default()).await;
        world.people().await;
        world
    }

    pub async fn empty(lifetimes: Lifetimes) -> Self {
        let (clock, killer) = (ManualClock::at(now()), Arc::new(Killer::default()));
        let away = Arc::new(AtomicBool::new(false));
        let module = Module { inner: MemoryKeyStore::new(provider()), killer: killer.clone(), away: away.clone() };
        let keys: Arc<dyn KeyStore> = Arc::new(module);
        let states = Arc::new(States { killer: killer.clone(), ..States::default() });
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let made = Hierarchy::create(Names::of("example.com"), lifetimes, keys.clone(), shared).await.unwrap();
        assert!(states.replace_hierarchy(&made.state(), None).await.unwrap());
        for org in ["acme", "evil"] {
            states.keep_org(&made.create_org(&id(org)).await.unwrap());
        }
        let folk = Folk(Arc::default(), states.clone(), clock.clone());
        let process = open(&states, lifetimes, &keys, &clock, &folk).await;
        Self { clock, killer, away, keys, states, folk, lifetimes, process, controller: Mutex::default() }
    }

    pub async fn people(&self) {
        for (org, instance) in [("acme", "i1"), ("evil", "i2")] {
            let subject = Subject::Agent { org: id(org), cluster: id("c1"), instance: id(instance) };
            self.join(subject).await;
        }
        for proxy in ["p1", "p2"] {
            self.join(Subject::Proxy(id(proxy))).await;
        }
        self.kubeconfig(days(30)).await;
        self.folk.0.lock().unwrap().documents.push(self.clock.now());
    }

    /// Starts anew from what is stored.
    pub async fn restart(&mut self) {
        self.process = open(&self.states, self.lifetimes, &self.keys, &self.clock, &self.folk).await;
    }

    pub async fn another(&self) -> Process {
        open(&self.states, self.lifetimes, &self.keys, &self.clock, &self.folk).await
    }

    pub fn advance(&self, by: SignedDuration) {
        self.clock.advance(by);
    }

    pub async fn issue(&self, subject: &Subject, key: &SoftwareKey) -> Credential {
        self.try_issue(subject, key).await.unwrap()
    }

    async fn try_issue(&self, subject: &Subject, key: &SoftwareKey) -> Result<Credential, IssueError> {
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let hierarchy = &self.process.hierarchy;
        let issued = match subject {
            Subject::Agent { org, cluster, instance } => hierarchy.issue_agent(&csr, org, cluster, instance).await,
            Subject::Proxy(proxy) => hierarchy.issue_proxy(&csr, proxy).await,
            Subject::Controller(controller) => hierarchy.issue_controller(&csr, controller).await,
            Subject::User { org, user, credential } => {
                hierarchy.issue_user(&csr, org, user, credential, days(30)).await
            }
        };
        Ok(Credential::new(issued?.chain().to_vec(), key).unwrap())
    }

    pub async fn server(&self) -> Credential {
        self.try_server().await.unwrap()
    }

    async fn try_server(&self) -> Result<Credential, IssueError> {
        let key = key();
        let names = ["kube.example.com", "*.kube.example.com", "agents.example.com", "enroll.example.com"];
        let issued = self.process.hierarchy.issue_server(key.public(), &names).await?;
        Ok(Credential::new(issued.chain().to_vec(), &key).unwrap())
    }

    /// Enrols by token, as far as it matters here: a new credential and the trust of the moment.
    pub async fn join(&self, subject: Subject) {
        let credential = CredentialSource::new(self.issue(&subject, &key()).await);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let trust = TrustSource::new(self.process.hierarchy.trust_bundle(), provider(), clock).unwrap();
        let is_proxy = matches!(subject, Subject::Proxy(_));
        let server = if is_proxy { Some(CredentialSource::new(self.server().await)) } else { None };
        let purpose = if is_proxy { Purpose::Proxies } else { Purpose::Agents };
        let confirmed = self.states.stored().generation;
        let member = Member { subject, purpose, credential, trust, server, confirmed, asleep: false };
        let mut people = self.folk.0.lock().unwrap();
        people.members.retain(|known| known.subject != member.subject);
        people.members.push(member);
    }

    pub async fn kubeconfig(&self, life: SignedDuration) -> Kubeconfig {
        let key = key();
        let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
        let (hierarchy, number) = (&self.process.hierarchy, self.folk.0.lock().unwrap().kubeconfigs.len());
        let credential = format!("k{number}").parse().unwrap();
        let issued = hierarchy.issue_user(&csr, &id("acme"), &id("u1"), &credential, life).await.unwrap();
        let roots = CertificateDer::pem_slice_iter(hierarchy.root_pem().as_bytes()).map(Result::unwrap).collect();
        let credential = Credential::new(issued.chain().to_vec(), &key).unwrap();
        let made = Kubeconfig { roots, credential, created: self.clock.now() };
        self.folk.0.lock().unwrap().kubeconfigs.push(made.clone());
        made
    }

    async fn trust_document(&self) -> Result<SignedDocument, IssueError> {
        let state = self.process.hierarchy.state();
        let header = DocumentHeader {
            series: SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() },
            revision: Revision { epoch: 1, version: state.generation + 1 },
            issued: self.clock.now(),
            expires: self.clock.now() + days(1),
        };
        self.process.hierarchy.sign_document(header, &self.process.hierarchy.trust_bundle()).await
    }

    /// Who is awake hears of the newest trust, believes it if it is signed by whom they believe, and confirms.
    pub async fn hear(&self) {
        self.advance(SignedDuration::from_mins(1));
        let (now, generation) = (self.clock.now(), self.states.stored().generation);
        let behind = |member: &&mut Member| !member.asleep && member.confirmed < generation;
        if self.folk.0.lock().unwrap().members.iter_mut().any(|member| behind(&member)) {
            let Ok(document) = self.trust_document().await else { return };
            for member in self.folk.0.lock().unwrap().members.iter_mut().filter(behind) {
                if let Ok(accepted) = document.clone().accept(&*member.trust.bundle(), None, now) {
                    member.trust.set_bundle(accepted.body().unwrap()).unwrap();
                    member.confirmed = generation;
                }
            }
        }
        for signed in &mut self.folk.0.lock().unwrap().documents {
            if self.process.hierarchy.signing_since().is_some_and(|since| *signed < since) {
                *signed = now;
            }
        }
    }

    /// Who is awake, and is told that its authority is on its way out (or at two thirds of its life), renews; `connected`
    /// says whether it can reach a controller for it.
    pub async fn renew(&self) {
        let due = |credential: &Credential| {
            let life = credential.not_after().duration_since(credential.issued());
            self.clock.now() >= credential.issued() + life * 3 / 5
        };
        let awake: Vec<_> = {
            let people = self.folk.0.lock().unwrap();
            let awake = people.members.iter().filter(|member| !member.asleep);
            awake
                .map(|member| {
                    (
                        member.subject.clone(),
                        member.purpose,
                        member.credential.clone(),
                        member.trust.clone(),
                        member.server.clone(),
                    )
                })
                .collect()
        };
        for (subject, purpose, source, trust, server) in awake {
            let current = source.current();
            let mine = trust.identify(purpose, current.chain());
            let retiring = |key: &KeyId| trust.bundle().retiring.contains(key);
            let leaving = mine.as_ref().is_ok_and(|peer| peer.authorities.iter().any(retiring));
            // The controller believes what it holds now.
            if (leaving || due(&current)) && self.verify(purpose, current.chain()) {
                // Tried again the next time, as with the keys' module away.
                let _ = self.try_issue(&subject, &key()).await.map(|renewed| source.rotate(renewed));
            }
            if let Some(server) = server
                && (trust.bundle().server_chain_id() != server.current().above_id() || due(&server.current()))
            {
                let _ = self.try_server().await.map(|renewed| server.rotate(renewed));
            }
        }
    }

    /// First contact: a server is believed by the pin of a token alone.
    pub async fn pinned(&self, pin: CaPin, server: &Credential) -> bool {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let source = CredentialSource::new(server.clone());
        let server = tls::server(provider(), source, ClientAuth::None, self.trust(), &[]).unwrap();
        let client = tls::pinned(provider(), pin, clock, &[]).unwrap();
        let (server, client) = handshake(&server, &client, "enroll.example.com").await;
        server.is_ok() && client.is_ok()
    }

    /// A member at the controller: agents by a server's name, proxies by the controllers' own authority.
    pub async fn at_controller(&self, member: &Subject, server: &Credential, own: &Credential) -> bool {
        let (client, is_proxy) = {
            let people = self.folk.0.lock().unwrap();
            let member = people.members.iter().find(|known| known.subject == *member).unwrap();
            let is_proxy = member.purpose == Purpose::Proxies;
            let purpose = if is_proxy { Purpose::Controllers } else { Purpose::Servers };
            let credential = Some(member.credential.clone());
            (tls::client(provider(), member.trust.clone(), credential, purpose, &[]).unwrap(), is_proxy)
        };
        let (shown, auth, name) = match is_proxy {
            true => (own, ClientAuth::Required(Purpose::Proxies), "controllers.example.com"),
            false => (server, ClientAuth::Required(Purpose::Agents), "agents.example.com"),
        };
        let source = CredentialSource::new(shown.clone());
        let server = tls::server(provider(), source, auth, self.trust(), &[]).unwrap();
        let (server, client) = handshake(&server, &client, name).await;
        server.is_ok() && client.is_ok()
    }

    /// What a controller thinks of a chain.
    pub fn verify(&self, purpose: Purpose, chain: &[CertificateDer<'_>]) -> bool {
        self.trust().verify(purpose, chain).is_ok()
    }

    pub fn trust(&self) -> TrustSource {
        let bundle = self.process.hierarchy.trust_bundle();
        let mut held = self.controller.lock().unwrap();
        match &*held {
            Some(trust) if *trust.bundle() == bundle => {}
            Some(trust) => trust.set_bundle(bundle).unwrap(),
            None => {
                let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
                *held = Some(TrustSource::new(bundle, provider(), clock).unwrap());
            }
        }
        held.clone().unwrap()
    }

    /// The tunnel of an agent to a proxy, both ways of it.
    pub async fn tunnel(&self, agent: &Subject, proxy: &Subject) -> bool {
        let (client, server) = {
            let people = self.folk.0.lock().unwrap();
            let find = |subject: &Subject| people.members.iter().find(|member| member.subject == *subject).unwrap();
            let (agent, proxy) = (find(agent), find(proxy));
            let auth = ClientAuth::Required(Purpose::Agents);
            let server = tls::server(provider(), proxy.credential.clone(), auth, proxy.trust.clone(), &[]);
            let trust = agent.trust.clone();
            let client = tls::client(provider(), trust, Some(agent.credential.clone()), Purpose::Proxies, &[]);
            (client.unwrap(), server.unwrap())
        };
        let (server, client) = handshake(&server, &client, "tunnel.example.com").await;
        server.is_ok() && client.is_ok()
    }

    /// kubectl at the users' port of a proxy: what kubectl thinks of the proxy, and the proxy of the certificate.
    pub fn kubectl(&self, kubeconfig: &Kubeconfig, proxy: &Subject) -> bool {
        let people = self.folk.0.lock().unwrap();
        let proxy = people.members.iter().find(|member| member.subject == *proxy).unwrap();
        let server = proxy.server.as_ref().unwrap().current();
        let user = proxy.trust.verify(Purpose::Users, kubeconfig.credential.chain());
        believes(&kubeconfig.roots, server.chain(), self.clock.now()) && user.is_ok()
    }
}

/// What kubectl thinks of a server: by roots alone, and by another's rules.
pub fn believes(roots: &[CertificateDer<'static>], chain: &[CertificateDer<'static>], now: Timestamp) -> bool {
    use rustls::client::danger::ServerCertVerifier as _;
    let mut store = RootCertStore::empty();
    roots.iter().for_each(|root| store.add(root.clone()).unwrap());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider()).build().unwrap();
    let (leaf, above) = chain.split_first().unwrap();
    let name = ServerName::try_from("c1.kube.example.com").unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now.as_second().unsigned_abs()));
    verifier.verify_server_cert(leaf, above, &name, &[], now).is_ok()
}

async fn open(
    states: &Arc<States>,
    lifetimes: Lifetimes,
    keys: &Arc<dyn KeyStore>,
    clock: &ManualClock,
    folk: &Folk,
) -> Process {
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let hierarchy = Hierarchy::open(states.stored(), lifetimes, keys.clone(), clock).await.unwrap();
    let hierarchy = Arc::new(hierarchy.with_orgs(states.clone()));
    let rotator = Rotator::new(hierarchy.clone(), states.clone(), Arc::new(folk.clone()), provider());
    Process { hierarchy, rotator }
}
