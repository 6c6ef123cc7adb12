//! Takes the steps of rotations: each is stored before anything goes by it, and may be repeated after a crash.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use ztka_core::{BoxError, OrgId};

use super::{
    AuthorityName, Awaited, Hierarchy, HierarchyState, OrgState, OrgStates, Phase, Population, Root, RootChange,
    Rotation, RotationError, Signed, StoredAuthority, Straggler, held::Held, import, rotation::Incoming,
};
use crate::{
    Purpose,
    authority::IssueError,
    key::{KeyError, KeyName, open_or_create},
    x509,
};

/// A replaced signing authority announces its successor for this long at most: half the life of a document.
const ANNOUNCE: SignedDuration = SignedDuration::from_hours(12);

/// Keeps what a hierarchy is opened from, for all who hold it.
#[async_trait]
pub trait AuthorityStates: OrgStates {
    /// What is stored.
    ///
    /// # Errors
    /// What the store says.
    async fn hierarchy_state(&self) -> Result<Option<HierarchyState>, BoxError>;

    /// Replaces what is stored, if that is of the generation before, and with it the intermediates of `org`, if there is
    /// one: all of it or nothing. `false` (and nothing has changed) if it is of another generation. It is durable before
    /// this returns, and from then on the `trust` document says something new.
    ///
    /// # Errors
    /// What the store says.
    async fn replace_hierarchy(&self, next: &HierarchyState, org: Option<&OrgState>) -> Result<bool, BoxError>;
}

/// Rotates the authorities of a hierarchy, which any number of processes may do.
///
/// Each step is a new [`HierarchyState`] (see there): made, stored in the place of the one before, and then
/// [adopted](Hierarchy::adopt). A process that ends in between leaves a state that every other can go on from; new keys
/// have names that follow from the generation, so that a step that is repeated finds them.
///
/// Dropping a future is like such an end.
#[derive(Clone, Debug)]
pub struct Rotator {
    hierarchy: Arc<Hierarchy>,
    states: Arc<dyn AuthorityStates>,
    population: Arc<dyn Population>,
    provider: Arc<CryptoProvider>,
}

type Done = Result<(), RotationError>;

impl Rotator {
    /// Rotates what `hierarchy` holds and `states` keeps; `population` says whom to wait for.
    pub fn new(
        hierarchy: Arc<Hierarchy>,
        states: Arc<dyn AuthorityStates>,
        population: Arc<dyn Population>,
        provider: Arc<CryptoProvider>,
    ) -> Self {
        Self { hierarchy, states, population, provider }
    }

    /// Goes by what is stored, if that is newer than what is held; `true` if it was.
    ///
    /// # Errors
    /// [`RotationError::Store`], [`RotationError::Issue`]
    pub async fn refresh(&self) -> Result<bool, RotationError> {
        let before = self.hierarchy.held().state.generation;
        Ok(self.current().await?.generation > before)
    }

    fn now(&self) -> Timestamp {
        self.hierarchy.clock().now()
    }

    async fn current(&self) -> Result<HierarchyState, RotationError> {
        let stored = self.states.hierarchy_state().await.map_err(RotationError::Store)?;
        let stored = stored.ok_or(IssueError::State("there is no hierarchy stored"))?;
        self.hierarchy.adopt(stored.clone()).await?;
        Ok(stored)
    }

    async fn store(&self, next: HierarchyState) -> Done {
        self.store_with(next, None).await
    }

    /// Stores `next`, and `org` with it, once it is known that it can be opened: no controller could start from what
    /// cannot, nor take a step back.
    async fn store_with(&self, next: HierarchyState, org: Option<OrgState>) -> Done {
        Held::open(next.clone(), &*self.hierarchy.keys).await?;
        if !self.states.replace_hierarchy(&next, org.as_ref()).await.map_err(RotationError::Store)? {
            return Err(RotationError::Conflict);
        }
        self.hierarchy.adopt(next).await?;
        Ok(())
    }

