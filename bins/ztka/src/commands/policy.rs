//! `ztka policy`

mod asked;
mod can_i;
mod check;
mod diff;
mod explain;
mod file;
mod live;
mod schema;
mod simulate;
mod test;
mod who_can;

use clap::Subcommand;

pub(crate) use self::live::Live;
use crate::output::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    #[command(flatten)]
    OnFiles(Box<OnFiles>),
    #[command(flatten)]
    Live(Live),
}

/// What is answered from files alone: no controller is asked, and nobody has to be logged in.
#[derive(Debug, Subcommand)]
pub(crate) enum OnFiles {
    /// Check a policy file: what is wrong, and on which line
    Check(check::Check),
    /// Try out expectations of a policy; fails if one is not met
    Test(test::Test),
    /// Say why somebody may or may not do something: everything in the policy that is about them, in order
    Explain(explain::Explain),
    /// List who may do something
    WhoCan(who_can::WhoCan),
    /// Ask whether somebody may do something, or with --list for all that they may
    CanI(can_i::CanI),
    /// Compare two policies: what users and groups gain and lose
    Diff(diff::Diff),
    /// Decide again on recorded requests: which would newly be denied or allowed
    Simulate(simulate::Simulate),
    /// Print the JSON Schema of policy files, for editors
    Schema(schema::Schema),
}

impl OnFiles {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        match self {
            Self::Check(command) => command.run(output),
            Self::Test(command) => command.run(output),
            Self::Explain(command) => command.run(output),
            Self::WhoCan(command) => command.run(output),
            Self::CanI(command) => command.run(output),
            Self::Diff(command) => command.run(output),
            Self::Simulate(command) => command.run(output),
            Self::Schema(command) => command.run(),
        }
    }
}
