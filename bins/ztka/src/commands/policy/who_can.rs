//! `ztka policy who-can`

use clap::Args;
use ztka_authz::Subject;

use super::{
    asked::{Circumstances, What},
    file::{PolicyFile, cluster},
};
use crate::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "It lists the users and groups that the policy names and that may do it by themselves. Who is \
                        in several groups may do more, or be denied more.")]
pub(crate) struct WhoCan {
    #[command(flatten)]
    policy: PolicyFile,
    /// On this cluster, by name or id; may be left out where the policy has one only
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    circumstances: Circumstances,
}

impl WhoCan {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = self.policy.read()?;
        let known = self.circumstances.known();
        let cluster = cluster(&policy, self.cluster.as_deref())?;
        let question = self.what.question()?;
        let command = question.command();
        let who = policy.who_can(&cluster.id, &question.action(), &known.facts(&command));
        output.list(&who, ["KIND", "NAME", "BINDING", "ROLE"], |who| {
            let (kind, name) = match &who.subject {
                Subject::User(name) => ("user", name.to_string()),
                Subject::Group(name) => ("group", name.to_string()),
            };
            [kind.into(), name, who.binding.clone(), who.role.clone()]
        })
    }
}
