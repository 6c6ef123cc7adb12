//! Everything goes wrong at random: servers are killed, stopped for a while, restarted and drained, cables are cut, in one
//! direction too. What was promised holds all the same:
//!
//! 1. Whatever was answered 2xx is on record.
//! 2. No request reaches another cluster than it was for.
//! 3. No stream ends without a reason on record.
//! 4. When nothing goes wrong any more, every cluster answers by way of every proxy within a bound.
//! 5. No change is made twice, and one that was answered 201 is made.
//!
//! What goes wrong follows from a seed, which is printed: `ZTKA_CHAOS_SEED=<seed>` does the same again, as far as the
//! moments of several processes can be the same.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    env, fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use ztka_e2e::{Client, Connection, Cut, Cutter, Fleet, Installation, Upstream, User};
use ztka_test_cluster::{Cluster, Kubectl, Options, wait_for_within};

const ORG: &str = "acme";
const CLUSTERS: [&str; 2] = ["blue", "green"];
/// Agents of each cluster, by what is added to its name.
const REPLICAS: [&str; 2] = ["", "-too"];
const PROXIES: usize = 2;
const WORKERS: usize = 4;
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";
/// A client gives up then, and takes another connection.
const PATIENCE: Duration = Duration::from_secs(20);
/// After the last fault: an attempt that hangs, a wait at its cap, and processes that start on a busy machine.
const BOUND: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_promised_holds_through_a_minute_of_faults() -> Result<()> {
    chaos(Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes ten minutes; part of cargo xtask test --long"]
async fn what_was_promised_holds_through_ten_minutes_of_faults() -> Result<()> {
    chaos(Duration::from_secs(600)).await
}

async fn chaos(time: Duration) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
    let seed = match env::var("ZTKA_CHAOS_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => u64::try_from(now % 1_000_000)?,
    };
    println!("ZTKA_CHAOS_SEED={seed}");
    let mut site = Site::start().await?;
    let outcome = site.suffer(seed, time).await;
    outcome.with_context(|| format!("ZTKA_CHAOS_SEED={seed}\n{}", site.fleet.tails()))
}

/// Numbers that follow from a seed: a linear congruence, its upper half alone.
struct Random(u64);

impl Random {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(self.0 >> 33).unwrap_or_default() % count.max(1)
    }

    fn millis(&mut self, least: u64, most: u64) -> Duration {
        let span = usize::try_from(most - least).unwrap_or_default();
        Duration::from_millis(least + u64::try_from(self.below(span)).unwrap_or_default())
    }
}

/// An installation with two agents for each of two clusters, and a cable from each agent to each proxy.
struct Site {
    fleet: Fleet,
    clusters: Vec<Cluster>,
    /// By agent, then by proxy.
    cables: Vec<Vec<Cutter>>,
    agents: Vec<(String, String)>,
    alice: User,
}

