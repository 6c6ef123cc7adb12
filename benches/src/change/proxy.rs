//! What a proxy knows and does, without its listener and its tunnels.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture, stream};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use rustls::pki_types::ServerName;
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tower::{ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService};
use ztka_audit::{AuditLayer, Durability, Event, Journal, Opening, Recorder};
use ztka_authz::{AuthorizeLayer, CutLayer, Open};
use ztka_core::{Access, Body, BoxError, Clock, ClusterId, Permitted, Reply, Subject, SystemClock};
use ztka_follow::{Documents, Follower, Member, Membership};
use ztka_pki::{AuthenticateLayer, Purpose};
use ztka_proxy::{Certificate, CertificateAuthenticator, Connection, Directory, Names};

use super::{
    PATIENCE,
    world::{Kind, Person, World},
};

/// Where all users come from.
const SOURCE: ([u8; 4], u16) = ([192, 0, 2, 1], 4711);

type Stack = BoxCloneSyncService<Request<()>, Reply, BoxError>;

/// A member of the installation with a proxy's way of a request.
pub(super) struct Proxy {
    documents: Documents,
    stack: Stack,
    cluster: ClusterId,
    domain: String,
    _tasks: JoinSet<()>,
}

/// Records go nowhere: what they cost is not what is measured.
#[derive(Debug)]
struct Nowhere;

impl Journal for Nowhere {
    fn open(&self, _: &Event, _: Durability) -> Opening {
        Opening::now(Ok(()))
    }

    fn note(&self, _: &Event) {}
}

/// In the place of tunnel and cluster: an answer that goes on without end.
fn endless(_: Access<Permitted, ()>) -> BoxFuture<'static, Result<Reply, BoxError>> {
    let frames = stream::pending::<Result<Frame<Bytes>, BoxError>>();
    std::future::ready(Ok(Reply::Response(Response::new(StreamBody::new(frames).boxed_unsync())))).boxed()
}

impl Proxy {
    /// Joins by a token, and returns when everything that there is has been heard.
    pub(super) async fn join(world: &World, number: usize) -> Result<Self> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let at = |label: &str| -> Result<_> {
            let name = ServerName::try_from(format!("{label}.{}", world.domain))?;
            Ok((world.address.to_string(), name))
        };
        let membership = Membership {
            state: world.folder().join(format!("proxy-{number}")),
            token: Some(world.proxy_token().await?.parse().context("the token")?),
            enrol: at("enroll")?,
            controller: at("controllers")?,
            controller_purpose: Purpose::Controllers,
            shared: None,
            egress: ztka_tunnel::Egress::direct(),
        };
        let member = Member::join(membership, provider, clock.clone()).await?;
        let Subject::Proxy(id) = member.id().subject.clone() else { bail!("the credential is not a proxy's") };
        let documents = member.documents().clone();
        let directory = Directory::new(documents.clone(), "log in again");
        let open = Open::new(directory.clone(), documents.engine().clone());
        let recorder = Recorder::new(Arc::new(Nowhere), clock);
        let names = Names::new(&world.domain, [], id);
        let authenticator = CertificateAuthenticator::new(directory.clone(), names);
        let stack = ServiceBuilder::new()
            .layer(AuthenticateLayer::new(authenticator, Arc::new(recorder.clone())))
            .layer(AuditLayer::new(recorder))
            .layer(AuthorizeLayer::new(documents.engine().clone()).with_ports_watched())
            .layer(CutLayer::new(open.clone()))
            .service(service_fn(endless));

        let mut tasks = JoinSet::new();
        let (knows, mut known) = watch::channel(false);
        let current = move || {
            directory.set_synced();
            knows.send_replace(true);
        };
        let follower = Follower::new(member.channel().clone(), documents.clone()).announcing(None, None);
        tasks.spawn(follower.run(std::future::pending(), current));
        tasks.spawn(open.enforce());
        let renewer = member.renewer();
        tasks.spawn(async move { drop(renewer.run().await) });
        timeout(PATIENCE, known.wait_for(|known| *known)).await.context("nothing is heard of the controller")??;
        let (stack, cluster, domain) = (BoxCloneSyncService::new(stack), world.cluster.clone(), world.domain.clone());
        Ok(Self { documents, stack, cluster, domain, _tasks: tasks })
    }

    fn server_name(&self) -> String {
        format!("{}.kube.{}", self.cluster, self.domain)
    }

    /// A connection of `person`, as soon as their certificate is believed here.
    pub(super) async fn connection(&self, person: &Person) -> Result<Connection> {
        let mut changes = self.documents.changes();
        loop {
            changes.borrow_and_update();
            match self.documents.trust().identify(Purpose::Users, &person.chain) {
                Ok(peer) => {
                    let certificate = Some(Certificate { peer, chain: person.chain.clone() });
                    let (name, cluster) = (Some(self.server_name()), Some(self.cluster.clone()));
                    return Ok(Connection::new(SocketAddr::from(SOURCE), name, cluster, certificate));
                }
                Err(error) => {
                    let heard = timeout(PATIENCE, changes.changed()).await;
                    heard.with_context(|| format!("the certificate is not believed: {error}"))??;
                }
            }
        }
    }

    async fn ask(&self, connection: &Connection, kind: Kind, query: &str) -> Result<Response<Body>> {
        let path = format!("/api/v1/namespaces/{}/configmaps{query}", kind.name());
        let mut request = Request::get(format!("https://{}{path}", self.server_name())).body(())?;
        request.extensions_mut().insert::<IpAddr>(connection.source());
        request.extensions_mut().insert(connection.clone());
        match self.stack.clone().oneshot(request).await {
            Ok(Reply::Response(response)) => Ok(response),
            Ok(Reply::Upgraded { .. }) => bail!("an answer of another protocol"),
            Err(error) => bail!("the way of a request failed: {error}"),
        }
    }

    /// Asks again whenever something new is heard, until the request of a list is let in, or refused; when that was.
    pub(super) async fn until(&self, connection: &Connection, kind: Kind, let_in: bool) -> Result<Instant> {
        let mut changes = self.documents.changes();
        loop {
            changes.borrow_and_update();
            let status = self.ask(connection, kind, "").await?.status();
            if (status == StatusCode::OK) == let_in {
                return Ok(Instant::now());
            }
            let heard = timeout(PATIENCE, changes.changed()).await;
            heard.with_context(|| format!("a proxy still answers {status}"))??;
        }
    }

    /// A watch that is let in.
    pub(super) async fn watch(&self, connection: &Connection, kind: Kind) -> Result<Body> {
        let (head, body) = self.ask(connection, kind, "?watch=true").await?.into_parts();
        ensure!(head.status == StatusCode::OK, "a watch is answered {}", head.status);
        Ok(body)
    }
}

/// When an answer was ended.
pub(super) async fn ended(mut answer: Body) -> Instant {
    while let Some(Ok(_)) = answer.frame().await {}
    Instant::now()
}
