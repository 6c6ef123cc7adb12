//! One controller: what its routers and its background work share.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, RwLock},
};

use jiff::{SignedDuration, Timestamp};
use rustls::crypto::CryptoProvider;
use tokio::sync::{Notify, watch};
use ztka_core::{Clock, ControllerId, SignedDocument};
use ztka_identity::{Directory, StoreError};
use ztka_pki::{BadBundle, CredentialSource, Hierarchy, IssueError, Lifetimes, Names, TrustSource};

use crate::{
    announcements::Announced,
    audit::OwnJournal,
    authority::Authorities,
    changes::Watched,
    crls::{self, Crls},
    enrolment::{Refusals, SeenKeys},
    figures::Counts,
    heads::Heads,
    policy::KnownPolicies,
    publish::LeftToOthers,
    store::{Acknowledgement, Stores},
    uses::Uses,
};

/// What a controller has to be told. Addresses are `host:port` as others reach them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names this controller in its certificate and in the record.
    pub id: ControllerId,
    /// What kubectl dials: `kube.<domain>:443`.
    pub front: String,
    /// Where tokens are redeemed: `enroll.<domain>:443`.
    pub enrol_at: String,
    /// Where agents follow documents and renew: `agents.<domain>:443`.
    pub agents_at: String,
    /// Where agents dial their tunnels to, an address for each proxy: `tunnel.<domain>:443`.
    pub tunnels_at: Vec<String>,
    /// How long a document is believed after it was signed.
    pub document_life: SignedDuration,
    /// How old a signature gets before the document is signed again.
    pub resign_after: SignedDuration,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// How many agents of one cluster may have certificates by its credential at a time.
    pub replicas: usize,
    /// How long recordings of sessions are kept.
    pub keep_recordings: SignedDuration,
    /// How many bytes of recordings an organisation may have before no new ones are taken.
    pub recordings_of_org: u64,
}

impl Settings {
    /// Every name below `domain`, on `port`; documents live a day and are signed again every hour; 256 agents of a
    /// cluster beside the first; recordings for 90 days, 10 GiB of an organisation.
    pub fn of(domain: &str, port: u16) -> Self {
        Self {
            id: ControllerId::generate(),
            front: format!("kube.{domain}:{port}"),
            enrol_at: format!("enroll.{domain}:{port}"),
            agents_at: format!("agents.{domain}:{port}"),
            tunnels_at: vec![format!("tunnel.{domain}:{port}")],
            document_life: SignedDuration::from_hours(24),
            resign_after: SignedDuration::from_hours(1),
            lifetimes: Lifetimes::default(),
            replicas: 256,
            keep_recordings: SignedDuration::from_hours(90 * 24),
            recordings_of_org: 10 << 30,
        }
    }
}

/// Why a controller cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store cannot be used.
    #[error("the controller's store cannot be used")]
    Store(#[from] StoreError),
    /// The certificate authorities cannot be made or opened.
    #[error("the certificate authorities cannot be opened; check the master key and the stored keys")]
    Authorities(#[from] IssueError),
    /// They hold something that is no certificate.
    #[error("the certificate authorities cannot be used")]
    Bundle(#[from] BadBundle),
    /// The installation has another name.
    #[error("the store belongs to the installation {stored:?}, and {configured:?} is configured; correct the domain")]
    Names {
        /// In the store.
        stored: Names,
        /// In the configuration.
        configured: Names,
    },
}

/// A controller. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Controller(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) settings: Settings,
    pub(crate) stores: Stores,
    pub(crate) directory: Directory,
    pub(crate) authorities: Authorities,
    pub(crate) trust: TrustSource,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) provider: Arc<CryptoProvider>,
    pub(crate) journal: Arc<OwnJournal>,
    pub(crate) counts: Arc<Counts>,
    /// Something was changed that documents say.
    pub(crate) changed: Notify,
    /// Place of the newest document in the feed, for followers to wait on.
    pub(crate) head: watch::Sender<u64>,
    /// Policies that another controller is signing.
    pub(crate) left_to_others: LeftToOthers,
    /// Policies as they were read last.
    pub(crate) policies: KnownPolicies,
    /// Who watches the changes of organisations.
    pub(crate) watched: Watched,
    /// Which proxies there are.
    pub(crate) announced: Announced,
    /// How much of the feed this controller itself goes by.
    pub(crate) applied: tokio::sync::Mutex<u64>,
    pub(crate) trust_document: RwLock<Option<SignedDocument>>,
    /// What this controller has confirmed last of the authorities that it goes by.
    pub(crate) confirmed: Mutex<Option<Acknowledgement>>,
    /// Refusals of those who have shown nothing that we know.
    pub(crate) strangers: Refusals,
    /// Keys whose first connection has been noted.
    pub(crate) seen_keys: SeenKeys,
    /// Certificates of its own listeners.
    pub(crate) own: RwLock<BTreeMap<&'static str, CredentialSource>>,
    /// CRLs as they are served.
    pub(crate) crls: Crls,
    /// Whose revocations are to be listed anew.
    pub(crate) crls_changed: crls::Changed,
    /// When credentials were used, until it is written.
    pub(crate) uses: Uses,
    /// What followers are told of the newest documents.
    pub(crate) heads: Heads,
}