impl Site {
    async fn start() -> Result<Self> {
        let wanted = Installation { proxies: PROXIES, grace: "1s".into(), ..Installation::default() };
        let mut fleet = Fleet::start_with(wanted.clone()).await?;
        fleet.org(ORG).await?;
        let (mut clusters, mut cables, mut agents) = (Vec::new(), Vec::new(), Vec::new());
        for name in CLUSTERS {
            let cluster = Cluster::level1(Options::default().without_controllers()).await?;
            let account = cluster.admin_service_account("ztka-system", "ztka-agent").await?;
            let who = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": "who", "namespace": "default" }, "data": { "cluster": name },
            });
            cluster.kubectl().apply(who.to_string()).await?;
            fleet.ztka(&["--org", ORG, "cluster", "create", name]).await?;
            for replica in REPLICAS {
                let mut own = Vec::new();
                for proxy in &fleet.proxies {
                    own.push(Cutter::start(proxy.port).await?);
                }
                let ports = own.iter().map(|cable| cable.port).collect();
                fleet = fleet.with_agents(Installation { agent_ports: Some(ports), ..wanted.clone() });
                let token = fleet.ztka(&["--org", ORG, "cluster", "token", name]).await?;
                let upstream = Upstream { url: cluster.url(), ca: cluster.ca_path(), token: &account.token_path };
                let agent = format!("{name}{replica}");
                fleet.start_agent(ORG, &agent, upstream, &token)?;
                agents.push((ORG.to_owned(), agent));
                cables.push(own);
            }
            clusters.push(cluster);
        }
        fleet.user(ORG, "alice", &[]).await?;
        for name in CLUSTERS {
            fleet.bind(ORG, "alice", "cluster-admin", name).await?;
        }
        let alice = fleet.kubeconfig(ORG, "alice").await?;
        Ok(Self { fleet, clusters, cables, agents, alice })
    }

    /// Clients of each cluster by each proxy.
    async fn clients(&self) -> Result<Vec<Way>> {
        let mut ways = Vec::new();
        for proxy in &self.fleet.proxies {
            for cluster in CLUSTERS {
                let kubectl: Kubectl = self.fleet.kubectl_by(&self.alice, cluster, proxy.port).await?;
                ways.push(Way { cluster, client: Client::of(&kubectl).await? });
            }
        }
        Ok(ways)
    }

    async fn suffer(&mut self, seed: u64, time: Duration) -> Result<()> {
        let ways = Arc::new(self.clients().await?);
        let work = Arc::new(Work::default());
        let mut workers = JoinSet::new();
        for worker in 0..WORKERS {
            workers.spawn(work.clone().run(worker, ways.clone(), Random(seed ^ (worker as u64 + 1) << 32)));
        }
        let faults = self.faults(Random(seed), time).await;
        // Nothing is wrong any more, and everything is asked for as before.
        let calm = async {
            faults?;
            self.everything_answers(&ways).await
        };
        let calm = calm.await;
        work.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = workers.join_next().await {
            ended??;
        }
        calm?;
        let answered = work.answered.lock().unwrap().clone();
        let (created, watched) = (work.created.lock().unwrap().clone(), work.watched.lock().unwrap().clone());
        println!(
            "{} requests answered 2xx, {} of them changes, {} watches",
            answered.len(),
            created.len(),
            watched.len()
        );
        ensure!(answered.len() > 100, "only {} requests were answered", answered.len());
        self.is_on_record(&answered, &watched).await?;
        self.nothing_was_made_twice(&created).await
    }

    /// Something goes wrong every moment.
    async fn faults(&mut self, mut random: Random, time: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut undo: Vec<(Instant, Fault)> = Vec::new();
        while begun.elapsed() < time || !undo.is_empty() {
            let now = Instant::now();
            let is_over = begun.elapsed() >= time;
            let (due, rest) = undo.into_iter().partition(|(at, _)| is_over || *at <= now);
            undo = rest;
            let due: Vec<(Instant, Fault)> = due;
            for (_, fault) in due {
                self.undo(fault).await?;
            }
            if !is_over {
                let fault = self.pick(&mut random);
                let is_free = |held: &(Instant, Fault)| held.1.victim() != fault.victim();
                if undo.iter().all(is_free) {
                    let long = match fault {
                        // Shorter and longer than it takes to be noticed.
                        Fault::Cable(..) | Fault::Stopped(_) => random.millis(500, 20_000),
                        _ => random.millis(300, 4_000),
                    };
                    println!("{:>6.1} s: {fault:?} for {long:.1?}", begun.elapsed().as_secs_f64());
                    self.happens(fault)?;
                    undo.push((Instant::now() + long, fault));
                }
                sleep(random.millis(200, 2_500)).await;
            }
        }
        Ok(())
    }

    fn pick(&self, random: &mut Random) -> Fault {
        let server = |random: &mut Random| match random.below(9) {
            0 => Server::Controller,
            1..=4 => Server::Proxy(random.below(PROXIES)),
            _ => Server::Agent(random.below(CLUSTERS.len() * REPLICAS.len())),
        };
        match random.below(8) {
            0 | 1 => Fault::Killed(server(random)),
            2 => Fault::Stopped(server(random)),
            3 => Fault::Restarted(server(random)),
            4 => Fault::Torn(random.below(self.cables.len()), random.below(PROXIES)),
            _ => {
                let cut = [Cut::Silent, Cut::Outward, Cut::Inward][random.below(3)];
                Fault::Cable(random.below(self.cables.len()), random.below(PROXIES), cut)
            }
        }
    }

    fn process(&mut self, server: Server) -> Result<&mut ztka_e2e::Process> {
        Ok(match server {
            Server::Controller => &mut self.fleet.controller,
            Server::Proxy(number) => &mut self.fleet.proxies[number].process,
            Server::Agent(number) => {
                &mut self.fleet.agents.get_mut(&self.agents[number]).context("no such agent")?.process
            }
        })
    }

    fn happens(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Killed(server) => self.process(server)?.kill(),
            Fault::Stopped(server) => self.process(server)?.signal("STOP")?,
            Fault::Restarted(server) => self.process(server)?.signal("TERM")?,
            Fault::Torn(agent, proxy) => self.cables[agent][proxy].tear(),
            Fault::Cable(agent, proxy, cut) => self.cables[agent][proxy].set(cut),
        }
        Ok(())
    }

    async fn undo(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Stopped(server) => self.process(server)?.signal("CONT"),
            Fault::Torn(..) => Ok(()),
            Fault::Cable(agent, proxy, _) => {
                self.cables[agent][proxy].set(Cut::Whole);
                Ok(())
            }
            Fault::Killed(server) => self.start_again(server).await,
            Fault::Restarted(server) => {
                // It ends by itself: a proxy after its grace, an agent when its streams have ended.
                let begun = Instant::now();
                while self.process(server)?.ended()?.is_none() {
                    ensure!(begun.elapsed() < BOUND, "{server:?} was asked to stop, and goes on");
                    sleep(Duration::from_millis(50)).await;
                }
                let status = self.process(server)?.ended()?;
                ensure!(status.is_some_and(|status| status.success()), "{server:?} was asked to stop: {status:?}");
                self.start_again(server).await
            }
        }
    }

    async fn start_again(&mut self, server: Server) -> Result<()> {
        match server {
            Server::Controller => self.fleet.restart_controller(),
            Server::Proxy(number) => self.fleet.proxies[number].restart(),
            Server::Agent(number) => self.fleet.agents.get_mut(&self.agents[number]).context("no agent")?.restart(),
        }?;
        let process = self.process(server)?;
        wait_for_within(BOUND, "a server that was started again", || async { process.heeds_signals() }).await
    }

    /// Invariant 4.
    async fn everything_answers(&self, ways: &[Way]) -> Result<()> {
        let begun = Instant::now();
        for (number, way) in ways.iter().enumerate() {
            let answers = || async {
                let mut connection = timeout(PATIENCE, way.client.connect(Version::HTTP_2)).await??;
                let answer =
                    timeout(PATIENCE, connection.send(Method::GET, &format!("{CONFIGMAPS}/who"), "")).await??;
                ensure!(answer.status == StatusCode::OK, "{}: {:?}", answer.status, answer.body);
                Ok(())
            };
            let what = format!("an answer of cluster {} by proxy {}", way.cluster, number / CLUSTERS.len());
            wait_for_within(BOUND.saturating_sub(begun.elapsed()), &what, answers).await?;
        }
        println!("everything answers {:.1?} after the last fault", begun.elapsed());
        Ok(())
    }

    /// Invariants 1 and 3.
    async fn is_on_record(&self, answered: &BTreeSet<String>, watched: &BTreeSet<String>) -> Result<()> {
        let files: Vec<PathBuf> = (0..PROXIES).map(|proxy| self.fleet.events_file(proxy)).collect();
        wait_for_within(BOUND, "a record of everything, with its end", || async {
            let record = Record::read(&files)?;
            let unknown: Vec<_> = answered.iter().filter(|id| !record.received.contains(*id)).take(3).collect();
            ensure!(unknown.is_empty(), "answered 2xx and not on record: {unknown:?}");
            let open = |id: &&String| !record.ends.contains_key(*id);
            let open: Vec<_> = record.received.iter().filter(open).take(3).collect();
            ensure!(open.is_empty(), "without an end on record: {open:?}");
            for id in &record.received {
                let (end, why) = &record.ends[id];
                let is_told = !end.is_empty() && (!["failed", "stopped"].contains(&end.as_str()) || !why.is_empty());
                ensure!(is_told, "{id} has ended without a reason: {end:?} {why:?}");
            }
            let mut ends = BTreeMap::<_, usize>::new();
            for id in watched {
                *ends.entry(record.ends[id].0.as_str()).or_default() += 1;
            }
            println!("how watches have ended: {ends:?}");
            Ok(())
        })
        .await
    }

    /// Invariant 5, and 2 for changes.
    async fn nothing_was_made_twice(&self, created: &HashMap<String, &'static str>) -> Result<()> {
        let mut made = HashMap::<String, Vec<&str>>::new();
        for (cluster, name) in self.clusters.iter().zip(CLUSTERS) {
            let list = cluster.kubectl().ok(["get", "configmaps", "-l", "chaos", "-o", "json"]).await?;
            let list: Value = serde_json::from_str(&list)?;
            for item in list["items"].as_array().context("no list")? {
                let meant = item["metadata"]["labels"]["chaos"].as_str().unwrap_or_default();
                ensure!(meant == name, "a change for {meant} was made in {name}");
                let change = item["data"]["change"].as_str().unwrap_or_default();
                made.entry(change.to_owned()).or_default().push(name);
            }
        }
        let twice: Vec<_> = made.iter().filter(|(_, clusters)| clusters.len() > 1).collect();
        ensure!(twice.is_empty(), "changes that were made more than once: {twice:?}");
        for (change, cluster) in created {
            let is_made = made.get(change).is_some_and(|clusters| clusters.as_slice() == [*cluster]);
            ensure!(is_made, "{change} was answered 201 by {cluster}, and is made in {:?}", made.get(change));
        }
        println!("{} changes were made, {} were answered", made.len(), created.len());
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Server {
    Controller,
    Proxy(usize),
    Agent(usize),
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    /// SIGKILL, and started again.
    Killed(Server),
    /// SIGSTOP, and SIGCONT.
    Stopped(Server),
    /// SIGTERM, and started again when it has ended.
    Restarted(Server),
    /// The cable of an agent to a proxy drops bytes.
    Cable(usize, usize, Cut),
    /// Its connections break.
    Torn(usize, usize),
}

impl Fault {
    /// To whom nothing else may happen meanwhile: a server, or a cable.
    fn victim(&self) -> (Option<Server>, Option<(usize, usize)>) {
        match *self {
            Self::Killed(server) | Self::Stopped(server) | Self::Restarted(server) => (Some(server), None),
            Self::Cable(agent, proxy, _) | Self::Torn(agent, proxy) => (None, Some((agent, proxy))),
        }
    }
}

/// By which proxy to which cluster.
struct Way {
    cluster: &'static str,
    client: Client,
}

/// What workers do, and what came of it.
#[derive(Default)]
struct Work {
    stop: AtomicBool,
    /// Audit-IDs of what was answered 2xx.
    answered: Mutex<BTreeSet<String>>,
    /// Changes that were answered 201, and by which cluster.
    created: Mutex<HashMap<String, &'static str>>,
    /// Audit-IDs of watches.
    watched: Mutex<BTreeSet<String>>,
}

impl Work {
    async fn run(self: Arc<Self>, worker: usize, ways: Arc<Vec<Way>>, mut random: Random) -> Result<()> {
        let mut connections: Vec<Option<Connection>> = ways.iter().map(|_| None).collect();
        let version = if worker.is_multiple_of(2) { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut number = 0;
        while !self.stop.load(Ordering::Relaxed) {
            sleep(random.millis(5, 60)).await;
            number += 1;
            let at = random.below(ways.len());
            let (way, kept) = (&ways[at], &mut connections[at]);
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match timeout(PATIENCE, way.client.connect(version)).await {
                    Ok(Ok(connection)) => connection,
                    // Its proxy is away.
                    _ => continue,
                },
            };
            let change = format!("w{worker}-{number}");
            let kind = random.below(10);
            let hold = random.millis(1, 3_000);
            let done = timeout(PATIENCE, async {
                match kind {
                    0..=5 => self.read(way, &mut connection).await,
                    6..=8 => self.create(way, &mut connection, change).await,
                    _ => self.watch(&mut connection, hold).await,
                }
            });
            match done.await {
                Ok(Ok(())) => *kept = Some(connection),
                // What is wrong is not only gone.
                Ok(Err(error)) if error.is::<Broken>() => bail!(error),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Takes note of a 2xx; what else may be answered while everything goes wrong says that it is our fault.
    fn note(&self, status: StatusCode, headers: &http::HeaderMap) -> Result<Option<String>> {
        let id = headers.get("audit-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        if !status.is_success() {
            ensure!(status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS, Broken(format!("{status}")));
            return Ok(None);
        }
        let id = id.ok_or_else(|| Broken(format!("{status} without an Audit-ID")))?;
        self.answered.lock().unwrap().insert(id.clone());
        Ok(Some(id))
    }

    async fn read(&self, way: &Way, connection: &mut Connection) -> Result<()> {
        let answer = connection.send(Method::GET, &format!("{CONFIGMAPS}/who"), "").await?;
        if self.note(answer.status, &answer.headers)?.is_some() {
            let who: Value = serde_json::from_slice(&answer.body)?;
            ensure!(who["data"]["cluster"] == way.cluster, Broken(format!("{} is answered by {who}", way.cluster)));
        }
        Ok(())
    }

    async fn create(&self, way: &Way, connection: &mut Connection, change: String) -> Result<()> {
        // Each time that it is made it has another name.
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "generateName": format!("{change}-"), "labels": { "chaos": way.cluster } },
            "data": { "change": change },
        });
        let answer = connection.send(Method::POST, CONFIGMAPS, object.to_string()).await?;
        if self.note(answer.status, &answer.headers)?.is_some() {
            self.created.lock().unwrap().insert(change, way.cluster);
        }
        Ok(())
    }

    async fn watch(&self, connection: &mut Connection, hold: Duration) -> Result<()> {
        let answer = connection.begin(Method::GET, &format!("{CONFIGMAPS}?watch=1"), "").await?;
        let (head, mut body) = answer.into_parts();
        if let Some(id) = self.note(head.status, &head.headers)? {
            self.watched.lock().unwrap().insert(id);
        }
        let reading = async {
            while let Some(frame) = body.frame().await {
                frame?;
            }
            anyhow::Ok(())
        };
        // It ends by itself, breaks off, or is given up.
        timeout(hold, reading).await.unwrap_or(Ok(()))
    }
}

/// What must not be, whatever goes wrong.
#[derive(Debug)]
struct Broken(String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a promise is broken: {}", self.0)
    }
}

impl std::error::Error for Broken {}

/// What the proxies' files of events say.
struct Record {
    received: BTreeSet<String>,
    /// How each has ended, and why.
    ends: BTreeMap<String, (String, String)>,
}

impl Record {
    fn read(files: &[PathBuf]) -> Result<Self> {
        let mut record = Self { received: BTreeSet::new(), ends: BTreeMap::new() };
        for file in files {
            for line in fs::read_to_string(file)?.lines() {
                let event: Value = serde_json::from_str(line).with_context(|| format!("not an event: {line}"))?;
                let id = event["auditID"].as_str().unwrap_or_default().to_owned();
                let fact = |name: &str| {
                    let mut all = event["annotations"].as_object().into_iter().flatten();
                    let found = all.find(|(key, _)| key.ends_with(&format!("/{name}")));
                    found.and_then(|(_, value)| value.as_str()).unwrap_or_default().to_owned()
                };
                match event["stage"].as_str() {
                    Some("RequestReceived") => _ = record.received.insert(id),
                    Some("ResponseComplete") => _ = record.ends.insert(id, (fact("end"), fact("reason"))),
                    _ => {}
                }
            }
        }
        Ok(record)
    }
}
