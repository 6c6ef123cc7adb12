//! `ztka cluster token`

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::{Args, Subcommand};
use ztka_api::{CreateToken, Token, TokenState};
use ztka_core::{Cidr, ClusterId, KeyId, OrgId};

use super::{duration, seconds};
use crate::session::Session;

/// So much of a key has to be compared: 64 bits.
const ENOUGH: usize = 16;

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    /// Name or id; short for `create`
    #[arg(required = true)]
    cluster: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new one-time token
    Create {
        /// Name or id
        cluster: String,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// List the tokens of a cluster, and the keys that have come with them
    List {
        /// Name or id
        cluster: String,
    },
    /// Let nothing be had by a token any more; a certificate that it has given stays good
    Revoke {
        /// Name or id
        cluster: String,
        /// The token's id
        token: String,
    },
    /// Let the key that waits with a token be certified, once you have compared it with what the agent logs
    Approve(Decision),
    /// Let the key that waits with a token not be certified, nor any other by this token
    Refuse(Decision),
}

#[derive(Args, Debug)]
struct Decision {
    /// Name or id
    cluster: String,
    /// The token's id
    token: String,
    /// The key as the agent logs it, or its first 16 digits or more; without it, the one that waits is shown
    #[arg(long)]
    key: Option<String>,
}

/// What a token is to be like.
#[derive(Args, Clone, Debug)]
pub(crate) struct Wanted {
    /// How long the token may be used; an hour by default, a week at most
    #[arg(long, value_parser = duration)]
    ttl: Option<Duration>,
    /// From where it may be used, as in 10.0.0.0/8; may be repeated, from anywhere by default
    #[arg(long = "source", value_name = "CIDR")]
    sources: Vec<Cidr>,
    /// Certify the agent's key only after it has been approved
    #[arg(long)]
    approval: bool,
}

impl Wanted {
    pub(crate) fn token(self) -> anyhow::Result<CreateToken> {
        Ok(CreateToken { ttl_seconds: seconds(self.ttl)?, sources: self.sources, approval: self.approval })
    }
}

impl TokenArgs {
    pub(crate) async fn run(self, session: &Session, org: &OrgId) -> anyhow::Result<()> {
        let command = match (self.command, self.cluster) {
            (Some(command), _) => command,
            (None, Some(cluster)) => TokenCommand::Create { cluster, wanted: self.wanted },
            (None, None) => bail!("name a cluster"),
        };
        command.run(session, org).await
    }
}

impl TokenCommand {
    async fn run(self, session: &Session, org: &OrgId) -> anyhow::Result<()> {
        let api = &session.api;
        match self {
            Self::Create { cluster, wanted } => {
                let id = session.cluster(org, &cluster).await?;
                let token = api.create_enrolment_token(org, &id, &wanted.token()?).await?;
                session.output.one(&token, || token.token.clone())
            }
            Self::List { cluster } => {
                let id = session.cluster(org, &cluster).await?;
                let tokens = api.enrolment_tokens(org, &id).await?;
                session.output.list(&tokens, ["ID", "STATE", "EXPIRES", "SOURCES", "KEY"], |token| {
                    let sources: Vec<_> = token.sources.iter().map(Cidr::to_string).collect();
                    let sources = if sources.is_empty() { "any".into() } else { sources.join(",") };
                    let key = token.key.as_ref().map_or_else(|| "-".into(), |key| key.0.clone());
                    [token.id.clone(), token.state.as_str().into(), token.expires.to_string(), sources, key]
                })
            }
            Self::Revoke { cluster, token } => {
                let id = session.cluster(org, &cluster).await?;
                api.revoke_enrolment_token(org, &id, &token).await?;
                session.output.one(&serde_json::json!({ "id": token }), || format!("token {token} revoked"))
            }
            Self::Approve(decision) => decision.run(session, org, true).await,
            Self::Refuse(decision) => decision.run(session, org, false).await,
        }
    }
}

impl Decision {
    async fn run(self, session: &Session, org: &OrgId, approved: bool) -> anyhow::Result<()> {
        let id = session.cluster(org, &self.cluster).await?;
        let key = self.waiting(session, org, &id).await?;
        let (word, done) = if approved { ("approve", "approved") } else { ("refuse", "refused") };
        let Some(compared) = &self.key else {
            let Self { cluster, token, .. } = &self;
            bail!(
                "the key {} waits; compare it with what the agent logs, then: \
                 ztka cluster token {word} {cluster} {token} --key {}",
                key.0,
                key.0
            );
        };
        let compared = compared.to_lowercase();
        if compared.len() < ENOUGH || !key.0.starts_with(&compared) {
            bail!("the key {} waits, not {compared}; somebody else may have the token: revoke it", key.0);
        }
        session.api.decide_enrolment(org, &id, &self.token, &key, approved).await?;
        let answer = serde_json::json!({ "id": self.token, "key": key });
        session.output.one(&answer, || format!("key {} {done}", key.0))
    }

    /// The key that waits with the token.
    async fn waiting(&self, session: &Session, org: &OrgId, cluster: &ClusterId) -> anyhow::Result<KeyId> {
        let tokens = session.api.enrolment_tokens(org, cluster).await?;
        let found = tokens.into_iter().find(|token| token.id == self.token);
        let list = || format!("see: ztka cluster token list {}", self.cluster);
        let Token { state, key, .. } = found.with_context(|| format!("there is no such token; {}", list()))?;
        key.filter(|_| state == TokenState::Waiting)
            .ok_or_else(|| anyhow!("the token is {}, and no key waits with it; {}", state.as_str(), list()))
    }
}