    /// Makes a successor of `name` and has it believed beside the one that signs. With `automatic`, [`Self::advance`]
    /// takes the steps that follow.
    ///
    /// # Errors
    /// [`RotationError`]; [`RotationError::RootElsewhere`] if the root's key is needed and not kept here.
    pub async fn publish(&self, name: &AuthorityName, automatic: bool) -> Done {
        let state = self.current().await?;
        if state.rotations.get(name).is_some_and(|rotation| rotation.phase == Phase::Published) {
            return Ok(());
        }
        state.may_begin(name)?;
        let key = new_key(&state, name)?;
        let incoming = match name {
            AuthorityName::Root => self.new_root(&state, &key).await?,
            AuthorityName::Purpose(purpose) => {
                let root = self.root(&state).await?;
                let signer = open_or_create(&*self.hierarchy.keys, &key).await.map_err(IssueError::from)?;
                let lifetimes = &self.hierarchy.lifetimes;
                let certificate =
                    root.certify_key(*purpose, signer.public_key(), &state.names, lifetimes, self.now()).await?;
                let certificate = x509::to_pem([&certificate]);
                let authority = StoredAuthority { key: key.to_string(), certificate, above: String::new() };
                Incoming { authority, signer: None, root: None }
            }
            AuthorityName::Org(purpose, org) => {
                let stored = self.org_state(org).await?;
                let signer = open_or_create(&*self.hierarchy.keys, &key).await.map_err(IssueError::from)?;
                let held = self.hierarchy.held();
                let kept = self.hierarchy.org_authority(&held, org, *purpose, key, signer).await?;
                let signer = Some(stored.of(*purpose).clone());
                Incoming { authority: StoredAuthority::of(&kept), signer, root: None }
            }
        };
        self.store(state.published(name, incoming, automatic, self.now())?).await
    }

    async fn org_state(&self, org: &OrgId) -> Result<OrgState, RotationError> {
        let stored = self.states.org_state(org).await.map_err(RotationError::Store)?;
        Ok(stored.ok_or_else(|| IssueError::UnknownOrg(org.clone()))?)
    }

    async fn root(&self, state: &HierarchyState) -> Result<Root, RotationError> {
        if state.root.key.is_empty() {
            return Err(RotationError::RootElsewhere);
        }
        let key: KeyName = state.root.key.parse().map_err(IssueError::from)?;
        let signer = self.hierarchy.keys.open(&key).await.map_err(IssueError::from)?;
        Ok(Root::open(&state.root.certificate, signer)?)
    }

    async fn new_root(&self, state: &HierarchyState, key: &KeyName) -> Result<Incoming, RotationError> {
        let (old, lifetimes, now) = (self.root(state).await?, &self.hierarchy.lifetimes, self.now());
        let signer = open_or_create(&*self.hierarchy.keys, key).await.map_err(IssueError::from)?;
        let root = Root::create(signer, lifetimes, now).await?;
        let cross = old.cross_certify(&root.pem(), now).await?;
        let mut purposes = BTreeMap::new();
        for (purpose, stored) in &state.purposes {
            let held = self.hierarchy.held();
            let public = held.purpose(*purpose)?.authority.public_key();
            let certificate = root.certify_key(*purpose, public, &state.names, lifetimes, now).await?;
            let certificate = x509::to_pem([&certificate]);
            purposes.insert(*purpose, StoredAuthority { key: stored.key.clone(), certificate, above: String::new() });
        }
        let authority = StoredAuthority { key: key.to_string(), certificate: root.pem(), above: String::new() };
        Ok(Incoming { authority, signer: None, root: Some(RootChange { cross, purposes }) })
    }

    /// Makes the key of a purpose's successor, whose certificate somebody else has to sign, and the request for it in
    /// PEM; the same one if it is asked for again. Then: [`Self::publish_certified`].
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn request(&self, purpose: Purpose) -> Result<String, RotationError> {
        let name = AuthorityName::Purpose(purpose);
        let state = self.current().await?;
        let requested = state.rotations.get(&name).filter(|rotation| rotation.phase == Phase::Requested);
        let key: KeyName = match requested {
            Some(rotation) => rotation.standby.key.parse().map_err(IssueError::from)?,
            None => new_key(&state, &name)?,
        };
        if requested.is_none() {
            state.may_begin(&name)?;
        }
        let signer = open_or_create(&*self.hierarchy.keys, &key).await.map_err(IssueError::from)?;
        let request = import::request(purpose, &state.names, &*signer).await?;
        if requested.is_none() {
            self.store(state.requested(&name, key.to_string(), self.now())?).await?;
        }
        Ok(request)
    }

