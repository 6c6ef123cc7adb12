//! How much of which request is recorded, and how records are kept: `[audit.levels]` and `[audit.spool]`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use jiff::SignedDuration;
use serde::Deserialize;
use ztka_audit::{Levels, Policy, Scope, SpoolOptions, WhenFull};
use ztka_core::{ClusterId, OrgId};

use crate::Audit;

/// As much of a body as fits into a record.
const BODY: usize = 96;

/// Longest policy.
const POLICY: u64 = 1 << 20;

/// The `[audit.levels]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LevelsConfig {
    /// Audit policies of organisations, and of single clusters.
    pub policies: Vec<PolicyOf>,
    /// At most so much of each body is recorded, where bodies are. Default 32, at most 96.
    pub body_kib: Option<usize>,
    /// Fields that are taken out of recorded bodies, beside what always is.
    pub redact: Vec<Fields>,
}

/// One of `[[audit.levels.policies]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyOf {
    /// Of this organisation, by id.
    pub org: OrgId,
    /// For this cluster alone, by id. Default: for all of the organisation that have none of their own.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
    /// The policy.
    pub file: PathBuf,
}

/// One of `[[audit.levels.redact]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fields {
    /// What an event says that has lost some of them.
    pub name: String,
    /// Of these resources, `pods` or `deployments.apps`. Default: of all.
    #[serde(default)]
    pub resources: Vec<String>,
    /// Where they are, `spec.containers[*].env[*].value`.
    pub paths: Vec<String>,
}

/// The `[audit.spool]` table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SpoolConfig {
    /// What has been shipped is removed when it is older, though there is room. Default: it is kept.
    pub keep: Option<SignedDuration>,
    /// At the quota `refuse` (the default) refuses requests; `drop-metadata` drops the oldest events of level Metadata that
    /// nobody has taken, and leaves an event that counts them.
    pub when_full: WhenFull,
    /// Every request waits until its record is on the disk, not only those that change something, stream or read secrets.
    /// Default: false.
    pub sync_all: bool,
    /// A sync of the disk waits so long for more records to go with it, `2ms`. Default: it does not.
    pub sync_window: Option<SignedDuration>,
}

impl SpoolConfig {
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.keep.is_none_or(|keep| keep.is_positive()), "audit.spool.keep must be longer than 0 s");
        let window = self.sync_window.unwrap_or_default();
        let second = SignedDuration::from_secs(1);
        ensure!(!window.is_negative() && window <= second, "audit.spool.sync_window must be from 0 s to 1 s");
        Ok(())
    }

    pub(crate) fn apply(&self, mut options: SpoolOptions) -> SpoolOptions {
        options = options.when_full(self.when_full).sync_all(self.sync_all);
        if let Some(keep) = self.keep {
            options = options.keep(keep.unsigned_abs());
        }
        if let Some(window) = self.sync_window {
            options = options.window(window.unsigned_abs());
        }
        options
    }
}

impl Audit {
    /// How much is recorded of which request.
    pub(crate) fn levels(&self) -> anyhow::Result<Levels> {
        let LevelsConfig { policies, body_kib, redact } = &self.levels;
        let mut levels = Levels::new();
        if let Some(kib) = body_kib {
            ensure!((1..=BODY).contains(kib), "audit.levels.body_kib must be from 1 to {BODY}");
            levels = levels.body_bytes(kib << 10);
        }
        let all = self.policy.iter().map(|file| (Scope::All, file));
        let own = policies.iter().map(|own| match &own.cluster {
            Some(cluster) => (Scope::Cluster(own.org.clone(), cluster.clone()), &own.file),
            None => (Scope::Org(own.org.clone()), &own.file),
        });
        for (scope, file) in all.chain(own) {
            let name = file.display();
            let text = read(file)
                .with_context(|| format!("audit: cannot read the policy {name}; check that it exists and its mode"))?;
            let policy = Policy::from_yaml(&text).with_context(|| format!("audit: {name} is no audit policy"))?;
            if let Some(words) = policy.not_followed() {
                tracing::warn!(policy = %name, "{words}");
            }
            levels = levels.policy(scope, policy);
        }
        for Fields { name, resources, paths } in redact {
            levels = levels.without_fields(name, resources, paths).context("audit.levels.redact")?;
        }
        Ok(levels)
    }
}

/// A file of a sensible length, and nothing but a file.
fn read(path: &Path) -> anyhow::Result<String> {
    let about = fs::metadata(path)?;
    ensure!(about.is_file() && about.len() <= POLICY, "it is no file, or longer than 1 MiB");
    Ok(fs::read_to_string(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn audit(toml: &str) -> anyhow::Result<Levels> {
        toml::from_str::<Audit>(toml).unwrap().levels()
    }

    #[test]
    fn a_policy_that_is_none_is_told_by_file_and_line() {
        let keep = tempfile::tempdir().unwrap();
        let file = keep.path().join("policy.yaml");
        let head = "apiVersion: audit.k8s.io/v1\nkind: Policy\nrules:\n- level: Metadata\n";
        fs::write(&file, head).unwrap();
        let named =
            format!("policy = {:?}\n[[levels.policies]]\norg = 'o1'\ncluster = 'c1'\nfile = {:?}\n", file, file);
        assert!(audit(&named).is_ok());
        fs::write(&file, format!("{head}  verb: [get]\n")).unwrap();
        let error = format!("{:#}", audit(&named).unwrap_err());
        assert!(error.contains("policy.yaml") && error.contains("line 5") && error.contains("verb"), "{error}");
        for (toml, words) in [
            ("policy = '/dev/zero'", "no file"),
            ("policy = '/nowhere'", "check that it exists"),
            ("[levels]\nbody_kib = 1000", "from 1 to 96"),
            ("[[levels.redact]]\nname = 'x'\npaths = ['a..b']", "names no field"),
        ] {
            let error = format!("{:#}", audit(toml).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn times_that_cannot_be_meant_are_refused() {
        for (toml, fine) in [
            ("keep = '168h'\nsync_window = '2ms'\nwhen_full = 'drop-metadata'\nsync_all = true", true),
            ("keep = '-1s'", false),
            ("sync_window = '2s'", false),
        ] {
            assert_eq!(toml::from_str::<SpoolConfig>(toml).unwrap().check().is_ok(), fine, "{toml}");
        }
        assert!(toml::from_str::<SpoolConfig>("when_full = 'drop'").is_err());
    }
}
