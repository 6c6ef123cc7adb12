//! `ztka policy explain`

use clap::Args;

use super::{
    asked::{Circumstances, What, Who},
    file::{PolicyFile, cluster},
};
use crate::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  ztka policy explain --policy policy.yaml --user alice --group dev --cluster prod \
                        create pods/exec web -n shop -- ls")]
pub(crate) struct Explain {
    #[command(flatten)]
    policy: PolicyFile,
    #[command(flatten)]
    who: Who,
    /// On this cluster, by name or id; may be left out where the policy has one only
    #[arg(long)]
    cluster: Option<String>,
    #[command(flatten)]
    what: What,
    #[command(flatten)]
    circumstances: Circumstances,
}

impl Explain {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = self.policy.read()?;
        let (who, known) = (self.who.principal(&policy)?, self.circumstances.known());
        let cluster = cluster(&policy, self.cluster.as_deref())?;
        let question = self.what.question()?;
        let command = question.command();
        let why = policy.explain(&who, &cluster.id, &question.action(), &known.facts(&command));
        output.one(&why, || why.to_string().trim_end().to_owned())
    }
}
