//! Policies and expectations in files, and where in them something is wrong.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use ztka_authz::{
    Cluster, PolicyDocument, PolicySet,
    tools::{SourceError, policy_from_yaml},
};

/// The policy that a question is put to.
#[derive(Args, Debug)]
pub(crate) struct PolicyFile {
    /// The policy, as YAML or JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,
}

impl PolicyFile {
    pub(crate) fn read(&self) -> anyhow::Result<PolicySet> {
        policy(&self.policy)
    }
}

/// A file's text, or that of standard input for `-`.
pub(crate) fn text(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A policy that is valid, as it is written down.
pub(crate) fn document(path: &Path) -> anyhow::Result<PolicyDocument> {
    let text = text(path)?;
    policy_from_yaml(&text).map_err(|error| located(path, &text, &error))
}

/// A policy that is valid, ready to be asked.
pub(crate) fn policy(path: &Path) -> anyhow::Result<PolicySet> {
    // No file says whose policy it is, and no answer depends on it.
    let org = "yours".parse().context("there is no organisation")?;
    PolicySet::candidate(org, document(path)?).with_context(|| path.display().to_string())
}

/// `policy.yaml:7: what is wrong`, and the line itself below it.
pub(crate) fn located(path: &Path, text: &str, error: &SourceError) -> anyhow::Error {
    let (line, name) = (error.line(), path.display());
    let shown = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let shown: String = shown.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(120).collect();
    anyhow!("{name}:{line}: {}\n{line:>5} | {shown}", error.problem())
}

/// A cluster by name or id; without either the only one.
pub(crate) fn cluster<'p>(policy: &'p PolicySet, wanted: Option<&str>) -> anyhow::Result<&'p Cluster> {
    let known = policy.clusters();
    let names = || known.iter().map(|known| known.name.as_str()).collect::<Vec<_>>().join(", ");
    match (wanted, known) {
        (Some(wanted), _) => {
            let found = known.iter().find(|known| known.name == wanted);
            let found = found.or_else(|| known.iter().find(|known| known.id.as_str() == wanted));
            found.with_context(|| match known.is_empty() {
                true => "the policy has no clusters: list them under clusters".into(),
                false => format!("the policy has no cluster {wanted:?}; it has {}", names()),
            })
        }
        (None, [only]) => Ok(only),
        (None, []) => bail!("the policy has no clusters: list them under clusters"),
        (None, _) => bail!("say on which cluster with --cluster; the policy has {}", names()),
    }
}
