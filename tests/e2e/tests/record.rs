//! The apiserver's own audit log against ours, after disconnects and crashes: nothing that it saw is missing.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};
use ztka_e2e::{Both, Client, Connection, seen_of};
use ztka_test_cluster::{Options, wait_for, wait_for_within};

/// Accounts under which the agent acts for users.
const ACCOUNTS: &str = "system:serviceaccount:ztka-system:";
const REQUESTS: usize = 10_000;
const WORKERS: usize = 6;
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn nothing_that_the_apiserver_saw_is_missing() -> Result<()> {
    let mut both = Both::start(Options::default()).await?;
    let (_, viewer) = both.colleague("victor", "view").await?;
    let clients = [Client::of(&both.through).await?, Client::of(&viewer).await?];

    let work = Arc::new(Work { requests: REQUESTS, begun: AtomicUsize::new(0), answered: Mutex::default() });
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        // Every third one may only read: what is denied is on record, and does not reach the apiserver.
        let client = clients[usize::from(worker % 3 == 2)].clone();
        workers.spawn(work.clone().run(worker, client));
    }
    for kill in 1..=3 {
        wait_for_within(Duration::from_secs(120), "the moment of a crash", || async {
            let begun = work.begun.load(Ordering::Relaxed);
            ensure!(begun >= REQUESTS * kill / 4, "{begun} requests begun");
            Ok(())
        })
        .await
        .with_context(|| both.fleet.tails())?;
        both.fleet.proxies[0].process.kill();
        both.fleet.proxies[0].restart()?;
    }
    while let Some(ended) = workers.join_next().await {
        ended?.with_context(|| both.fleet.tails())?;
    }
    for number in 0..200 {
        disconnect(&clients[0], number).await?;
    }

    let answered = work.answered.lock().unwrap().clone();
    ensure!(answered.len() > REQUESTS / 2, "only {} of {REQUESTS} were answered", answered.len());
    let events = both.fleet.events_file(0);
    wait_for_within(Duration::from_secs(60), "a record of all that the apiserver saw", || async {
        let seen = seen_of(&both.cluster, of_users)?;
        let ours = Ours::read(&events)?;
        ours.covers(&seen)?;
        ours.is_closed()?;
        let unknown: Vec<_> = answered.iter().filter(|(id, _)| !ours.received.contains_key(*id)).collect();
        ensure!(unknown.is_empty(), "answered and not on record: {unknown:?}");
        let reached: HashSet<_> = seen.iter().map(id).collect();
        for (id, status) in &answered {
            let should =
                ![StatusCode::FORBIDDEN, StatusCode::BAD_REQUEST].contains(status) && !status.is_server_error();
            ensure!(reached.contains(id.as_str()) == should, "{id} was answered {status}");
        }
        ensure!(seen.len() > REQUESTS, "the apiserver saw only {} stages of requests", seen.len());
        Ok(())
    })
    .await
    .with_context(|| both.fleet.tails())?;

    // And the agent's own record agrees: once the controller has both, there is nothing to report.
    let ours = Ours::read(&events)?;
    let (since, until, last) = ours.span()?;
    wait_for_within(Duration::from_secs(60), "agreement of events and receipts", || async {
        both.fleet.ztka_json("acme", &["audit", "tail", "-n", "1", "--id", &last]).await.context("the last event")?;
        let asked = ["audit", "findings", "--since", &since, "--until", &until];
        let findings = both.fleet.ztka_json("acme", &asked).await?;
        let of = |finding: &Value| {
            let id = finding["audit_id"].as_str().unwrap_or_default();
            format!("{finding}\n  {:?}", ours.stages.get(id))
        };
        let some: Vec<_> = findings.as_array().into_iter().flatten().take(5).map(of).collect();
        ensure!(some.is_empty(), "{} findings, such as\n{}", findings.as_array().map_or(0, Vec::len), some.join("\n"));
        Ok(())
    })
    .await
    .with_context(|| both.fleet.tails())
}

/// Requests that are shared out among workers.
struct Work {
    requests: usize,
    begun: AtomicUsize,
    answered: Mutex<HashMap<String, StatusCode>>,
}

impl Work {
    async fn run(self: Arc<Self>, worker: usize, client: Client) -> Result<()> {
        let version = if worker.is_multiple_of(2) { Version::HTTP_2 } else { Version::HTTP_11 };
        let mut connection = client.connect(version).await?;
        loop {
            let number = self.begun.fetch_add(1, Ordering::Relaxed);
            if number >= self.requests {
                return Ok(());
            }
            let (method, path, body) = request(worker, number);
            match connection.send(method, &path, body).await {
                Ok(answer) => {
                    let id = answer.headers.get("audit-id").context("an answer without Audit-ID")?.to_str()?.to_owned();
                    self.answered.lock().unwrap().insert(id, answer.status);
                }
                // The proxy was killed: a user connects again.
                Err(_) => {
                    connection = wait_for("a connection", || async {
                        let mut connection = client.connect(version).await?;
                        connection.read("/version").await?;
                        Ok(connection)
                    })
                    .await?;
                }
            }
        }
    }
}

