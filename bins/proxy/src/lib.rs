//! The proxy as a server: what `ztka-proxy` runs, and `ztka up` beside a controller.

mod config;
mod figures;
mod levels;
mod peers;
mod recordings;
mod settle;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use tokio::{net::TcpListener, time::timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use ztka_audit::{AuditLayer, FileSink, Recorder, RecordingLayer, Spool, SpoolOptions};
use ztka_authz::{AuthorizeLayer, CutLayer, Open};
use ztka_core::{Clock, Subject, SystemClock};
use ztka_follow::{Follower, Member, Membership, ToController};
use ztka_pki::{AuthenticateLayer, ClientAuth, Purpose, tls};
use ztka_proxy::{
    Acceptor, CertificateAuthenticator, Connections, Directory, Listener, Names, PassOn, PeerAcceptor,
    PeerEvidenceLayer, PeerWitness, PerUserLayer, ServerCertificate, ShedLayer, SpliceLayer, Stopping, Tunnels, Users,
};
use ztka_runtime::Process;
use ztka_tunnel::{Dispatch, LastHop, Registry, Settings, TraceLayer};

pub use self::{
    config::{Audit, Config, Least, PeersConfig, ProxyProtocol, RecordingsConfig},
    levels::{Fields, LevelsConfig, PolicyOf, SpoolConfig},
};

/// Consumers of the audit spool.
const CONTROLLER: &str = "controller";
const FILE: &str = "file";
/// Another proxy may have heard of a policy first: so long a request that it passes on waits for it.
const POLICY_WITHIN: Duration = Duration::from_millis(500);

/// More than what is ended at the end of the grace takes for it.
const GOODBYE: Duration = Duration::from_secs(3);

/// Joins if need be and serves until the process is asked to stop.
pub async fn run(config: Config, process: Process) -> anyhow::Result<()> {
    let passed = config.pass_to()?;
    let pass_on = if passed.is_empty() { PassOn::Nowhere } else { PassOn::Tcp(passed) };
    serve(config, pass_on, process).await
}

/// The same, with another place for connections that are for the controller.
pub async fn serve(config: Config, pass_on: PassOn, process: Process) -> anyhow::Result<()> {
    let provider = Arc::new(ztka_runtime::crypto());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let listener = TcpListener::bind(config.listen).await;
    let listener =
        listener.with_context(|| format!("listen: cannot listen on {}; is the port in use?", config.listen))?;
    let member = Member::join(membership(&config)?, provider.clone(), clock.clone()).await?;
    let Subject::Proxy(id) = member.id().subject.clone() else {
        bail!(
            "the credential in {} is not a proxy's: empty the directory and join with a proxy's token",
            config.state_dir.display()
        );
    };
    let names = Names::new(&config.domain, config.fronts.clone(), id);
    let (documents, channel) = (member.documents().clone(), member.channel().clone());
    let (trust, engine) = (documents.trust().clone(), documents.engine().clone());
    let directory = Directory::new(documents.clone(), &config.login);
    let open = Open::new(directory.clone(), engine.clone());
    let connections = Connections::new(directory.clone());
    let user_memory = config.limits.user_memory_mib << 20;
    let registry = Registry::with_settings(
        clock.clone(),
        Settings { user_memory, refusals: ztka_proxy::refusals(), ..Settings::default() },
    );
    let late = engine.clone();
    registry.naming(move |org, cluster| late.late(org, cluster));
    let (spool, levels) = (spool(&config, &*clock)?, config.audit.levels()?);
    let recorder = Recorder::new(Arc::new(spool.clone()), clock.clone());
    let refusals = Arc::new(recorder.clone());
    let refusals_of = recorder.clone();
    let recordings = recordings::open(&config, clock.clone(), &recorder)?;
    let limits = config.limits;
    let per_user = PerUserLayer::new(&limits, refusals.clone());
    let links = peers::links(&config, &member, provider.clone(), &registry)?;

    // The way of a request, outermost first. The types keep the order of authenticate, record and authorize: `Dispatch`
    // takes only what is permitted, which only `AuthorizeLayer` makes, from what only `AuditLayer` makes.
    let access = ServiceBuilder::new()
        .layer(TraceLayer::new("proxy"))
        .layer(SpliceLayer)
        .layer(ShedLayer::new(&limits))
        .layer(AuthenticateLayer::new(
            CertificateAuthenticator::new(directory.clone(), names.clone()),
            refusals.clone(),
        ))
        .layer(per_user.clone())
        .layer(AuditLayer::new(recorder.clone()).with_levels(levels.clone()))
        .layer(AuthorizeLayer::new(engine.clone()).with_ports_watched().with_sessions_recorded().with_bodies_recorded())
        .layer(CutLayer::new(open.clone()))
        .layer(RecordingLayer::new(recordings.clone()).at_least(config.recordings.at_least()))
        .service(links.iter().fold(Dispatch::new(registry.clone()), |way, links| way.with_peers(links.peers.clone())));

    // What other proxies pass on: the same steps, from evidence as in an agent, and then a tunnel of this proxy. Sessions are
    // recorded where the user is.
    let witness = PeerWitness::new(directory.clone());
    let passed_on = Open::new(witness.clone(), engine.clone());
    let from_peers = ServiceBuilder::new()
        .layer(TraceLayer::new("peer"))
        .layer(PeerEvidenceLayer::new(witness.clone()))
        .layer(AuthenticateLayer::new(witness.clone(), refusals.clone()))
        .layer(per_user)
        .layer(AuditLayer::new(recorder).with_levels_alone(levels))
        .layer(
            AuthorizeLayer::new(engine)
                .waiting(POLICY_WITHIN)
                .with_ports_watched()
                .with_sessions_recorded()
                .with_bodies_recorded(),
        )
        .layer(CutLayer::new(passed_on.clone()))
        .service(LastHop::new(registry.clone()));

    // Each role has its own rule for client certificates.
    let state = config.state_dir.join("server.json");
    let server = ServerCertificate::open(channel.clone(), state, provider.clone(), clock).await?;
    member.presents(server.source().clone());
    let users = ClientAuth::Requested(Purpose::Users);
    let make = if config.allow_tls12 { tls::server_for_users } else { tls::server };
    let users = make(provider.clone(), server.source().clone(), users, trust.clone(), &[b"h2", b"http/1.1"])?;
    let serving = Users::new(access, connections.clone(), trust.clone(), &limits, refusals.clone());
    let windows = serving.window_bytes();
    let users = Listener::new(users, serving);
    let agents = ClientAuth::Required(Purpose::Agents);
    let agents =
        tls::server(provider.clone(), member.credentials().clone(), agents, trust.clone(), &[ztka_tunnel::ALPN])?;
    let agents = Listener::new(agents, Tunnels::new(registry.clone(), trust.clone(), &limits));
    let acceptor = Acceptor::new(names, users, agents, pass_on, &limits, refusals.clone()).behind(config.balancers()?);

    ship(&config, &spool, ToController::events(channel.clone()))?;
    recordings::ship(&config, recordings, ToController::recordings(channel.clone()));
    let publish = registry.clone();
    tokio::spawn(ztka_proxy::publish(documents.clone(), move |audience, name, wire| match wire {
        Some(wire) => publish.publish(audience, name, wire),
        None => publish.withdraw(audience, name),
    }));
    tokio::spawn(figures::keep(open.clone(), (connections.clone(), windows), spool.clone(), refusals_of));
    let certificates = [("proxy", member.credentials().clone()), ("servers", server.source().clone())];
    tokio::spawn(figures::keep_certificates(certificates));
    tokio::spawn(documents.clone().watch_age());
    tokio::spawn(open.clone().enforce());
    tokio::spawn(passed_on.clone().enforce());
    tokio::spawn(connections.enforce());
    // What an earlier run has left serves users, also with every controller down: as soon as agents have come back.
    let is_restart = !documents.all().is_empty();
    if is_restart {
        tokio::spawn(settle::ready(registry.clone(), process.clone()));
    }
    let ready = process.clone();
    let current = move || {
        directory.set_synced();
        ready.health().heard();
        if !is_restart {
            ready.ready();
        }
    };
    let follower = Follower::new(channel, documents).announcing(config.zone.clone(), config.address.clone());
    let follower = follower.announcing_to_peers(config.peers.as_ref().map(|peers| peers.address.clone()));
    let grace = config.grace.unsigned_abs();
    let (left, mut passing) = (CancellationToken::new(), None);
    if let Some(links) = links {
        let tls = tls::server(
            provider,
            member.credentials().clone(),
            ClientAuth::Required(Purpose::Proxies),
            trust.clone(),
            &[ztka_tunnel::ALPN],
        )?;
        let taking = PeerAcceptor::new((tls, &config.domain), registry.clone(), trust, witness, refusals, from_peers);
        passing = Some(links.start(taking, follower.proxies(), left.clone(), grace + 2 * GOODBYE));
    }
    // What is revoked while the last streams go on ends at once.
    let over = CancellationToken::new();
    let stop = process.shutdown().clone().cancelled_owned();
    let following = tokio::spawn(follower.run_until(stop, over.clone().cancelled_owned(), current));
    let renewer = member.renewer();

    let delay = config.shutdown_delay.unsigned_abs();
    let stopping = move |stage| match stage {
        // Agents go when no new requests come any more; what was begun goes on, and ends before the tunnels do.
        Stopping::Closed => {
            let (registry, left) = (registry.clone(), left.clone());
            tokio::spawn(async move {
                // Other proxies still find them here until they have gone.
                let gone = async {
                    let _ = timeout(grace, registry.left()).await;
                    left.cancel();
                };
                tokio::join!(registry.drain(2 * GOODBYE + grace), gone);
            });
        }
        Stopping::Over => {
            open.stop();
            passed_on.stop();
        }
    };
    let acceptor = acceptor.stopping(delay, stopping);
    let stop = async { process.shutdown().cancelled().await };
    tracing::info!(address = %config.listen, domain = config.domain, "serving");
    tokio::select! {
        served = acceptor.serve(listener, stop, grace) => served?,
        () = server.keep_fresh(member.documents().trust()) => {}
        end = renewer.run() => return Err(anyhow!(end)),
    }
    if let Some(passing) = passing {
        // The ends of what they passed on are on their way to them.
        let _ = timeout(GOODBYE, passing).await;
    }
    over.cancel();
    if process.shutdown().is_cancelled() {
        // It has to say that it stops.
        let _ = following.await;
    }
    spool.sync().await.map_err(|error| anyhow!(error)).context("the last audit events may not be on the disk")?;
    Ok(())
}

fn membership(config: &Config) -> anyhow::Result<Membership> {
    Ok(Membership {
        state: config.state_dir.clone(),
        token: config.token()?,
        enrol: (config.controller.clone(), config.server_name("enroll")?),
        controller: (config.controller.clone(), config.server_name("controllers")?),
        controller_purpose: Purpose::Controllers,
        shared: None,
        egress: config.egress.egress()?,
    })
}

fn spool(config: &Config, clock: &dyn Clock) -> anyhow::Result<Spool> {
    let mut options = SpoolOptions::new(config.state_dir.join("audit")).consumer(CONTROLLER);
    options = config.audit.spool.apply(options);
    if let Some(mib) = config.audit.quota_mib {
        options = options.quota(mib << 20);
    }
    if config.audit.file.is_some() {
        options = options.consumer(FILE);
    }
    let (spool, recovery) = Spool::open(options, clock)?;
    tracing::info!(?recovery, "audit spool open");
    Ok(spool)
}

/// Each consumer of the spool has its own place in it.
fn ship(config: &Config, spool: &Spool, controller: ToController) -> anyhow::Result<()> {
    let shipping = ztka_audit::Follower::new(spool.clone(), CONTROLLER, controller)?;
    tokio::spawn(async move { shipping.run().await });
    if let Some(file) = &config.audit.file {
        let filing = ztka_audit::Follower::new(spool.clone(), FILE, FileSink::new(PathBuf::from(file)))?;
        tokio::spawn(async move { filing.run().await });
    }
    Ok(())
}
