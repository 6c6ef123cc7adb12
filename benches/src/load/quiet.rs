//! Many watches that are open and say nothing.

use anyhow::{Context as _, Result};
use http::Response;
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
    connect::{Client, Sender, SharedSender},
};

/// Opened at the same time.
const ABREAST: usize = 8;

/// Watches that are held open until this is dropped.
#[derive(Debug)]
pub struct Quiet {
    held: Vec<(Held, Incoming)>,
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

/// Keeps a watch's connection open.
#[derive(Debug)]
enum Held {
    Own { _sender: Sender },
    Shared { _sender: SharedSender },
}

/// How watches are spread over connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Over {
    /// Each has one of its own, of HTTP/1.1.
    Own,
    /// So many share one, of HTTP/2.
    Shared(usize),
}

/// Opens `count` watches at `path`, and waits for the first event of each.
///
/// # Errors
/// When the target's files cannot be read.
pub fn open(target: &Target, path: &str, count: usize, over: Over) -> Result<Quiet> {
    let client = Client::new(target)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut held, mut errors, mut first_error) = (Vec::new(), 0, None);
    runtime.block_on(async {
        let (mut opening, mut left) = (JoinSet::new(), count);
        let mut shared = None;
        loop {
            while left > 0 && opening.len() < ABREAST {
                if let Over::Shared(each) = over
                    && (count - left).is_multiple_of(each.max(1))
                {
                    shared = match client.connect_shared().await {
                        Ok(sender) => Some(sender),
                        Err(error) => {
                            errors += 1;
                            first_error.get_or_insert(format!("{error:#}"));
                            left = 0;
                            break;
                        }
                    };
                }
                left -= 1;
                let (client, path, shared) = (client.clone(), path.to_owned(), shared.clone());
                opening.spawn(
                    async move { timeout(GRACE, watch(&client, &path, shared)).await.context("no first event")? },
                );
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

async fn watch(client: &Client, path: &str, shared: Option<SharedSender>) -> Result<(Held, Incoming)> {
    match shared {
        Some(mut sender) => {
            let response = sender.send_request(client.shared_request(path)?).await?;
            Ok((Held::Shared { _sender: sender }, begun(response).await?))
        }
        None => {
            let mut sender = client.connect().await?;
            let response = sender.send_request(client.request(path)?).await?;
            Ok((Held::Own { _sender: sender }, begun(response).await?))
        }
    }
}

async fn begun(mut response: Response<Incoming>) -> Result<Incoming> {
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    response.body_mut().frame().await.context("the watch ended at once")??;
    Ok(response.into_body())
}
