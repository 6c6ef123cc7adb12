//! Requests that go on beside whatever a test does, none of which may fail.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use http::Version;
use tokio::task::JoinSet;
use ztka_test_cluster::{Kubectl, wait_for};

use crate::Client;

/// Between two requests of one connection: enough to meet every moment, and something is left for the apiserver.
const PACE: Duration = Duration::from_millis(10);

/// Requests on several connections, and kubectl again and again, until [`Load::finish`].
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: JoinSet<Result<()>>,
}

impl Load {
    /// Reads `path` on `connections` connections, half by HTTP/1.1 and half by HTTP/2, and lists namespaces by `kubectl`.
    pub async fn start(kubectl: &Kubectl, connections: usize, path: &'static str) -> Result<Self> {
        let client = Client::of(kubectl).await?;
        let mut load = Self { stop: Arc::default(), done: Arc::default(), tasks: JoinSet::new() };
        for number in 0..connections {
            let version = if number % 2 == 0 { Version::HTTP_11 } else { Version::HTTP_2 };
            let mut connection = client.connect(version).await?;
            let (stop, done) = (load.stop.clone(), load.done.clone());
            load.tasks.spawn(async move {
                let mut pace = tokio::time::interval(PACE);
                while !stop.load(Ordering::Relaxed) {
                    pace.tick().await;
                    connection.read(path).await.with_context(|| format!("connection {number}, {version:?}"))?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        let (stop, done, kubectl) = (load.stop.clone(), load.done.clone(), kubectl.clone());
        load.tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                kubectl.ok(["get", "namespaces", "-o", "name"]).await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Ok(load)
    }

    /// Waits until `more` requests have been answered from now on.
    pub async fn go_on(&self, more: usize) -> Result<()> {
        let wanted = self.done.load(Ordering::Relaxed) + more;
        wait_for("further answers", || async {
            let done = self.done.load(Ordering::Relaxed);
            anyhow::ensure!(done >= wanted, "{done} answers of {wanted}");
            Ok(())
        })
        .await
    }

    /// Ends it.
    ///
    /// # Errors
    /// The first request that failed.
    pub async fn finish(mut self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(self.done.load(Ordering::Relaxed))
    }
}
