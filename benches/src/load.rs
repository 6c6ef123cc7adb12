//! Closed-loop load: each connection asks again as soon as it has its answer, for a bounded time and number of times.
//!
//! A run is prepared first (connected, and one request made on each connection), so that only steady state is measured.

mod exec;
mod quiet;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use tokio::{runtime, task::JoinSet, time::timeout};

pub use self::quiet::{Over, Quiet, open};
use crate::{
    Target,
    connect::{Client, Sender},
    payload::Payload,
    stats::percentile,
};

/// After a run should have ended, what has not is an error.
const GRACE: Duration = Duration::from_secs(60);
/// What uploads are made of.
const PIECE: usize = 64 * 1024;
/// A connection gives up after so many errors in a row.
const PATIENCE: u32 = 10;

/// What is done again and again.
#[derive(Clone, Debug)]
pub enum Work {
    /// GET of this path, the body read to its end; connections are kept.
    Get(String),
    /// PUT of so many bytes to this path, the answer read to its end; connections are kept.
    Put(String, u64),
    /// An exec session at this path on a connection of its own: so many echoes of 1 KiB, then a clean end.
    Exec(String, u32),
}

/// How much of it.
#[derive(Clone, Debug)]
pub struct Load {
    /// What.
    pub work: Work,
    /// Path of the one request that each connection makes before, which is not counted.
    pub warm_up: String,
    /// At the same time.
    pub connections: usize,
    /// Threads that share the connections.
    pub threads: usize,
    /// Nothing is begun after so long.
    pub time: Duration,
    /// Nothing is begun after so many.
    pub most: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How long each success took, sorted.
    pub latencies: Vec<Duration>,
    /// Bytes of bodies.
    pub bytes: u64,
    /// Requests that failed, were answered by anything but a success, or never ended.
    pub errors: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Outcome {
    /// The latency that `share` (0 to 1) of the successes did not exceed.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        percentile(&self.latencies, share)
    }

    fn failed(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| format!("{error:#}"));
    }

    fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// A run that waits to be started. Dropped, it ends without.
#[derive(Debug)]
pub struct Prepared {
    workers: Vec<(mpsc::Sender<()>, JoinHandle<Outcome>)>,
}

/// Opens the connections of a run.
///
/// # Errors
/// When one of them cannot be opened, or the request to warm it up is not answered well.
pub fn prepare(target: &Target, load: &Load) -> Result<Prepared> {
    let (ready, is_ready) = mpsc::channel();
    let begun = Arc::new(AtomicU64::new(0));
    let threads = load.threads.clamp(1, load.connections.max(1));
    let mut workers = Vec::new();
    for number in 0..threads {
        let connections = load.connections / threads + usize::from(number < load.connections % threads);
        let (go, gone) = mpsc::channel();
        let worker = Worker { client: Client::new(target)?, load: load.clone(), connections, begun: begun.clone() };
        let ready = ready.clone();
        workers.push((go, thread::Builder::new().name("load".into()).spawn(move || worker.run(&ready, &gone))?));
    }
    drop(ready);
    for _ in 0..threads {
        is_ready.recv().unwrap_or_else(|_| Err(anyhow!("a load thread panicked")))?;
    }
    Ok(Prepared { workers })
}

impl Prepared {
    /// Runs it to its end.
    #[must_use]
    pub fn go(self) -> Outcome {
        let (gos, threads): (Vec<_>, Vec<_>) = self.workers.into_iter().unzip();
        for go in gos {
            // A thread that is gone shows as an error when it is joined.
            let _ = go.send(());
        }
        let mut all = Outcome::default();
        for thread in threads {
            match thread.join() {
                Ok(outcome) => all.add(outcome),
                Err(_) => all.failed(&anyhow!("a load thread panicked")),
            }
        }
        all.latencies.sort_unstable();
        all
    }
}

#[derive(Clone)]
struct Worker {
    client: Client,
    load: Load,
    connections: usize,
    begun: Arc<AtomicU64>,
}

impl Worker {
    fn run(self, ready: &mpsc::Sender<Result<()>>, go: &mpsc::Receiver<()>) -> Outcome {
        let connected = runtime::Builder::new_current_thread().enable_all().build().map_err(anyhow::Error::from);
        let connected = connected.and_then(|runtime| {
            let senders = runtime.block_on(self.warm_up())?;
            Ok((runtime, senders))
        });
        let (runtime, senders) = match connected {
            Ok(connected) => connected,
            Err(error) => {
                let _ = ready.send(Err(error));
                return Outcome::default();
            }
        };
        let _ = ready.send(Ok(()));
        match go.recv() {
            Ok(()) => runtime.block_on(self.load(senders)),
            Err(_) => Outcome::default(),
        }
    }

