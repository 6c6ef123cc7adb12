//! `ztka policy diff`

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use ztka_authz::tools::{Change, compare};

use super::file;
use crate::output::Output;

#[derive(Args, Debug)]
#[command(
    after_help = "It compares what bindings give. What denials and guardrails take away shows in `simulate` and \
                        `test`."
)]
pub(crate) struct Diff {
    /// The policy as it is
    old: PathBuf,
    /// The policy as it is to be
    new: PathBuf,
    /// Only for this user, with the groups given; all users and groups that a policy names by default
    #[arg(long)]
    user: Option<String>,
    /// A group of the user's session (repeatable)
    #[arg(long = "group", value_name = "GROUP", requires = "user")]
    groups: Vec<String>,
}

impl Diff {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let (old, new) = (file::policy(&self.old)?, file::policy(&self.new)?);
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let person = match &self.user {
            Some(user) => Some(old.somebody(user, &groups).context("the user or a group has no valid name")?),
            None => None,
        };
        let changes = compare(&old, &new, person.as_slice());
        output.one(&changes, || match changes.is_empty() {
            true => "nobody gains or loses anything by a binding".into(),
            false => changes.iter().map(told).collect::<Vec<_>>().join("\n"),
        })
    }
}

fn told(change: &Change) -> String {
    let gained = change.gained.iter().map(|permission| format!("\n  + {permission}"));
    let lost = change.lost.iter().map(|permission| format!("\n  - {permission}"));
    gained.chain(lost).fold(change.who.clone(), |text, line| text + &line)
}