    /// Publishes the successor that [`Self::request`] has begun: `chain` is its certificate with what is between it and
    /// the root, in PEM.
    ///
    /// # Errors
    /// [`RotationError::Import`] for each rule that the certificate may break.
    pub async fn publish_certified(&self, purpose: Purpose, chain: &str, automatic: bool) -> Done {
        let name = AuthorityName::Purpose(purpose);
        let state = self.current().await?;
        let rotation = state.in_phase(&name, Phase::Requested)?;
        let key: KeyName = rotation.standby.key.parse().map_err(IssueError::from)?;
        let signer = self.hierarchy.keys.open(&key).await.map_err(IssueError::from)?;
        let (root, now) = (state.root.certificate()?, self.now());
        let key = (&key, signer);
        let authority = import::check(purpose, &state.names, key, chain, &root, &self.provider, now).await?;
        let incoming = Incoming { authority, signer: None, root: None };
        self.store(state.published(&name, incoming, automatic, now)?).await
    }

    /// The purposes' keys as requests in PEM, for a new root to certify; then: [`Self::publish_root`].
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn requests(&self) -> Result<BTreeMap<Purpose, String>, RotationError> {
        let state = self.current().await?;
        let held = self.hierarchy.held();
        let mut requests = BTreeMap::new();
        for purpose in Purpose::ALL {
            let signer = held.purpose(purpose)?.authority.signer();
            requests.insert(purpose, import::request(purpose, &state.names, signer).await?);
        }
        Ok(requests)
    }

    /// Publishes a new root whose key is elsewhere, also one of somebody else's: itself, certified by the old root (`cross`,
    /// which is made here if there is none), and the purposes' intermediates certified by it; all in PEM.
    ///
    /// # Errors
    /// [`RotationError::Import`] for each rule that one of the certificates may break; [`RotationError::RootElsewhere`]
    /// if `cross` is missing and the old root's key is not kept here.
    pub async fn publish_root(
        &self,
        root: &str,
        cross: Option<&str>,
        chains: &BTreeMap<Purpose, String>,
        automatic: bool,
    ) -> Done {
        let (state, now) = (self.current().await?, self.now());
        state.may_begin(&AuthorityName::Root)?;
        let (new, old) = (import::root(root, now)?, state.root.certificate()?);
        let cross = match cross {
            Some(cross) => cross.to_owned(),
            None => self.root(&state).await?.cross_certify(root, now).await?,
        };
        import::cross(&cross, &new, &old)?;
        let held = self.hierarchy.held();
        let mut purposes = BTreeMap::new();
        for purpose in Purpose::ALL {
            let chain = chains.get(&purpose).ok_or(import::ImportError::Missing(purpose))?;
            let kept = held.purpose(purpose)?;
            let signer = self.hierarchy.keys.open(&kept.key).await.map_err(IssueError::from)?;
            let (key, names) = ((&kept.key, signer), &state.names);
            let stored = import::check(purpose, names, key.clone(), chain, &new, &self.provider, now).await?;
            if purpose == Purpose::Servers {
                // Who knows the old root only comes by way of the cross-certificate.
                let crossed = format!("{chain}{cross}");
                import::check(purpose, names, key, &crossed, &old, &self.provider, now).await?;
            }
            purposes.insert(purpose, stored);
        }
        let authority = StoredAuthority { certificate: x509::to_pem([&new]), ..StoredAuthority::default() };
        let root = Some(RootChange { cross, purposes });
        let incoming = Incoming { authority, signer: None, root };
        self.store(state.published(&AuthorityName::Root, incoming, automatic, now)?).await
    }

