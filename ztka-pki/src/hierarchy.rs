//! The certificate authorities of one installation, and everything that they issue.
mod held;
mod import;
mod issue;
mod name;
mod orgs;
mod record;
mod root;
mod rotate;
mod rotation;
mod state;
mod wait;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;
use ztka_core::{Clock, KeyId, OrgId};

use self::{held::Held, orgs::OpenOrg};
use crate::{
    Purpose,
    authority::{CertificateAuthority, IssueError, Profile},
    credential::Credential,
    key::{KeyName, KeyStore, open_or_create},
    tls::CaPin,
    trust::{TrustBundle, chain_id},
    x509,
};

pub use self::{
    import::ImportError,
    name::{AuthorityName, UnknownAuthority},
    orgs::OrgStates,
    record::{IssuanceRecord, IssuedRecord, Issuer},
    root::Root,
    rotate::{AuthorityStates, Rotator},
    rotation::{Phase, RootChange, Rotation, RotationError, Signed},
    state::{Announcer, HierarchyState, Names, OrgState, StoredAuthority, Withdrawn},
    wait::{Awaited, Population, Straggler},
};

/// How long certificates live. A certificate ends with its issuer's at the latest.
///
/// Renewal begins at two thirds of a life, so that the third that is left has to cover the time for which proxies and
/// agents go on without any controller: 24 hours of 72.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lifetimes {
    /// The root: 20 years.
    pub root: SignedDuration,
    /// Intermediates of a purpose: 10 years.
    pub purpose: SignedDuration,
    /// Intermediates of an organisation: 5 years.
    pub org: SignedDuration,
    /// Certificates of servers: 30 days.
    pub server: SignedDuration,
    /// Certificates of agents: 72 hours.
    pub agent: SignedDuration,
    /// Certificates of proxies: 72 hours.
    pub proxy: SignedDuration,
    /// Certificates of controllers: 72 hours.
    pub controller: SignedDuration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        let days = |days: i64| SignedDuration::from_hours(24 * days);
        Self {
            root: days(20 * 365),
            purpose: days(10 * 365),
            org: days(5 * 365),
            server: days(30),
            agent: days(3),
            proxy: days(3),
            controller: days(3),
        }
    }
}

const UNREADABLE_ROOT: &str = "the root certificate cannot be read";

/// An authority whose key is open.
#[derive(Clone, Debug)]
struct Kept {
    key: KeyName,
    authority: CertificateAuthority,
    /// Between it and the root, its issuer first.
    above: Vec<CertificateDer<'static>>,
}

/// Root, an intermediate per purpose, and an intermediate per organisation under agents and users.
///
/// ```text
/// root ─┬─ servers ──── DNS names at or under the domain (name constraint)
///       ├─ agents ───── <org> ── …/org/<org>/cluster/<cluster>/agent/<instance>
///       ├─ users ────── <org> ── …/org/<org>/user/<user>/credential/<id>
///       ├─ proxies ──── …/proxy/<id>
///       ├─ controllers  …/controller/<id>
///       └─ signing ──── documents
/// ```
///
/// The root's key is used to make the hierarchy and to rotate it, and not needed to open it, so that it may be offline.
/// Any number of processes may hold the same hierarchy over one [`KeyStore`]: what one of them changes
/// ([`Rotator`]) the others [adopt](Self::adopt), while they issue.
#[derive(Debug)]
pub struct Hierarchy {
    names: Names,
    lifetimes: Lifetimes,
    keys: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    held: RwLock<Arc<Held>>,
    changes: watch::Sender<u64>,
    orgs: RwLock<HashMap<OrgId, OpenOrg>>,
    stored_orgs: Option<Arc<dyn OrgStates>>,
    record: Option<Arc<dyn IssuanceRecord>>,
}

