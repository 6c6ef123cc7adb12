//! Publishes signed tree heads to places of the customer's, which the database's operators should not be able to change: a
//! file that is appended to, and a webhook.
mod file;
mod webhook;

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::Mutex;
use ztka_audit::{HeadAt, log::SignedHead};
use ztka_controller::Controller;
use ztka_core::OrgId;

pub(crate) use self::{file::HeadFile, webhook::Webhook};

/// Between two looks at which heads there are.
const LOOK: Duration = Duration::from_secs(5);
/// Heads that are read at once.
const AT_ONCE: usize = 256;

/// Of each organisation the size of the last head that is at a place already.
type Published = BTreeMap<OrgId, u64>;

/// Where heads are published.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) file: Option<HeadFile>,
    pub(crate) webhook: Option<Webhook>,
}

/// Heads that come after those that are published, of each organisation in order, with their sizes.
async fn news(controller: &Controller, published: &Published) -> anyhow::Result<Vec<(OrgId, u64, SignedHead)>> {
    let (mut news, log) = (Vec::new(), &controller.stores().log);
    for org in controller.stores().identity.orgs().await? {
        let mut size = published.get(&org.id).copied().unwrap_or(0);
        while news.len() < AT_ONCE {
            let next = log.head(&org.id, HeadAt::After(size)).await.map_err(anyhow::Error::from_boxed)?;
            let Some(head) = next else { break };
            size = head.claimed()?.size;
            news.push((org.id.clone(), size, head));
        }
    }
    Ok(news)
}

/// Publishes without end; nothing where no place is configured.
pub(crate) async fn keep(controller: Controller, places: &Mutex<Places>) {
    let mut places = places.lock().await;
    let Places { file, webhook } = &mut *places;
    let file = async {
        let Some(file) = file else { return std::future::pending().await };
        loop {
            tell(file.publish(&controller).await);
            tokio::time::sleep(LOOK).await;
        }
    };
    let webhook = async {
        let Some(webhook) = webhook else { return std::future::pending().await };
        loop {
            tell(webhook.publish(&controller).await);
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::join!(file, webhook);
}

fn tell(published: anyhow::Result<usize>) {
    if let Err(error) = published {
        let error = format!("{error:#}");
        tracing::error!(error, "tree heads cannot be published now; they are as soon as that is mended");
    }
}

#[cfg(test)]
mod tests;
