//! One link as its dialling end has it: set up, told of clusters, and used until it is left.

use std::{
    collections::HashSet,
    convert::Infallible,
    mem,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use bytes::BytesMut;
use h2::RecvStream;
use http::{Request, StatusCode, Uri};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use ztka_core::{ClusterId, ProxyId};

use super::{
    super::{
        session::{drive, hello, ready},
        tunnel::{Far, OnLeave, Tunnel},
    },
    Held, Table,
    held::{ALL, END, GONE, HELD},
};
use crate::{
    CLUSTERS_PATH, Settings, TunnelError,
    figures::{SettingUp, Side},
};

/// One proxy tells of no more; an id of ours takes some 100 bytes here.
const MAX_CLUSTERS: usize = 250_000;
/// Longer than any id.
const MAX_LINE: usize = 256;
/// How often a link that was left is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// A link that begins.
pub(super) struct Young {
    /// Told when requests can be sent.
    pub(super) ready: oneshot::Receiver<Arc<Tunnel<ProxyId>>>,
    /// Cancelled when it takes no more.
    pub(super) left: CancellationToken,
}

/// Runs the link on `io` to its end.
pub(super) async fn run<T>(
    io: T,
    peer: ProxyId,
    settings: Settings,
    (table, told, left): (Arc<Table>, oneshot::Sender<Arc<Tunnel<ProxyId>>>, CancellationToken),
) -> Result<(), TunnelError>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _left = left.clone().drop_guard();
    let far = Far { peer, authority: None, on_leave: OnLeave::new(move || left.cancel()) };
    drive(io, settings, (table.1.clone(), Side::Link), far, |tunnel| live(tunnel, table, told)).await
}

async fn live(
    tunnel: Arc<Tunnel<ProxyId>>,
    table: Arc<Table>,
    told: oneshot::Sender<Arc<Tunnel<ProxyId>>>,
) -> Result<Infallible, TunnelError> {
    let settings = tunnel.settings;
    let setting_up = SettingUp::begin(Side::Link);
    let late = |_| TunnelError::SetUp(settings.setup);
    let set_up = async {
        hello(&tunnel).await?;
        let mut listing = Listing::begin(&tunnel).await?;
        let held = Arc::new(Held { tunnel: tunnel.clone(), clusters: RwLock::default() });
        while !listing.read(&held).await? {}
        ready(&tunnel).await?;
        Ok::<_, TunnelError>((listing, held))
    };
    let (mut listing, held) = timeout(settings.setup, set_up).await.map_err(late).flatten()?;
    let _up = setting_up.ready();
    let _entry = table.enter(&held);
    tracing::info!(peer = %tunnel.peer, clusters = held.read().len(), "linked to another proxy");
    // Nobody waits for it if all links end.
    let _ = told.send(tunnel.clone());
    let follow = async {
        loop {
            if let Err(error) = listing.read(&held).await {
                return error;
            }
        }
    };
    tokio::select! {
        // It ends with the farewell of the other end, too; what is open goes on then.
        error = follow, if !tunnel.is_leaving() => if !tunnel.is_leaving() { return Err(error) },
        () = left(&tunnel) => {}
    }
    let since = Instant::now();
    while tunnel.load.load(std::sync::atomic::Ordering::Relaxed) > 0 && since.elapsed() < settings.max_drain {
        sleep(LOOK).await;
    }
    Err(TunnelError::Ended)
}

async fn left(tunnel: &Tunnel<ProxyId>) {
    while !tunnel.is_leaving() {
        sleep(LOOK).await;
    }
}

/// The other proxy's clusters, a line at a time.
struct Listing {
    stream: RecvStream,
    buffer: BytesMut,
    /// A list that is not complete yet.
    whole: Option<HashSet<ClusterId>>,
}

impl Listing {
    async fn begin(tunnel: &Tunnel<ProxyId>) -> Result<Self, TunnelError> {
        let unwritable = |_| TunnelError::Protocol("a path cannot be written");
        let uri = tunnel.uri(&Uri::from_static(CLUSTERS_PATH)).map_err(unwritable)?;
        let request = Request::get(uri).body(()).map_err(unwritable)?;
        let mut sender = tunnel.sender.clone();
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await?;
        let (response, _) = sender.send_request(request, true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(TunnelError::Protocol("it does not tell of which clusters it has tunnels"));
        }
        Ok(Self { stream: response.into_body(), buffer: BytesMut::new(), whole: None })
    }

    /// Takes in what comes next; true once a whole list has come. Not cancel safe.
    async fn read(&mut self, held: &Held) -> Result<bool, TunnelError> {
        let end = TunnelError::Protocol("it does not tell of clusters any more");
        let data = self.stream.data().await.ok_or(end)??;
        let _ = self.stream.flow_control().release_capacity(data.len());
        self.buffer.extend_from_slice(&data);
        let mut complete = false;
        while let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line = self.buffer.split_to(at + 1);
            complete |= self.take(line.get(..at).unwrap_or_default(), held)?;
        }
        match self.buffer.len() > MAX_LINE {
            true => Err(TunnelError::Protocol("it tells of a cluster with an endless name")),
            false => Ok(complete),
        }
    }

    fn take(&mut self, line: &[u8], held: &Held) -> Result<bool, TunnelError> {
        let Some((kind, id)) = line.split_first() else { return Ok(false) };
        let read = || {
            let id = str::from_utf8(id).ok().and_then(|id| id.parse::<ClusterId>().ok());
            id.ok_or(TunnelError::Protocol("it tells of something that is no cluster"))
        };
        let mut known = held.clusters.write().unwrap_or_else(PoisonError::into_inner);
        let clusters = self.whole.as_mut().unwrap_or(&mut known);
        match *kind {
            HELD if clusters.len() < MAX_CLUSTERS => _ = clusters.insert(read()?),
            HELD => return Err(TunnelError::Protocol("it tells of more than 250,000 clusters")),
            GONE => _ = clusters.remove(&read()?),
            ALL => self.whole = Some(HashSet::new()),
            END => {
                if let Some(whole) = mem::take(&mut self.whole) {
                    *known = whole;
                    return Ok(true);
                }
            }
            // A later version may say more.
            _ => {}
        }
        Ok(false)
    }
}