impl Hierarchy {
    /// Makes root and purpose intermediates. Keys that `keys` has already are used, so that a creation that was
    /// interrupted can be repeated; dropping the future leaves such keys behind.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn create(
        names: Names,
        lifetimes: Lifetimes,
        keys: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        names.check()?;
        let key: KeyName = "root".parse()?;
        let root = Root::create(open_or_create(&*keys, &key).await?, &lifetimes, clock.now()).await?;
        Self::below(names, lifetimes, &root, key.as_str(), keys, clock).await
    }

    /// As [`Self::create`], below a root whose key stays where it is: `keys` gets those of the intermediates alone.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn create_below(
        names: Names,
        lifetimes: Lifetimes,
        root: &Root,
        keys: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        Self::below(names, lifetimes, root, "", keys, clock).await
    }

    async fn below(
        names: Names,
        lifetimes: Lifetimes,
        root: &Root,
        root_key: &str,
        keys: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        let now = clock.now();
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let key: KeyName = purpose.as_str().parse()?;
            let signer = open_or_create(&*keys, &key).await?;
            let certificate = root.certify_key(purpose, signer.public_key(), &names, &lifetimes, now).await?;
            let certificate = x509::to_pem([&certificate]);
            purposes.insert(purpose, StoredAuthority { key: key.to_string(), certificate, above: String::new() });
        }
        let root = StoredAuthority { key: root_key.into(), certificate: root.pem(), above: String::new() };
        Self::open(HierarchyState::new(names, root, purposes), lifetimes, keys, clock).await
    }

    /// Makes the intermediates' keys in `keys`, if they are not there yet, and the requests for their certificates, in
    /// PEM: for a root of somebody else's, who signs them. Then: [`Self::import`].
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn requests(names: &Names, keys: &dyn KeyStore) -> Result<BTreeMap<Purpose, String>, IssueError> {
        let mut requests = BTreeMap::new();
        for purpose in Purpose::ALL {
            let signer = open_or_create(keys, &purpose.as_str().parse()?).await?;
            requests.insert(purpose, import::request(purpose, names, &*signer).await?);
        }
        Ok(requests)
    }

    /// What has to be stored of a hierarchy whose intermediates somebody else has signed: `root`, and for each purpose
    /// the intermediate with what is between it and the root, in PEM.
    ///
    /// # Errors
    /// [`ImportError`], for each rule that a certificate may break.
    pub async fn import(
        names: Names,
        root: &str,
        chains: &BTreeMap<Purpose, String>,
        keys: &dyn KeyStore,
        provider: &CryptoProvider,
        now: Timestamp,
    ) -> Result<HierarchyState, ImportError> {
        names.check()?;
        let root = import::root(root, now)?;
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let chain = chains.get(&purpose).ok_or(ImportError::Missing(purpose))?;
            let key: KeyName = purpose.as_str().parse().map_err(IssueError::from)?;
            let signer = keys.open(&key).await.map_err(IssueError::from)?;
            let stored = import::check(purpose, &names, (&key, signer), chain, &root, provider, now).await?;
            purposes.insert(purpose, stored);
        }
        let root = StoredAuthority { certificate: x509::to_pem([&root]), ..StoredAuthority::default() };
        Ok(HierarchyState::new(names, root, purposes))
    }

    /// Opens what [`Self::state`] described; the root's key is not needed.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn open(
        state: HierarchyState,
        lifetimes: Lifetimes,
        keys: Arc<dyn KeyStore>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, IssueError> {
        let names = state.names.clone();
        let changes = watch::Sender::new(state.generation);
        let held = RwLock::new(Held::open(state, &*keys).await?);
        let orgs = RwLock::default();
        Ok(Self { names, lifetimes, keys, clock, held, changes, orgs, stored_orgs: None, record: None })
    }

    /// Goes by `state`, if it is newer than what is held: everything issued from now on is by its authorities. `false`
    /// if it is not newer.
    ///
    /// # Errors
    /// [`IssueError`], as when the key store is away; what was held stays in use then.
    pub async fn adopt(&self, state: HierarchyState) -> Result<bool, IssueError> {
        if state.generation <= self.held().state.generation {
            return Ok(false);
        }
        let opened = Held::open(state, &*self.keys).await?;
        let generation = opened.state.generation;
        {
            let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
            if generation <= held.state.generation {
                return Ok(false);
            }
            *held = opened;
        }
        self.changes.send_if_modified(|known| std::mem::replace(known, generation) != generation);
        Ok(true)
    }

    fn held(&self) -> Arc<Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What has to be stored to open the hierarchy again; certificates and names of keys, nothing secret.
    pub fn state(&self) -> HierarchyState {
        self.held().state.clone()
    }

    /// Wakes when another state is adopted; the value is its generation.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Trust domain and domain.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The clock that certificates are dated by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The root certificate.
    pub fn root(&self) -> CertificateDer<'static> {
        self.held().root.clone()
    }

    /// The pin of the root, for enrolment tokens.
    pub fn pin(&self) -> CaPin {
        self.held().pin
    }

    /// The root certificates in PEM: `certificate-authority-data` of a kubeconfig, before base64. Two while the root is
    /// rotated.
    pub fn root_pem(&self) -> String {
        self.held().bundle().roots_pem()
    }

    /// What verifiers need: the body of the `trust` document.
    pub fn trust_bundle(&self) -> TrustBundle {
        self.held().bundle().clone()
    }

    /// True if a certificate of `purpose` that is issued now would have other authorities above it than `credential`
    /// has: it is to be replaced, although it is not over.
    pub fn has_moved_on(&self, purpose: Purpose, credential: &Credential) -> bool {
        let held = self.held();
        let Ok(kept) = held.purpose(purpose) else { return false };
        let above = match purpose {
            Purpose::Servers => chain_id(held.server_chain.iter().cloned()),
            _ => chain_id([kept.authority.certificate().clone()].into_iter()),
        };
        !purpose.is_per_org() && credential.above_id() != above
    }

    /// Documents that were signed before this have to be signed again, since their key is on its way out.
    pub fn signing_since(&self) -> Option<Timestamp> {
        self.held().signing_since()
    }
}

impl HierarchyState {
    fn new(names: Names, root: StoredAuthority, purposes: BTreeMap<Purpose, StoredAuthority>) -> Self {
        Self {
            names,
            root,
            purposes,
            generation: 0,
            rotations: BTreeMap::new(),
            withdrawn: Vec::new(),
            announcer: None,
            discarded: Vec::new(),
        }
    }
}

/// Authorities of one kind differ in their names, so that a path has one way up.
fn common_name(what: &str, key: &KeyId) -> String {
    format!("{what} {}", key.0.get(..8).unwrap_or_default())
}

/// What the intermediate of a purpose says.
fn purpose_profile(purpose: Purpose, names: &Names, key: &KeyId) -> Profile {
    Profile {
        common_name: common_name(purpose.as_str(), key),
        organization: Some("ZTKA".into()),
        authority: Some(1),
        permitted_dns: (purpose == Purpose::Servers).then(|| names.domain.clone()),
        ..usages(purpose)
    }
}

/// Extended key usages that an intermediate passes on.
fn usages(purpose: Purpose) -> Profile {
    let both = matches!(purpose, Purpose::Proxies | Purpose::Controllers);
    Profile {
        server: both || purpose == Purpose::Servers,
        client: both || purpose.is_per_org(),
        documents: purpose == Purpose::Signing,
        ..Profile::default()
    }
}