    /// Lets the successor sign. `anyway`: without waiting for those who do not believe it yet, and will refuse what it
    /// signs until they do.
    ///
    /// # Errors
    /// [`RotationError::Waiting`] says for whom.
    pub async fn activate(&self, name: &AuthorityName, anyway: bool) -> Done {
        let state = self.current().await?;
        let rotation = state.rotations.get(name);
        if rotation.is_some_and(|rotation| rotation.phase == Phase::Activated && !rotation.reversed) {
            return Ok(());
        }
        state.in_phase(name, Phase::Published)?;
        self.wait(&state, name, anyway).await?;
        self.store(state.activated(name, self.now())?).await
    }

    /// Believes the one that does not sign any more no longer, and destroys its key. `anyway`: without waiting for those
    /// who still need it, and are refused from then on.
    ///
    /// # Errors
    /// [`RotationError::Waiting`] says for whom.
    pub async fn retire(&self, name: &AuthorityName, anyway: bool) -> Done {
        let state = self.current().await?;
        state.in_phase(name, Phase::Activated)?;
        self.wait(&state, name, anyway).await?;
        let next = state.retired(name, self.now())?;
        self.store_with(next, self.org_after(name, &state).await?).await?;
        self.settle().await.map(drop)
    }

    /// When a rotation ends that said who signs in an organisation, that goes where it is otherwise. In one write with
    /// the end: the key of whoever does not sign is destroyed then.
    async fn org_after(
        &self,
        name: &AuthorityName,
        ending: &HierarchyState,
    ) -> Result<Option<OrgState>, RotationError> {
        let signer = ending.rotations.get(name).and_then(|rotation| rotation.signer.clone());
        let (AuthorityName::Org(purpose, org), Some(signer)) = (name, signer) else { return Ok(None) };
        let mut stored = self.org_state(org).await?;
        *stored.of_mut(*purpose) = signer;
        Ok(Some(stored))
    }

    async fn wait(&self, state: &HierarchyState, name: &AuthorityName, anyway: bool) -> Done {
        if anyway {
            return Ok(());
        }
        let waiting = self.awaited_by(state, name).await?;
        if waiting.is_empty() { Ok(()) } else { Err(RotationError::Waiting(waiting)) }
    }

    /// Goes back: what was only published is believed no longer; of what was activated the old one signs again, and the
    /// new one can be retired once nobody has a certificate by it. Returns what is of no use from then on: enrolment
    /// tokens that pin a new root.
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn roll_back(&self, name: &AuthorityName) -> Result<Vec<Straggler>, RotationError> {
        let state = self.current().await?;
        let (next, now) = (state.rolled_back(name, self.now())?, self.now());
        let activated = state.rotation(name)?;
        let tokens = match name {
            AuthorityName::Root if activated.phase == Phase::Activated && !activated.reversed => {
                let made = Signed { from: Some(activated.since), until: now };
                self.population.tokens(made).await.map_err(RotationError::Store)?
            }
            _ => Vec::new(),
        };
        self.store(next).await?;
        self.settle().await?;
        Ok(tokens)
    }

    /// Takes no step of this rotation until [`Self::resume`].
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn pause(&self, name: &AuthorityName) -> Done {
        let state = self.current().await?;
        self.store(state.paused(name, true)?).await
    }

    /// See [`Self::pause`].
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn resume(&self, name: &AuthorityName) -> Done {
        let state = self.current().await?;
        self.store(state.paused(name, false)?).await
    }