    async fn warm_up(&self) -> Result<Vec<Sender>> {
        let mut senders = Vec::new();
        for _ in 0..self.connections {
            let mut sender = self.client.connect().await?;
            let request = self.client.request(&self.load.warm_up)?;
            let warmed = timeout(GRACE, get(&mut sender, request)).await.unwrap_or_else(|late| Err(late.into()));
            warmed.with_context(|| format!("GET {} before the run", self.load.warm_up))?;
            senders.push(sender);
        }
        Ok(senders)
    }

    async fn load(self, senders: Vec<Sender>) -> Outcome {
        let start = Instant::now();
        let mut loops = JoinSet::new();
        for sender in senders {
            loops.spawn(self.clone().repeat(sender, start));
        }
        let mut all = Outcome::default();
        while let Some(ended) = loops.join_next().await {
            match ended {
                Ok(outcome) => all.add(outcome),
                Err(error) => all.failed(&error.into()),
            }
        }
        all
    }

    async fn repeat(self, sender: Sender, start: Instant) -> Outcome {
        let (mut outcome, mut sender, mut in_a_row) = (Outcome::default(), Some(sender), 0);
        let limit = self.load.time + GRACE;
        while start.elapsed() < self.load.time
            && in_a_row < PATIENCE
            && self.begun.fetch_add(1, Ordering::Relaxed) < self.load.most
        {
            let begun = Instant::now();
            // With the timer outside of the loop, a run that hangs would lose what it has measured.
            match timeout(limit.saturating_sub(start.elapsed()), self.once(&mut sender)).await {
                Ok(Ok(bytes)) => {
                    outcome.latencies.push(begun.elapsed());
                    outcome.bytes += bytes;
                    in_a_row = 0;
                }
                Ok(Err(error)) => {
                    outcome.failed(&error);
                    (sender, in_a_row) = (None, in_a_row + 1);
                }
                Err(late) => {
                    outcome.failed(&anyhow::Error::from(late).context("no end of an answer"));
                    break;
                }
            }
        }
        outcome.elapsed = start.elapsed();
        outcome
    }

    async fn once(&self, sender: &mut Option<Sender>) -> Result<u64> {
        match &self.load.work {
            Work::Exec(path, echoes) => exec::session(&self.client, path, *echoes).await,
            Work::Get(path) => get(self.kept(sender).await?, self.client.request(path)?).await,
            Work::Put(path, bytes) => {
                let body = Payload::sized(Bytes::from_static(&[b'.'; PIECE]), *bytes);
                get(self.kept(sender).await?, self.client.send(Method::PUT, path, body)?).await.map(|_| *bytes)
            }
        }
    }

    async fn kept<'a>(&self, sender: &'a mut Option<Sender>) -> Result<&'a mut Sender> {
        Ok(match sender {
            Some(sender) => sender,
            None => sender.insert(self.client.connect().await?),
        })
    }
}

/// Bytes of the body, which has come whole.
async fn get(sender: &mut Sender, request: Request<Payload>) -> Result<u64> {
    sender.ready().await?;
    let mut response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let mut bytes = 0;
    while let Some(frame) = response.body_mut().frame().await {
        bytes += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(bytes)
}

/// The error that an answer is, with the beginning of what it says.
async fn refused(mut response: Response<Incoming>) -> anyhow::Error {
    let code = response.status();
    let said = match response.body_mut().frame().await {
        Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        _ => Bytes::new(),
    };
    let said: String = String::from_utf8_lossy(&said).chars().take(300).collect();
    anyhow!("answered {code}: {said}")
}

/// One GET on a connection of its own: the bytes of the body.
///
/// # Errors
/// When it cannot be made or is not answered well.
pub fn once(target: &Target, path: &str) -> Result<u64> {
    let client = Client::new(target)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let exchange = async {
        let mut sender = client.connect().await?;
        get(&mut sender, client.request(path)?).await
    };
    runtime.block_on(async { timeout(GRACE, exchange).await? }).with_context(|| format!("GET {path}"))
}

#[cfg(test)]
mod tests;
