//! A cable that can be cut: forwards TCP connections byte by byte, until it is told to drop what comes, or all of it.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// What is wrong with a cable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cut {
    /// Nothing.
    Whole,
    /// Nothing gets through, and nobody is told.
    Silent,
    /// Nothing gets to where the cable leads; what comes from there does.
    Outward,
    /// Nothing comes from where the cable leads; what is sent there gets through.
    Inward,
}

impl Cut {
    fn drops(self, outward: bool) -> bool {
        match self {
            Self::Whole => false,
            Self::Silent => true,
            Self::Outward => outward,
            Self::Inward => !outward,
        }
    }
}

#[derive(Debug)]
struct State {
    cut: AtomicU8,
    /// Connections of an earlier number are torn.
    torn: watch::Sender<u64>,
    made: AtomicU64,
}

impl State {
    fn cut(&self) -> Cut {
        match self.cut.load(Ordering::Relaxed) {
            0 => Cut::Whole,
            1 => Cut::Silent,
            2 => Cut::Outward,
            _ => Cut::Inward,
        }
    }
}

/// A port that leads to another one. Gone when dropped, with all connections.
#[derive(Debug)]
pub struct Cutter {
    /// Where to connect.
    pub port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Cutter {
    /// Leads to `to` on this machine.
    pub async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State { cut: AtomicU8::new(0), torn: watch::Sender::new(0), made: AtomicU64::new(0) });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, to, shared.clone()));
            }
        });
        Ok(Self { port, state, task })
    }

    /// From now on the cable is like this, for connections that there are and for new ones. One that has lost bytes is
    /// torn when the cable is whole again: a real network would send them anew, this one does not.
    pub fn set(&self, cut: Cut) {
        let before = self.state.cut();
        self.state.cut.store(cut as u8, Ordering::Relaxed);
        if before != Cut::Whole {
            self.tear();
        }
    }

    /// Breaks the connections that there are.
    pub fn tear(&self) {
        let made = self.state.made.load(Ordering::Relaxed);
        self.state.torn.send_replace(made);
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.task.abort();
        self.state.torn.send_replace(u64::MAX);
    }
}

async fn carry(near: TcpStream, to: u16, state: Arc<State>) {
    let number = state.made.fetch_add(1, Ordering::Relaxed) + 1;
    let mut torn = state.torn.subscribe();
    let carried = async {
        let Ok(far) = TcpStream::connect(("127.0.0.1", to)).await else { return };
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let (near, far) = (near.into_split(), far.into_split());
        let ways = (pass(near.0, far.1, true, &state), pass(far.0, near.1, false, &state));
        tokio::join!(ways.0, ways.1);
    };
    tokio::select! {
        () = carried => {}
        _ = torn.wait_for(|torn| *torn >= number) => {}
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, outward: bool, state: &State) {
    let mut piece = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut piece).await {
        if !state.cut().drops(outward) && to.write_all(&piece[..length]).await.is_err() {
            break;
        }
    }
    // That one side has ended gets through no better than anything else.
    if state.cut().drops(outward) {
        std::future::pending::<()>().await;
    }
    let _ = to.shutdown().await;
}
