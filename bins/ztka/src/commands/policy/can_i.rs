//! `ztka policy can-i`

use anyhow::Context as _;
use clap::Args;
use ztka_authz::tools::{Permission, Place};

use super::{
    asked::{Circumstances, What, Who},
    file::{PolicyFile, cluster},
};
use crate::output::{No, Output};

#[derive(Args, Debug)]
#[command(
    after_help = "It exits with 1 where the answer is no. With --list denials, protected namespaces and gates are \
                        not taken off, as they are no list: ask for what matters."
)]
pub(crate) struct CanI {
    #[command(flatten)]
    policy: PolicyFile,
    #[command(flatten)]
    who: Who,
    /// On this cluster, by name or id; may be left out where the policy has one only
    #[arg(long)]
    cluster: Option<String>,
    /// All that bindings give, instead of one question
    #[arg(long, conflicts_with = "What")]
    list: bool,
    #[command(flatten)]
    what: Option<What>,
    #[command(flatten)]
    circumstances: Circumstances,
}

impl CanI {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = self.policy.read()?;
        let (who, known) = (self.who.principal(&policy)?, self.circumstances.known());
        let cluster = cluster(&policy, self.cluster.as_deref())?;
        if self.list {
            let all = policy.permissions(&who, &cluster.id);
            return output.list(&all, ["VERB", "WHAT", "NAME", "WHERE", "UNDER"], row);
        }
        let what = self.what.context("say what: VERB RESOURCE [NAME] [-n NAMESPACE], or --list")?;
        let question = what.question()?;
        let command = question.command();
        let why = policy.explain(&who, &cluster.id, &question.action(), &known.facts(&command));
        output.one(&why, || format!("{} - {}", if why.allowed { "yes" } else { "no" }, why.decision))?;
        if why.allowed { Ok(()) } else { Err(No.into()) }
    }
}

fn row(permission: &Permission) -> [String; 5] {
    let place = match &permission.place {
        Place::Cluster => "the cluster".into(),
        Place::AllNamespaces => "all namespaces".into(),
        Place::Namespace(name) => name.clone(),
    };
    let dash = |text: &str| if text.is_empty() { "-".into() } else { text.to_owned() };
    let name = permission.name.as_deref().unwrap_or_default();
    [permission.verb.clone(), permission.what.clone(), dash(name), place, dash(&permission.terms)]
}