impl Controller {
    /// Opens the installation `names` in `stores`, making its certificate authorities and the organisation of its own
    /// administrators if there are none, and signs what is due.
    ///
    /// May be repeated after an interruption, also by several controllers at once.
    ///
    /// # Errors
    /// [`OpenError`]
    pub async fn open(
        stores: Stores,
        names: Names,
        settings: Settings,
        provider: Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, OpenError> {
        let authorities = Authorities::open(&stores, names.clone(), settings.lifetimes, clock.clone()).await?;
        let stored = authorities.hierarchy().names();
        if *stored != names {
            return Err(OpenError::Names { stored: stored.clone(), configured: names });
        }
        let trust = TrustSource::new(authorities.hierarchy().trust_bundle(), provider.clone(), clock.clone())?;
        let directory = Directory::new(stores.identity.clone(), clock.clone());
        match directory.create_installation().await {
            Ok(_) | Err(StoreError::Exists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let trust_domain = &names.trust_domain;
        let source = format!("spiffe://{trust_domain}/controller/{}", settings.id);
        let counts = Arc::<Counts>::default();
        let journal = Arc::new(OwnJournal::new(stores.events.clone(), source, counts.clone()));
        let strangers = Refusals::new(clock.now());
        let watched = Watched::new(stores.changes.clone());
        let controller = Self(Arc::new(Inner {
            settings,
            stores,
            directory,
            authorities,
            trust,
            clock,
            provider,
            journal,
            counts,
            changed: Notify::new(),
            head: watch::Sender::new(0),
            left_to_others: LeftToOthers::default(),
            policies: KnownPolicies::default(),
            watched,
            announced: Announced::default(),
            applied: tokio::sync::Mutex::new(0),
            trust_document: RwLock::new(None),
            confirmed: Mutex::default(),
            strangers,
            seen_keys: SeenKeys::default(),
            own: RwLock::default(),
            crls: Crls::default(),
            crls_changed: crls::Changed::default(),
            uses: Uses::default(),
            heads: Heads::default(),
        }));
        if let Err(error) = controller.publish_due().await {
            // Proxies and agents go on by what they have; the background work tries again.
            tracing::warn!(error = &error as &dyn std::error::Error, "documents cannot be signed now");
        }
        controller.record_restore().await?;
        Ok(controller)
    }

    /// The certificate authorities.
    pub fn hierarchy(&self) -> &Arc<Hierarchy> {
        self.0.authorities.hierarchy()
    }

    /// Anchors and revocations, which the controller's own listeners read at every handshake.
    pub fn trust(&self) -> &TrustSource {
        &self.0.trust
    }

    /// Users, groups and credentials.
    pub fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// Everything else that is kept.
    pub fn stores(&self) -> &Stores {
        &self.0.stores
    }

    /// What the controller was told.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// The DNS name below which everything is.
    pub(crate) fn domain(&self) -> &str {
        &self.hierarchy().names().domain
    }
}
