//! `ztka proxy`

use std::time::Duration;

use clap::Subcommand;
use ztka_api::CreateToken;

use super::{duration, seconds};
use crate::session::Session;

#[derive(Debug, Subcommand)]
pub(crate) enum Proxy {
    /// Make a proxy and print the one-time token that it joins with
    Create {
        /// How long the token may be used; an hour by default, a week at most
        #[arg(long, value_parser = duration)]
        ttl: Option<Duration>,
    },
    /// List the proxies
    List,
}

impl Proxy {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        match self {
            Self::Create { ttl } => {
                let token = session
                    .api
                    .create_proxy(&CreateToken { ttl_seconds: seconds(ttl)?, ..CreateToken::default() })
                    .await?;
                session.output.one(&token, || token.token.clone())
            }
            Self::List => {
                let proxies = session.api.proxies().await?;
                session.output.list(&proxies, ["ID", "CREATED", "RENEWED", "CERTIFICATE UNTIL", "STATE"], |proxy| {
                    let until = proxy.not_after.map_or("not joined".into(), |until| until.to_string());
                    let renewed = proxy.renewed.map_or("-".into(), |renewed| renewed.to_string());
                    let state = if proxy.overdue { "not renewed" } else { "ok" };
                    [proxy.id.to_string(), proxy.created.to_string(), renewed, until, state.into()]
                })
            }
        }
    }
}