    /// Believes `name` no longer, from now on, and ends what is connected by it: it is in wrong hands. Of a rotation that
    /// is activated it is the one on its way out; otherwise the one that signs, after whom its successor signs (which is
    /// made if there is none). Returns who is left outside, to enrol again or be given a new kubeconfig.
    ///
    /// # Errors
    /// [`RotationError::RootElsewhere`] if a successor has to be made: publish one first.
    pub async fn cut_off(&self, name: &AuthorityName) -> Result<Vec<Straggler>, RotationError> {
        let mut state = self.current().await?;
        if !state.rotations.contains_key(name) {
            self.publish(name, false).await?;
            state = self.current().await?;
        }
        let left_outside = self.left_outside(&state, name).await?;
        let next = state.cut_off(name, self.now())?;
        // The state as it will be, but for the rotation itself.
        let swapped = match state.rotations.get(name).map(|rotation| rotation.phase) {
            Some(Phase::Published) => state.activated_anyway(name, self.now())?,
            _ => state,
        };
        self.store_with(next, self.org_after(name, &swapped).await?).await?;
        self.settle().await?;
        Ok(left_outside)
    }

    async fn left_outside(
        &self,
        state: &HierarchyState,
        name: &AuthorityName,
    ) -> Result<Vec<Straggler>, RotationError> {
        let rotation = state.rotations.get(name).ok_or_else(|| RotationError::NotRotating(name.clone()))?;
        if rotation.phase == Phase::Activated {
            return self.needing(name, rotation).await;
        }
        let ever = Signed { from: None, until: self.now() };
        let going = match name {
            AuthorityName::Root => {
                let mut left = self.knowing_root(Signed { until: rotation.published, ..ever }).await?;
                left.extend(self.population.tokens(ever).await.map_err(RotationError::Store)?);
                return Ok(left);
            }
            AuthorityName::Purpose(purpose) => state.purposes.get(purpose).and_then(StoredAuthority::key_id),
            AuthorityName::Org(..) => rotation.signer.as_ref().and_then(StoredAuthority::key_id),
        };
        let going = going.ok_or(IssueError::State("a stored CA certificate cannot be read"))?;
        let store = RotationError::Store;
        match name {
            AuthorityName::Purpose(Purpose::Users) => self.population.credentials(ever, None).await.map_err(store),
            AuthorityName::Org(Purpose::Users, org) => {
                self.population.credentials(ever, Some(org)).await.map_err(store)
            }
            AuthorityName::Purpose(Purpose::Servers | Purpose::Signing) | AuthorityName::Root => Ok(Vec::new()),
            AuthorityName::Purpose(purpose) => {
                self.population.certified_by(&going, *purpose, None).await.map_err(store)
            }
            AuthorityName::Org(purpose, org) => {
                self.population.certified_by(&going, *purpose, Some(org)).await.map_err(store)
            }
        }
    }

    async fn knowing_root(&self, issued: Signed) -> Result<Vec<Straggler>, RotationError> {
        let mut known = self.population.credentials(issued, None).await.map_err(RotationError::Store)?;
        known.iter_mut().for_each(|straggler| straggler.awaited = Awaited::Root);
        Ok(known)
    }

    /// Whom the next step of a rotation waits for.
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn awaited(&self, name: &AuthorityName) -> Result<Vec<Straggler>, RotationError> {
        let state = self.current().await?;
        self.awaited_by(&state, name).await
    }

    async fn awaited_by(&self, state: &HierarchyState, name: &AuthorityName) -> Result<Vec<Straggler>, RotationError> {
        let rotation = state.rotations.get(name).ok_or_else(|| RotationError::NotRotating(name.clone()))?;
        if rotation.phase == Phase::Requested {
            return Ok(Vec::new());
        }
        let mut awaited = self.population.without_trust().await.map_err(RotationError::Store)?;
        if rotation.phase == Phase::Activated {
            awaited.extend(self.needing(name, rotation).await?);
        }
        Ok(awaited)
    }

