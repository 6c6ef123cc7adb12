//! `ztka policy test`

use std::{fs, path::PathBuf};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use ztka_authz::tools::{Expectations, Outcome, junit};

use super::file::{self, PolicyFile, located};
use crate::output::Output;

#[derive(Args, Debug)]
#[command(after_help = "A file of expectations:\n  \
tests:\n  \
- name: developers look at the shop\n    \
user: alice\n    \
groups: [dev]\n    \
cluster: prod\n    \
can: [list pods -n shop, get pods/log web -n shop]\n    \
cannot: [delete pods web -n shop]\n    \
because: gives this       # part of the reason of each of them\n  \
More in docs/policy.md.")]
pub(crate) struct Test {
    #[command(flatten)]
    policy: PolicyFile,
    /// Files of expectations
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write the outcomes here as JUnit has them
    #[arg(long, value_name = "PATH")]
    junit: Option<PathBuf>,
    /// When it is, for tests that do not say; now by default
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
}

impl Test {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = self.policy.read()?;
        let now = self.at.unwrap_or_else(Timestamp::now);
        let mut suites: Vec<(String, Vec<Outcome>)> = Vec::new();
        for path in &self.files {
            let text = file::text(path)?;
            let tests = Expectations::from_yaml(&text).map_err(|error| located(path, &text, &error))?;
            suites.push((path.display().to_string(), tests.run(&policy, now)));
        }
        if let Some(path) = &self.junit {
            fs::write(path, junit(&suites)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let all = || suites.iter().flat_map(|(_, outcomes)| outcomes);
        let (count, failed) = (all().count(), all().filter(|outcome| outcome.failure.is_some()).count());
        // A file that asks nothing would pass for ever.
        ensure!(count > 0, "there is nothing to try out: write questions under can and cannot");
        output.one(&suites, || {
            let mut text = String::new();
            for (file, outcomes) in &suites {
                for Outcome { line, name, failure } in outcomes {
                    if let Some(failure) = failure {
                        let failure = failure.trim_end().replace('\n', "\n    ");
                        text.push_str(&format!("{file}:{line}: {name}\n    {failure}\n"));
                    }
                }
            }
            text + &format!("{} of {count} expectations are met", count - failed)
        })?;
        if failed > 0 {
            bail!("{failed} of {count} expectations are not met");
        }
        Ok(())
    }
}
