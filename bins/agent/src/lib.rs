//! The agent as a server: what `ztka-agent` runs, and `ztka up` beside a controller and a proxy.

mod config;
mod tunnels;

use std::{sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use rustls::{ClientConfig, crypto::CryptoProvider};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use ztka_agent::{
    ControlLayer, OwnerLimits, Pool, SecretStore, Upstream, Witness,
    accounts::{self, ServiceAccounts},
    selfreview::SelfReviewLayer,
};
use ztka_audit::{AuditLayer, Receipts, Recorder, Sign, Signed, SpoolOptions};
use ztka_authz::{AuthorizeLayer, CutLayer, Open};
use ztka_core::{Clock, Subject, SystemClock};
use ztka_follow::{Follower, Member, Membership, ToController};
use ztka_pki::{AuthenticateLayer, CredentialStore, Purpose};
use ztka_runtime::Process;
use ztka_tunnel::TraceLayer;

pub use self::config::{AccountMode, Accounts, AgentMode, Apiserver, Config, Keep};

/// A proxy may have heard of a policy before its agent: so long a request waits for it.
const POLICY_WITHIN: Duration = Duration::from_millis(500);
/// The consumer of the receipts.
const CONTROLLER: &str = "controller";

/// Enrols if need be, dials the proxies and serves what comes through the tunnels until the process is asked to stop.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let provider = Arc::new(ztka_runtime::crypto());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    // The one apiserver, and the way to it as the agent itself.
    let pool = Pool::new(&config.apiserver.url()?, apiserver_tls(&config.apiserver, provider.clone())?)?;
    let client = accounts::Client::new(pool.clone(), config.apiserver.token());
    let shared = match config.credential {
        Keep::Directory => None,
        Keep::Secret => Some(Arc::new(SecretStore::new(client.clone(), provider.clone())) as Arc<dyn CredentialStore>),
    };
    // It may take as long as an administrator does.
    let member = tokio::select! {
        joined = Member::join(membership(&config, shared)?, provider.clone(), clock.clone()) => joined?,
        () = process.shutdown().cancelled() => return Ok(()),
    };
    let Subject::Agent { org, cluster, .. } = member.id().subject.clone() else {
        bail!(
            "the credential in {} is not an agent's: empty the directory and enrol with a cluster's token",
            config.state_dir.display()
        );
    };
    let documents = member.documents().clone();
    let engine = documents.engine().clone();
    documents.set_max_staleness(config.max_staleness);

    // The agent's own record, and where it goes.
    let options = SpoolOptions::new(config.state_dir.join("receipts")).consumer(CONTROLLER);
    let (receipts, _) = Receipts::open(options, &*clock)?;
    let credentials = member.credentials().clone();
    let sign: Sign = Arc::new(move |message| Ok(credentials.current().sign(message)?));
    let shipper = Signed::new(ToController::receipts(member.channel().clone()), sign);
    let shipping = ztka_audit::Follower::new(receipts.spool().clone(), CONTROLLER, shipper)?;
    let recorder = Recorder::new(Arc::new(receipts), clock.clone());

    // The accounts under which users come to the apiserver.
    let settings = config.accounts()?;
    let home = settings.namespace.clone();
    let accounts =
        Arc::new(ServiceAccounts::new(client.clone(), engine.clone(), cluster.clone(), clock.clone(), settings));

    // What the cluster's owner does not let policy give. Nobody is let in before it is known.
    let mut limits = OwnerLimits::new(engine.clone(), config.limits.clone());
    if config.limits_config_map {
        limits = limits.with_config_map(client.clone(), home);
    }
    tokio::select! {
        begun = limits.begin() => begun?,
        () = process.shutdown().cancelled() => return Ok(()),
    }

    // Outermost first. The types keep the order of authenticate, record and authorize: `Upstream` takes only what is
    // permitted, which only `AuthorizeLayer` makes, from what only `AuditLayer` makes.
    let witness = Witness::new(org, cluster, documents.clone());
    let (open, knows) = (Open::new(witness.clone(), engine.clone()), witness.clone());
    let refusals = Arc::new(recorder.clone());
    let access = ServiceBuilder::new()
        .layer(TraceLayer::new("agent"))
        .layer(ControlLayer::new(witness.clone(), documents.clone(), refusals.clone()))
        .layer(AuthenticateLayer::new(witness, refusals))
        .layer(AuditLayer::new(recorder))
        .layer(
            AuthorizeLayer::new(engine.clone())
                .waiting(POLICY_WITHIN)
                .with_ports_watched()
                .with_sessions_recorded()
                .with_bodies_recorded(),
        )
        .layer(CutLayer::new(open.clone()))
        .layer(SelfReviewLayer::new(engine, accounts.clone(), client))
        .service(Upstream::new(pool, accounts.clone()));

    let renewer = member.renewer();
    let shared = member.shared_renewer();
    let follower = Follower::new(member.channel().clone(), documents.clone());
    let (stop, proxies) = (process.shutdown().clone(), follower.proxies());
    let health = process.health().clone();
    // What is revoked while the last streams go on ends at once.
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    tokio::spawn(follower.run_until(stop.cancelled_owned(), over.cancelled_owned(), move || health.heard()));
    tokio::spawn(limits.follow());
    tokio::spawn(documents.clone().watch_age());
    tokio::spawn(open.clone().enforce());
    if let Some(share) = member.share_trust() {
        tokio::spawn(share);
    }
    if let Some(shared) = shared {
        // This agent goes on with its own certificate; those that start from now on need a new token.
        tokio::spawn(async move {
            let end = shared.run().await;
            tracing::error!(error = &end as &dyn std::error::Error, "the cluster's credential is not renewed any more");
        });
    }
    tokio::spawn(async move { shipping.run().await });
    tokio::spawn(ServiceAccounts::clone(&accounts).tend());
    tokio::spawn(ServiceAccounts::clone(&accounts).follow_revocations(documents.clone()));

    process.ready();
    tokio::select! {
        ended = tunnels::keep(&config, &member, provider, access, proxies, &process, (open, knows)) => ended,
        end = renewer.run() => Err(anyhow!(end)),
    }
}

fn membership(config: &Config, shared: Option<Arc<dyn CredentialStore>>) -> anyhow::Result<Membership> {
    Ok(Membership {
        state: config.state_dir.clone(),
        token: config.token()?,
        enrol: (config.front.clone(), config.server_name("enroll")?),
        controller: (config.front.clone(), config.server_name("agents")?),
        controller_purpose: Purpose::Servers,
        shared,
        egress: config.egress.egress()?,
    })
}

fn apiserver_tls(apiserver: &Apiserver, provider: Arc<CryptoProvider>) -> anyhow::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(apiserver.roots()?)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
