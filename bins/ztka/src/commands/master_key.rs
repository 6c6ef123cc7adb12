//! `ztka master-key`

use clap::Subcommand;
use ztka_api::MasterKeys;

use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum MasterKey {
    /// List the master keys, and how many data keys are wrapped by each: one without any may be taken out of `[encryption]`
    List,
    /// Wrap data keys that are under another master key than the current one anew, now; controllers do so by themselves when
    /// they start with another `encryption.master`
    Rewrap,
}

impl MasterKey {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let keys = match self {
            Self::List => session.api.master_keys().await?,
            Self::Rewrap => session.api.rewrap().await?,
        };
        session.output.rows(
            &keys,
            ["ID", "DATA KEYS", "STATE"],
            keys.keys.iter().map(|key| [key.id.clone(), key.data_keys.to_string(), state(&keys, key)]),
        )
    }
}

fn state(keys: &MasterKeys, key: &ztka_api::MasterKey) -> String {
    match (&keys.rewrapping, key.data_keys) {
        _ if key.current => "wraps".into(),
        _ if !key.configured => "not configured: put it into encryption.other".into(),
        (_, 0) => "not needed any more, unless a backup is under it".into(),
        (Some(progress), _) => match &progress.failed {
            Some(failed) => format!("put off: {failed}"),
            None => "being replaced".into(),
        },
        (None, _) => "opens".into(),
    }
}
