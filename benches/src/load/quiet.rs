//! Many watches that are open and say nothing.

use anyhow::{Context as _, Result};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::{
    runtime::{self, Runtime},
    task::JoinSet,
    time::timeout,
};

use super::{GRACE, refused};
use crate::{
    Target,
    connect::{Client, Sender},
};

/// Opened at the same time.
const ABREAST: usize = 8;

/// Watches that are held open until this is dropped.
#[derive(Debug)]
pub struct Quiet {
    held: Vec<(Sender, Incoming)>,
    /// Watches that did not come to be.
    pub errors: u64,
    /// What the first of them said.
    pub first_error: Option<String>,
    /// Ends the connections; after what it drives.
    _runtime: Runtime,
}

impl Quiet {
    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.held.len()
    }
}

/// Opens `count` watches at `path`, each on a connection of its own, and waits for the first event of each.
///
/// # Errors
/// When the target's files cannot be read.
pub fn open(target: &Target, path: &str, count: usize) -> Result<Quiet> {
    let client = Client::new(target)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut held, mut errors, mut first_error) = (Vec::new(), 0, None);
    runtime.block_on(async {
        let (mut opening, mut left) = (JoinSet::new(), count);
        loop {
            while left > 0 && opening.len() < ABREAST {
                left -= 1;
                let (client, path) = (client.clone(), path.to_owned());
                opening.spawn(async move { timeout(GRACE, watch(&client, &path)).await.context("no first event")? });
            }
            match opening.join_next().await {
                None => break,
                Some(Ok(Ok(watch))) => held.push(watch),
                Some(Ok(Err(error))) => {
                    errors += 1;
                    first_error.get_or_insert(format!("{error:#}"));
                }
                Some(Err(error)) => {
                    errors += 1;
                    first_error.get_or_insert(error.to_string());
                }
            }
        }
    });
    Ok(Quiet { held, errors, first_error, _runtime: runtime })
}

async fn watch(client: &Client, path: &str) -> Result<(Sender, Incoming)> {
    let mut sender = client.connect().await?;
    let mut response = sender.send_request(client.request(path)?).await?;
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    response.body_mut().frame().await.context("the watch ended at once")??;
    Ok((sender, response.into_body()))
}
