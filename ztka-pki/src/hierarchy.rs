//! The certificate authorities of one installation, and everything that they issue.
mod issue;
mod state;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use jiff::SignedDuration;
use rustls_pki_types::CertificateDer;
use ztka_core::{BoxError, Clock, OrgId};

use crate::{
    Purpose,
    authority::{CertificateAuthority, IssueError, Profile},
    key::{KeyName, KeyStore, open_or_create},
    tls::CaPin,
    trust::{Anchor, SigningKey, TrustBundle},
    x509,
};

pub use self::state::{HierarchyState, Names, OrgState, StoredAuthority};

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

#[derive(Clone, Debug)]
struct Kept {
    key: KeyName,
    authority: CertificateAuthority,
}

#[derive(Clone, Debug)]
struct Org {
    agents: Kept,
    users: Kept,
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
/// The root's key is used to make the hierarchy and not needed to open it again, so that it may be offline. Any number
/// of processes may hold the same hierarchy over one [`KeyStore`].
#[derive(Debug)]
pub struct Hierarchy {
    names: Names,
    lifetimes: Lifetimes,
    keys: Arc<dyn KeyStore>,
    clock: Arc<dyn Clock>,
    root_key: KeyName,
    root: CertificateDer<'static>,
    pin: CaPin,
    purposes: BTreeMap<Purpose, Kept>,
    orgs: RwLock<HashMap<OrgId, Org>>,
    stored_orgs: Option<Arc<dyn OrgStates>>,
}

/// Finds what [`Hierarchy::create_org`] returned, in whichever process: for hierarchies that several processes hold.
#[async_trait]
pub trait OrgStates: Send + Sync + std::fmt::Debug {
    /// What is stored of the intermediates of `org`, if there is such an organisation.
    ///
    /// # Errors
    /// What the store says.
    async fn org_state(&self, org: &OrgId) -> Result<Option<OrgState>, BoxError>;
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
        let now = clock.now();
        let root_key: KeyName = "root".parse()?;
        let signer = open_or_create(&*keys, &root_key).await?;
        let profile = Profile {
            common_name: common_name("root", signer.public_key().id()),
            organization: Some("ZTKA".into()),
            authority: Some(2),
            ..Profile::default()
        };
        let root = CertificateAuthority::self_signed(profile, signer, now, lifetimes.root).await?;
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let key: KeyName = purpose.as_str().parse()?;
            let signer = open_or_create(&*keys, &key).await?;
            let profile = Profile {
                common_name: common_name(purpose.as_str(), signer.public_key().id()),
                organization: Some("ZTKA".into()),
                authority: Some(1),
                permitted_dns: (purpose == Purpose::Servers).then(|| names.domain.clone()),
                ..usages(purpose)
            };
            let authority = root.issue_authority(profile, signer, now, lifetimes.purpose).await?;
            purposes.insert(purpose, Kept { key, authority });
        }
        let root = root.certificate().clone();
        let pin = CaPin::of(&root).ok_or(IssueError::State(UNREADABLE_ROOT))?;
        Ok(Self {
            names,
            lifetimes,
            keys,
            clock,
            root_key,
            root,
            pin,
            purposes,
            orgs: RwLock::default(),
            stored_orgs: None,
        })
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
        state.names.check()?;
        let root_key = state.root.key.parse()?;
        let root = state.root.certificate()?;
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let stored = state.purposes.get(&purpose);
            let stored = stored.ok_or(IssueError::State("the stored hierarchy lacks an intermediate"))?;
            purposes.insert(purpose, open_authority(stored, &*keys).await?);
        }
        let names = state.names;
        let pin = CaPin::of(&root).ok_or(IssueError::State(UNREADABLE_ROOT))?;
        Ok(Self {
            names,
            lifetimes,
            keys,
            clock,
            root_key,
            root,
            pin,
            purposes,
            orgs: RwLock::default(),
            stored_orgs: None,
        })
    }

    /// Opens organisations that are not open yet when something is to be issued in them.
    #[must_use]
    pub fn with_orgs(mut self, states: Arc<dyn OrgStates>) -> Self {
        self.stored_orgs = Some(states);
        self
    }

    /// What has to be stored to open the hierarchy again; certificates and names of keys, nothing secret.
    pub fn state(&self) -> HierarchyState {
        let root = StoredAuthority { key: self.root_key.to_string(), certificate: x509::to_pem([&self.root]) };
        let purposes = self.purposes.iter().map(|(purpose, kept)| (*purpose, StoredAuthority::of(kept))).collect();
        HierarchyState { names: self.names.clone(), root, purposes }
    }

    /// Makes the intermediates of `org` and keeps them open; what is returned has to be stored.
    ///
    /// May be repeated, also by another process at the same time: the keys stay the same, so that what was issued under
    /// one certificate is valid under the other.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn create_org(&self, org: &OrgId) -> Result<OrgState, IssueError> {
        let agents = self.org_authority(org, Purpose::Agents).await?;
        let users = self.org_authority(org, Purpose::Users).await?;
        let made = Org { agents, users };
        let state = OrgState {
            org: org.clone(),
            agents: StoredAuthority::of(&made.agents),
            users: StoredAuthority::of(&made.users),
        };
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(org.clone(), made);
        Ok(state)
    }

    /// Opens the intermediates of an organisation that [`Self::create_org`] made, in this process or another.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn open_org(&self, state: &OrgState) -> Result<(), IssueError> {
        let agents = open_authority(&state.agents, &*self.keys).await?;
        let users = open_authority(&state.users, &*self.keys).await?;
        let opened = Org { agents, users };
        self.orgs.write().unwrap_or_else(PoisonError::into_inner).insert(state.org.clone(), opened);
        Ok(())
    }

    /// True if the intermediates of `org` are open here.
    pub fn has_org(&self, org: &OrgId) -> bool {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).contains_key(org)
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
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The pin of the root, for enrolment tokens.
    pub fn pin(&self) -> CaPin {
        self.pin
    }

    /// The root certificate in PEM: `certificate-authority-data` of a kubeconfig, before base64.
    pub fn root_pem(&self) -> String {
        x509::to_pem([&self.root])
    }

    /// What verifiers need: the body of the `trust` document.
    pub fn trust_bundle(&self) -> TrustBundle {
        let anchors = |purpose: &Purpose, kept: &Kept| {
            let spiffe_prefix = purpose.spiffe_prefix(&self.names.trust_domain);
            let anchor = Anchor { certificate: kept.authority.certificate().clone().into(), spiffe_prefix };
            (*purpose, vec![anchor])
        };
        let signing = self.purposes.get(&Purpose::Signing).map(|kept| SigningKey::of(kept.authority.public_key()));
        TrustBundle {
            trust_domain: self.names.trust_domain.clone(),
            roots: vec![self.root.clone().into()],
            anchors: self.purposes.iter().map(|(purpose, kept)| anchors(purpose, kept)).collect(),
            signing_keys: signing.into_iter().collect(),
        }
    }

    fn purpose(&self, purpose: Purpose) -> Result<&CertificateAuthority, IssueError> {
        let kept = self.purposes.get(&purpose);
        Ok(&kept.ok_or(IssueError::State("the hierarchy lacks an intermediate"))?.authority)
    }

    fn opened(&self, org: &OrgId) -> Option<Org> {
        self.orgs.read().unwrap_or_else(PoisonError::into_inner).get(org).cloned()
    }

    async fn org(&self, org: &OrgId) -> Result<Org, IssueError> {
        if let Some(opened) = self.opened(org) {
            return Ok(opened);
        }
        if let Some(states) = &self.stored_orgs
            && let Some(state) = states.org_state(org).await.map_err(IssueError::Failed)?
        {
            self.open_org(&state).await?;
        }
        self.opened(org).ok_or_else(|| IssueError::UnknownOrg(org.clone()))
    }

    async fn org_authority(&self, org: &OrgId, purpose: Purpose) -> Result<Kept, IssueError> {
        let key: KeyName = format!("{purpose}.{org}").parse()?;
        let signer = open_or_create(&*self.keys, &key).await?;
        let profile = Profile {
            common_name: common_name(purpose.as_str(), signer.public_key().id()),
            organization: Some(org.to_string()),
            // Binds the intermediate to its organisation; verifiers hold every name below it against this.
            uri: Some(format!("spiffe://{}/org/{org}", self.names.trust_domain)),
            authority: Some(0),
            ..usages(purpose)
        };
        let above = self.purpose(purpose)?;
        let authority = above.issue_authority(profile, signer, self.clock.now(), self.lifetimes.org).await?;
        Ok(Kept { key, authority })
    }
}

async fn open_authority(stored: &StoredAuthority, keys: &dyn KeyStore) -> Result<Kept, IssueError> {
    let key: KeyName = stored.key.parse()?;
    let signer = keys.open(&key).await?;
    let authority = CertificateAuthority::new(stored.certificate()?, signer)?;
    Ok(Kept { key, authority })
}

/// Authorities of one kind differ in their names, so that a path has one way up.
fn common_name(what: &str, key: &ztka_core::KeyId) -> String {
    format!("{what} {}", key.0.get(..8).unwrap_or_default())
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
