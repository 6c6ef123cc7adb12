//! How long after a change its event comes: by a watch straight at the apiserver and by one through the installation, at
//! the same time, of the same changes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use http::{Method, StatusCode, Version};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use ztka_e2e::{Client, Connection};

const OBJECT: &str = "/api/v1/namespaces/default/configmaps/watched";
const WATCH: &str =
    "/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name%3Dwatched&timeoutSeconds=600";
/// Between two changes, so that each finds the way at rest.
const PAUSE: Duration = Duration::from_millis(20);
const BOUND: Duration = Duration::from_secs(30);

/// From just before the change is sent.
pub(super) struct Delays {
    pub(super) direct: Vec<Duration>,
    pub(super) through: Vec<Duration>,
}

/// What is changed and watched.
pub(super) fn object() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "watched" }, "data": { "number": "none" } })
}

/// Makes `changes` straight at the apiserver, one after the other, each when the one before has been heard of.
pub(super) async fn delays(direct: &Client, through: &Client, round: u32, changes: u32) -> Result<Delays> {
    let mut writer = direct.connect(Version::HTTP_2).await?;
    let (mut near, mut far) = (Watch::open(direct).await?, Watch::open(through).await?);
    let mut delays = Delays { direct: Vec::new(), through: Vec::new() };
    for change in 0..changes {
        let number = format!("{round}-{change}");
        let body = json!({ "data": { "number": number } }).to_string();
        let begun = Instant::now();
        let all =
            async { tokio::try_join!(writer.send(Method::PATCH, OBJECT, body), near.hear(&number), far.hear(&number)) };
        let (answer, near, far) = timeout(BOUND, all).await.context("an event does not come")??;
        ensure!(answer.status == StatusCode::OK, "a change was answered {}", answer.status);
        delays.direct.push(near.duration_since(begun));
        delays.through.push(far.duration_since(begun));
        sleep(PAUSE).await;
    }
    Ok(delays)
}

struct Watch {
    body: Incoming,
    unread: Vec<u8>,
    _connection: Connection,
}

impl Watch {
    /// Opens one, and reads what there is at its beginning.
    async fn open(client: &Client) -> Result<Self> {
        let mut connection = client.connect(Version::HTTP_2).await?;
        let answer = connection.begin(Method::GET, WATCH, "").await?;
        ensure!(answer.status() == StatusCode::OK, "a watch was answered {}", answer.status());
        let mut watch = Self { body: answer.into_body(), unread: Vec::new(), _connection: connection };
        timeout(BOUND, watch.line()).await.context("a watch says nothing")??;
        Ok(watch)
    }

    /// When the whole line of the event of this change was here.
    async fn hear(&mut self, number: &str) -> Result<Instant> {
        let wanted = json!(number);
        loop {
            let line = self.line().await?;
            let heard = Instant::now();
            let event: Value = serde_json::from_slice(&line).context("an event is not JSON")?;
            if event.pointer("/object/data/number") == Some(&wanted) {
                return Ok(heard);
            }
        }
    }

    async fn line(&mut self) -> Result<Vec<u8>> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let rest = self.unread.split_off(end + 1);
                return Ok(std::mem::replace(&mut self.unread, rest));
            }
            let frame = self.body.frame().await.context("a watch has ended")??;
            self.unread.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}
