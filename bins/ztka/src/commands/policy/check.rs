//! `ztka policy check`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::file;
use crate::output::Output;

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The policy, as YAML or JSON; - for standard input
    file: PathBuf,
}

/// How much there is in a policy.
#[derive(Serialize)]
struct Size {
    clusters: usize,
    groups: usize,
    roles: usize,
    bindings: usize,
    denials: usize,
}

impl Check {
    pub(crate) fn run(self, output: Output) -> anyhow::Result<()> {
        let policy = file::document(&self.file)?;
        let size = Size {
            clusters: policy.clusters.len(),
            groups: policy.groups.len(),
            roles: policy.roles.len(),
            bindings: policy.bindings.len(),
            denials: policy.denials.len(),
        };
        output.one(&size, || {
            let Size { clusters, groups, roles, bindings, denials } = size;
            let name = self.file.display();
            format!(
                "{name}: valid; clusters {clusters}, groups {groups}, roles {roles}, bindings {bindings}, denials {denials}"
            )
        })
    }
}