    /// Who needs the one that does not sign any more.
    async fn needing(&self, name: &AuthorityName, rotation: &Rotation) -> Result<Vec<Straggler>, RotationError> {
        let population = &self.population;
        let unreadable = IssueError::State("a stored CA certificate cannot be read");
        let old = rotation.standby.key_id().ok_or(unreadable)?;
        let chain = || self.hierarchy.trust_bundle().server_chain_id();
        let ever = Signed { from: None, until: rotation.since };
        let needing = match name {
            AuthorityName::Root => {
                let mut needing = population.not_presenting(&chain()).await.map_err(RotationError::Store)?;
                if !rotation.reversed {
                    // Those that a root pins which was rolled back are of no use already.
                    let tokens = population.tokens(rotation.signed.unwrap_or(ever)).await;
                    needing.extend(tokens.map_err(RotationError::Store)?);
                    // Kubeconfigs that were made later know both.
                    needing.extend(self.knowing_root(Signed { until: rotation.published, ..ever }).await?);
                }
                return Ok(needing);
            }
            AuthorityName::Purpose(Purpose::Servers) => population.not_presenting(&chain()).await,
            AuthorityName::Purpose(Purpose::Signing) => {
                let left = population.documents_before(rotation.since).await.map_err(RotationError::Store)?;
                let documents = Straggler {
                    who: format!("{left} documents"),
                    awaited: Awaited::Documents,
                    last_seen: None,
                    until: None,
                };
                return Ok(if left == 0 { Vec::new() } else { vec![documents] });
            }
            AuthorityName::Purpose(Purpose::Users) => {
                population.credentials(rotation.signed.unwrap_or(ever), None).await
            }
            AuthorityName::Org(Purpose::Users, org) => {
                population.credentials(rotation.signed.unwrap_or(ever), Some(org)).await
            }
            AuthorityName::Purpose(purpose) => population.certified_by(&old, *purpose, None).await,
            AuthorityName::Org(purpose, org) => population.certified_by(&old, *purpose, Some(org)).await,
        };
        needing.map_err(RotationError::Store)
    }

    /// Takes every step of automatic rotations that nobody has to be waited for, and begins the rotation of what has
    /// lived for two thirds of its life; returns what was done. To be called from time to time.
    ///
    /// # Errors
    /// [`RotationError`]; the steps before are taken.
    pub async fn advance(&self) -> Result<Vec<(AuthorityName, &'static str)>, RotationError> {
        let mut taken = Vec::new();
        self.settle().await?;
        let state = self.current().await?;
        for name in state.due(self.now()) {
            match self.publish(&name, true).await {
                Ok(()) => taken.push((name, "publish")),
                Err(RotationError::RootElsewhere) => {}
                Err(error) => return Err(error),
            }
        }
        let state = self.current().await?;
        for (name, rotation) in state.rotations.iter().filter(|(_, rotation)| rotation.automatic && !rotation.paused) {
            let (step, done) = match rotation.phase {
                Phase::Requested => continue,
                Phase::Published => ("activate", self.activate(name, false).await),
                Phase::Activated => ("retire", self.retire(name, false).await),
            };
            match done {
                Ok(()) => taken.push((name.clone(), step)),
                Err(RotationError::Waiting(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(taken)
    }

    /// Finishes what steps have left to do: destroys keys that are of no more use, and forgets what has expired. `true`
    /// if there was something.
    ///
    /// # Errors
    /// [`RotationError`]
    pub async fn settle(&self) -> Result<bool, RotationError> {
        let mut any = false;
        // Twice: that everybody has heard leaves a key to destroy.
        for _ in 0..2 {
            let state = self.current().await?;
            for key in &state.discarded {
                let key: KeyName = key.parse().map_err(IssueError::from)?;
                match self.hierarchy.keys.destroy(&key).await {
                    Ok(()) | Err(KeyError::Absent(_)) => {}
                    Err(error) => return Err(IssueError::from(error).into()),
                }
            }
            let announced = match &state.announcer {
                Some(announcer) if self.now().duration_since(announcer.since) > ANNOUNCE => true,
                Some(_) => self.population.without_trust().await.map_err(RotationError::Store)?.is_empty(),
                None => false,
            };
            match state.settled(&state.discarded, announced, self.now()) {
                Some(next) => self.store(next).await?,
                None => return Ok(any),
            }
            any = true;
        }
        Ok(any)
    }
}

/// The name follows from what is stored, so that a step that is repeated finds the key that it has made.
fn new_key(state: &HierarchyState, name: &AuthorityName) -> Result<KeyName, RotationError> {
    Ok(format!("{}.{name}", state.generation + 1).parse().map_err(IssueError::from)?)
}