/// All kinds of requests in turn.
fn request(worker: usize, number: usize) -> (Method, String, String) {
    let name = format!("{CONFIGMAPS}/w{worker}");
    let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("w{worker}") } });
    let (method, path, body) = match number / WORKERS % 11 {
        0 => (Method::POST, CONFIGMAPS.to_owned(), object.to_string()),
        1 => (Method::GET, name, String::new()),
        2 => (Method::PATCH, name, json!({ "data": { "number": number.to_string() } }).to_string()),
        3 => (Method::PUT, name, object.to_string()),
        4 => (Method::GET, format!("{CONFIGMAPS}?limit=1"), String::new()),
        5 if number % 100 < WORKERS => {
            (Method::GET, format!("{CONFIGMAPS}?watch=true&timeoutSeconds=1"), String::new())
        }
        5 => (Method::GET, "/apis".to_owned(), String::new()),
        6 => (Method::DELETE, name, String::new()),
        7 => (Method::GET, "/api/v1/secrets?limit=2".to_owned(), String::new()),
        8 => (Method::GET, format!("{CONFIGMAPS}/missing-{number}"), String::new()),
        9 => (Method::DELETE, format!("{CONFIGMAPS}?labelSelector=worker%3D{worker}"), String::new()),
        _ => (Method::GET, format!("/api/v1/namespaces/default/%2e%2e/{number}"), String::new()),
    };
    (method, path, body)
}

/// Begins a request and cuts the connection off at some moment of it.
async fn disconnect(client: &Client, number: u64) -> Result<()> {
    let version = if number.is_multiple_of(2) { Version::HTTP_2 } else { Version::HTTP_11 };
    let mut connection: Connection = client.connect(version).await?;
    let moment = Duration::from_micros(number * 50);
    match number % 5 {
        // A stream whose beginning was seen.
        0 => drop(connection.begin(Method::GET, &format!("{CONFIGMAPS}?watch=true"), "").await?),
        1 => {
            let object = json!({ "metadata": { "name": format!("cut-{number}") } }).to_string();
            let _ = timeout(moment, connection.begin(Method::POST, CONFIGMAPS, object)).await;
        }
        2 => {
            let _ = timeout(moment, connection.begin(Method::GET, "/openapi/v2", "")).await;
        }
        3 => drop(connection.begin(Method::GET, "/api/v1/events", "").await?),
        _ => {
            let _ = timeout(moment, connection.send(Method::GET, &format!("{CONFIGMAPS}?watch=true"), "")).await;
        }
    }
    Ok(())
}

/// Made by the agent in the name of a user, other than its own question whether an account is ready.
fn of_users(event: &Value) -> bool {
    let user = event["user"]["username"].as_str().and_then(|name| name.strip_prefix(ACCOUNTS));
    user.is_some_and(|user| user != "ztka-agent") && event["objectRef"]["resource"] != "selfsubjectaccessreviews"
}

fn id(event: &Value) -> &str {
    event["auditID"].as_str().unwrap_or_default()
}

/// The proxy's file of events.
struct Ours {
    received: HashMap<String, Value>,
    stages: HashMap<String, Vec<Value>>,
}

impl Ours {
    fn read(file: &Path) -> Result<Self> {
        let (mut received, mut stages) = (HashMap::new(), HashMap::<_, Vec<_>>::new());
        for line in fs::read_to_string(file)?.lines() {
            let event: Value = serde_json::from_str(line).with_context(|| format!("not an event: {line}"))?;
            if event["stage"] == "RequestReceived" {
                received.insert(id(&event).to_owned(), event.clone());
            }
            stages.entry(id(&event).to_owned()).or_default().push(event);
        }
        Ok(Self { received, stages })
    }

    fn covers(&self, seen: &[Value]) -> Result<()> {
        let missing: Vec<_> = seen.iter().filter(|event| !self.received.contains_key(id(event))).take(3).collect();
        ensure!(missing.is_empty(), "seen by the apiserver and not by us: {missing:#?}");
        for event in seen {
            let ours = &self.received[id(event)];
            for fact in ["verb", "requestURI"] {
                ensure!(ours[fact] == event[fact], "{fact} differs:\n{ours}\n{event}");
            }
        }
        Ok(())
    }

    fn is_closed(&self) -> Result<()> {
        let is_open = |id: &&String| !self.stages[*id].iter().any(|event| event["stage"] == "ResponseComplete");
        let open: Vec<_> = self.received.keys().filter(is_open).map(|id| &self.received[id]).take(3).collect();
        ensure!(open.is_empty(), "records without an end: {open:#?}");
        Ok(())
    }

    /// Times of the first and the last record, and the id of the last request.
    fn span(&self) -> Result<(String, String, String)> {
        let time = |event: &Value, of: &str| event[of].as_str().unwrap_or_default().to_owned();
        let first = self.received.values().map(|event| time(event, "requestReceivedTimestamp")).min();
        let last = self.stages.values().flatten().max_by_key(|event| time(event, "stageTimestamp"));
        let last = last.context("no events")?;
        Ok((first.context("no events")?, time(last, "stageTimestamp"), id(last).to_owned()))
    }
}
