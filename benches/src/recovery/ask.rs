//! Asking as users do: until there is an answer, and without end beside something else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use http::Version;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use ztka_e2e::{Client, Connection};
use ztka_test_cluster::{Kubectl, wait_for};

use super::Meanwhile;

/// Small, and asked of the apiserver itself each time.
const PATH: &str = "/api/v1/namespaces/default";
/// What kubectl does meanwhile.
const COMMAND: [&str; 4] = ["get", "namespaces", "-o", "name"];
/// Between two requests, so that those who start again have the cores.
const PACE: Duration = Duration::from_millis(10);
/// So many answers in a row are "works again".
const IN_A_ROW: u32 = 20;
/// For one request, and for all of it.
const PATIENCE: Duration = Duration::from_secs(10);
const BOUND: Duration = Duration::from_secs(30);

/// One user by one address: bare requests and kubectl.
#[derive(Clone)]
pub(super) struct Asker {
    pub(super) client: Client,
    pub(super) kubectl: Kubectl,
}

impl Asker {
    pub(super) async fn new(kubectl: Kubectl) -> Result<Self> {
        let client = Client::of(&kubectl).await?;
        // Discovery is in kubectl's cache from here on.
        kubectl.ok(COMMAND).await?;
        Ok(Self { client, kubectl: kubectl.bound(BOUND) })
    }

    /// Waits until many requests in a row are answered; when the first of them was.
    pub(super) async fn answered(&self) -> Result<Instant> {
        let (begun, mut first, mut row) = (Instant::now(), None, 0);
        while row < IN_A_ROW {
            match get(&self.client).await {
                Ok(()) => {
                    first.get_or_insert_with(Instant::now);
                    row += 1;
                }
                Err(error) if begun.elapsed() > BOUND => {
                    return Err(error).with_context(|| format!("no answers for {} s", BOUND.as_secs()));
                }
                Err(_) => (first, row) = (None, 0),
            }
            sleep(PACE).await;
        }
        first.context("nothing was asked")
    }

    async fn kubectl_succeeds(&self) -> Result<Instant> {
        let begun = Instant::now();
        loop {
            let output = self.kubectl.run(COMMAND).await?;
            if output.success() {
                return Ok(Instant::now());
            }
            ensure!(begun.elapsed() < BOUND, "kubectl fails for {} s: {}", BOUND.as_secs(), output.stderr.trim());
            sleep(PACE).await;
        }
    }
}

/// How long after `killed` bare requests and kubectl were answered again; to be called when the process is gone.
pub(super) async fn recovered(user: &Asker, killed: Instant) -> Result<(Duration, Duration)> {
    let (get, kubectl) = tokio::try_join!(user.answered(), user.kubectl_succeeds())?;
    Ok((get.duration_since(killed), kubectl.duration_since(killed)))
}

/// On a connection of its own.
async fn get(client: &Client) -> Result<()> {
    let exchange = async { client.connect(Version::HTTP_2).await?.read(PATH).await.map(drop) };
    timeout(PATIENCE, exchange).await.context("no end of an answer")?
}

/// Requests that go on until they are stopped, every failure counted: on connections that are kept, on fresh ones, and
/// by kubectl.
pub(super) struct Pressure {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: JoinSet<Meanwhile>,
}

impl Pressure {
    pub(super) fn start(user: &Asker) -> Self {
        let (stop, done, mut tasks) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), JoinSet::new());
        let one = || Loop { user: user.clone(), stop: stop.clone(), done: done.clone(), count: Meanwhile::default() };
        tasks.spawn(one().kept(Version::HTTP_11));
        tasks.spawn(one().kept(Version::HTTP_2));
        tasks.spawn(one().fresh());
        tasks.spawn(one().by_kubectl());
        Self { stop, done, tasks }
    }

    /// Waits until so many requests have ended.
    pub(super) async fn reach(&self, count: usize) -> Result<()> {
        wait_for("requests before the kill", || async {
            let done = self.done.load(Ordering::Relaxed);
            ensure!(done >= count, "{done} of {count}");
            Ok(())
        })
        .await
    }

    pub(super) async fn finish(mut self) -> Result<Meanwhile> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Meanwhile::default();
        while let Some(ended) = self.tasks.join_next().await {
            let one = ended?;
            all.requests += one.requests;
            all.failed += one.failed;
            all.first_error = all.first_error.or(one.first_error);
            all.slowest = all.slowest.max(one.slowest);
        }
        Ok(all)
    }
}

struct Loop {
    user: Asker,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    count: Meanwhile,
}

impl Loop {
    async fn kept(mut self, version: Version) -> Meanwhile {
        let mut open: Option<Connection> = None;
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let exchange = async {
                let mut connection = match open.take() {
                    Some(open) => open,
                    None => self.user.client.connect(version).await?,
                };
                connection.read(PATH).await?;
                Ok(connection)
            };
            let exchange = timeout(PATIENCE, exchange).await.context("no end of an answer").flatten();
            let ended = exchange.map(|connection| open = Some(connection));
            self.ended(begun, ended);
            sleep(PACE).await;
        }
        self.count
    }

    async fn fresh(mut self) -> Meanwhile {
        while !self.stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            let ended = get(&self.user.client).await;
            self.ended(begun, ended);
            sleep(PACE).await;
        }
        self.count
    }

    async fn by_kubectl(mut self) -> Meanwhile {
        while !self.stop.load(Ordering::Relaxed) {
            let ended = self.user.kubectl.ok(COMMAND).await.map(drop);
            // How long kubectl itself takes is no figure of ours.
            self.ended(Instant::now(), ended);
        }
        self.count
    }

    fn ended(&mut self, begun: Instant, outcome: Result<()>) {
        self.count.requests += 1;
        match outcome {
            Ok(()) => self.count.slowest = self.count.slowest.max(begun.elapsed()),
            Err(error) => {
                self.count.failed += 1;
                self.count.first_error.get_or_insert_with(|| format!("{error:#}"));
            }
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}
