//! The controller as a server: what `ztka-controller` runs, and `ztka up` beside a proxy.

mod config;
mod figures;
mod heads;
mod init;
mod keys;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio::{net::TcpListener, sync::Mutex};
use zeroize::Zeroizing;
use ztka_controller::{Controller, serve::Sites, store::Stores};
use ztka_core::{Clock, SystemClock};
use ztka_pki::{CredentialSource, Names, file};
use ztka_runtime::Process;
use ztka_store::Store;

use self::heads::{HeadFile, Places, Webhook};
pub use self::{
    config::{Certificates, Config, Encryption, Keys, Master, MasterToken, Recordings, Token, TreeHeads},
    init::{Initialised, RootKey, init},
};

/// A first administrator's credential lives this long; a new one is written when its file is gone.
const ADMIN_LIFE: SignedDuration = SignedDuration::from_hours(90 * 24);

/// An open controller with the certificates of its listeners, before anything listens.
#[derive(Debug)]
pub struct Opened {
    /// The controller.
    pub controller: Controller,
    /// `enroll.`, `agents.` and `api.<domain>`.
    pub public: Sites,
    /// `controllers.<domain>`, for proxies.
    pub internal: Sites,
    store: Store,
    servers: CredentialSource,
    own: CredentialSource,
    heads: Mutex<Places>,
}

/// Serves until the process is asked to stop.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let opened = open(&config).await?;
    let internal = bind(config.listen, "listen").await?;
    let passed = match config.listen_passed {
        Some(address) => Some(bind(address, "listen_passed").await?),
        None => None,
    };
    let crls = match config.listen_crls {
        Some(address) => Some(bind(address, "listen_crls").await?),
        None => None,
    };
    let stop = || process.shutdown().clone().cancelled_owned();
    let everything = opened.internal.clone().and(opened.public.clone());
    let public = opened.public.clone();
    process.ready();
    tokio::join!(
        opened.tend(&process),
        everything.serve(internal, false, stop()),
        async {
            if let Some(listener) = passed {
                public.serve(listener, true, stop()).await;
            }
        },
        async {
            if let Some(listener) = crls {
                opened.controller.serve_crls(listener, stop()).await;
            }
        }
    );
    opened.close().await;
    Ok(())
}

/// Opens the store and the certificate authorities, making what is not there yet; writes the first administrator's
/// credential to `admin.toml` in the data directory if that file is not there.
pub async fn open(config: &Config) -> anyhow::Result<Opened> {
    let provider = Arc::new(ztka_runtime::crypto());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    file::private_directory(&config.data_dir).context("data_dir cannot be used")?;
    let store = keys::unlock(config, Store::open(&config.database()?).await?).await?;
    let keys = keys::open(config, &store, &provider).await?;
    let stores = Stores::of(Arc::new(store.clone()), keys);
    let names = Names::of(&config.domain);
    let controller = Controller::open(stores, names, config.settings(), provider, clock).await?;

    let failed = "a certificate of the controller cannot be issued";
    let names = controller.public_names();
    let servers = controller.server_credential(&names).await.map_err(anyhow::Error::from_boxed).context(failed)?;
    let own = controller.controller_credential().await.map_err(anyhow::Error::from_boxed).context(failed)?;
    let (servers, own) = (CredentialSource::new(servers), CredentialSource::new(own));
    write_admin(&controller, config).await?;
    let heads = places(config).await.context("tree_heads")?;
    Ok(Opened {
        public: Sites::public(&controller, &servers)?.limited(&config.limits),
        internal: Sites::internal(&controller, &own)?.limited(&config.limits),
        controller,
        store,
        servers,
        own,
        heads: Mutex::new(heads),
    })
}

/// Where tree heads are published.
async fn places(config: &Config) -> anyhow::Result<Places> {
    let TreeHeads { file, webhook, webhook_ca } = &config.tree_heads;
    let mut places = Places::default();
    if let Some(file) = file {
        places.file = Some(HeadFile::open(file).await.context("file")?);
    }
    if let Some(url) = webhook {
        let state = config.data_dir.join("tree-heads-sent.json");
        places.webhook = Some(Webhook::open(url, webhook_ca.as_deref(), state).context("webhook")?);
    }
    Ok(places)
}

impl Opened {
    /// Signs what is due, renews the listeners' certificates and keeps the figures until the process is asked to stop.
    pub async fn tend(&self, process: &Process) {
        let names = self.controller.public_names();
        let renew_servers = || self.controller.server_credential(&names);
        let renew_own = || self.controller.controller_credential();
        tokio::select! {
            () = self.controller.run(process.shutdown().clone().cancelled_owned()) => {}
            _ = self.controller.keep_fresh("servers", self.servers.clone(), renew_servers) => {}
            _ = self.controller.keep_fresh("controller", self.own.clone(), renew_own) => {}
            () = heads::keep(self.controller.clone(), &self.heads) => {}
            () = figures::keep(self.controller.clone()) => {}
            () = figures::watch_store(self.controller.clone(), process.health().clone()) => {}
        }
    }

    /// Closes the store.
    pub async fn close(self) {
        self.store.close().await;
    }
}

/// Where the first administrator's credential is.
pub fn admin_file(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.toml")
}

async fn write_admin(controller: &Controller, config: &Config) -> anyhow::Result<()> {
    let path = admin_file(&config.data_dir);
    if path.exists() {
        return Ok(());
    }
    let admin = controller.admin_credential("admin".parse()?, ADMIN_LIFE).await?;
    let server_name = format!("api.{}", config.domain);
    let text = Zeroizing::new(toml::to_string(&admin.credential_file(config.front.clone(), server_name))?);
    file::write_private(&path, text.as_bytes())?;
    tracing::info!(file = %path.display(), "wrote the credential of the first administrator");
    Ok(())
}

async fn bind(address: std::net::SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    let bound = TcpListener::bind(address).await;
    bound.with_context(|| format!("{key}: cannot listen on {address}; is the port in use by another process?"))
}
