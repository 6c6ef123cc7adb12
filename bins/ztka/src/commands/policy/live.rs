//! `ztka policy get`, `apply`, `edit`, `history`, `rollback`: the policy that is in force.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, Subcommand};
use ztka_api::{ClientError, PolicyChanged, PolicyHistoryQuery, PolicyVersion, RollBack};
use ztka_authz::tools::{document_to_yaml, line_at, policy_from_yaml};
use ztka_core::OrgId;

use crate::{output::Output, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Live {
    /// Print the policy in force, or the one of an earlier version
    #[command(disable_version_flag = true)] // `--version` is that of the policy here
    Get(Get),
    /// Put a policy in place of the one in force, as a whole: what the file does not say is gone
    Apply(Apply),
    /// Edit the policy in force in $VISUAL or $EDITOR
    Edit,
    /// List who has changed the policy when, newest first
    History(History),
    /// Put the policy of an earlier version in place of the one in force
    #[command(disable_version_flag = true)]
    Rollback(Back),
}

#[derive(Args, Debug)]
#[command(after_help = "It is written as YAML, and with --output json as JSON.")]
pub(crate) struct Get {
    /// As it was at this version of `ztka policy history`
    #[arg(long, value_name = "N")]
    version: Option<u64>,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Clusters are neither made nor deleted by it, and those that the file does not list stay as they \
                        are. `ztka policy get > policy.yaml` is a file to begin with; its first line says the version \
                        that it was read at, and if somebody else has changed the policy since, it is not applied."
)]
pub(crate) struct Apply {
    /// The policy, as YAML or JSON; - for standard input
    #[arg(long, short = 'f', value_name = "FILE")]
    file: PathBuf,
    /// Change nothing; say what would change, and who would gain and lose what
    #[arg(long)]
    dry_run: bool,
    /// Apply it whatever version the policy is at
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct History {
    /// Only versions before this one
    #[arg(long, value_name = "N")]
    before: Option<u64>,
    /// So many
    #[arg(long, short = 'n', default_value_t = 20)]
    number: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Back {
    /// A version of `ztka policy history`
    version: u64,
    /// Change nothing; say what would change, and who would gain and lose what
    #[arg(long)]
    dry_run: bool,
}

/// Begins the line of a file that says which version it was read at.
const AT_VERSION: &str = "# version: ";

impl Live {
    pub(crate) async fn run(self, session: &Session) -> anyhow::Result<()> {
        let org = session.org().await?;
        match self {
            Self::Get(get) => get.run(session, &org).await,
            Self::Apply(Apply { file, dry_run, force }) => {
                let text = text(&file)?;
                let basis = if force { None } else { version_of(&text) };
                let name = file.display().to_string();
                let changed = write(session, &org, &text, basis, dry_run).await.with_context(|| name)?;
                told(session, &changed)
            }
            Self::Edit => edit(session, &org).await,
            Self::History(History { before, number }) => {
                let query = PolicyHistoryQuery { before, limit: Some(number) };
                let versions = session.api.policy_history(&org, &query).await?;
                session.output.list(&versions, ["VERSION", "WHEN", "WHO", "HOW", "WHAT"], row)
            }
            Self::Rollback(Back { version, dry_run }) => {
                let changed = session.api.roll_back_policy(&org, &RollBack { version, dry_run }).await?;
                told(session, &changed)
            }
        }
    }
}

impl Get {
    async fn run(self, session: &Session, org: &OrgId) -> anyhow::Result<()> {
        let state = session.api.policy(org, self.version).await?;
        match session.output {
            Output::Table => {
                // One that is not in force any more is not to be applied by mistake.
                let basis = match self.version {
                    None => format!("{AT_VERSION}{}\n", state.version),
                    Some(version) => format!("# as it was at version {version}\n"),
                };
                print!("{basis}{}", document_to_yaml(&state.policy));
            }
            Output::Json => println!("{}", serde_json::to_string_pretty(&state.policy)?),
        }
        Ok(())
    }
}

fn row(version: &PolicyVersion) -> [String; 5] {
    let who = match (&version.author_name, &version.author) {
        (Some(name), _) => name.to_string(),
        (None, Some(id)) => id.to_string(),
        (None, None) => "-".into(),
    };
    let objects = version.objects.iter().map(|object| format!("{} {} {}", object.kind, object.name, object.action));
    let mut what = objects.take(3).collect::<Vec<_>>().join(", ");
    let shown = version.objects.len().min(3);
    let more = version.count.saturating_sub(u64::try_from(shown).unwrap_or(u64::MAX));
    if more > 0 {
        what.push_str(&format!(", and {more} more"));
    }
    let what = if what.is_empty() { "-".into() } else { what };
    [version.version.to_string(), version.at.to_string(), who, version.act.clone(), what]
}

fn text(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The version that a file was read at, if it says so.
fn version_of(text: &str) -> Option<u64> {
    text.lines().next()?.strip_prefix(AT_VERSION)?.trim().parse().ok()
}

/// Writes a policy; what is wrong with it is said with its line.
async fn write(
    session: &Session,
    org: &OrgId,
    text: &str,
    basis: Option<u64>,
    dry_run: bool,
) -> anyhow::Result<PolicyChanged> {
    let shown = |line: usize, problem: &str| {
        let found = text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let found: String = found.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).take(120).collect();
        anyhow!("line {line}: {problem}\n{line:>5} | {found}")
    };
    let policy = policy_from_yaml(text).map_err(|error| shown(error.line(), error.problem()))?;
    let policy = serde_json::to_value(policy)?;
    match session.api.write_policy(org, &policy, basis, dry_run).await {
        Ok(changed) => Ok(changed),
        Err(ClientError::Problem(problem)) => match problem.pointer() {
            Some(pointer) => Err(shown(line_at(text, pointer), &problem.to_string())),
            None => Err(ClientError::Problem(problem).into()),
        },
        Err(error) => Err(error.into()),
    }
}

fn told(session: &Session, changed: &PolicyChanged) -> anyhow::Result<()> {
    session.output.one(changed, || {
        if changed.objects.is_empty() {
            return format!("the policy is so already, at version {}", changed.version);
        }
        let mut text = String::new();
        for object in &changed.objects {
            text.push_str(&format!("{} {} {}\n", object.kind, object.name, object.action));
        }
        for one in changed.permissions.iter().flatten() {
            text.push_str(&format!("{}\n", one.who));
            text.extend(one.gained.iter().map(|permission| format!("  + {permission}\n")));
            text.extend(one.lost.iter().map(|permission| format!("  - {permission}\n")));
        }
        text.push_str(&match (changed.dry_run, &changed.permissions) {
            (true, Some(permissions)) if permissions.is_empty() => {
                "nobody would gain or lose anything by a binding; nothing was changed".into()
            }
            (true, None) => "too many to say who would gain and lose what; nothing was changed".into(),
            (true, _) => "nothing was changed".into(),
            (false, _) => format!("the policy is at version {}", changed.version),
        });
        text
    })
}

/// As `kubectl edit` does it: again and again, until it is taken, or nothing is changed any more.
async fn edit(session: &Session, org: &OrgId) -> anyhow::Result<()> {
    let editor = ["VISUAL", "EDITOR"].into_iter().find_map(|name| std::env::var(name).ok().filter(|it| !it.is_empty()));
    let editor = editor.context("say which editor: set VISUAL or EDITOR")?;
    let state = session.api.policy(org, None).await?;
    let original = document_to_yaml(&state.policy);
    let file = tempfile::Builder::new().prefix("ztka-policy-").suffix(".yaml").tempfile()?;
    let mut body = original.clone();
    let mut wrong: Option<String> = None;
    loop {
        let note: String = wrong.iter().flat_map(|text| text.lines()).map(|line| format!("# {line}\n")).collect();
        fs::write(file.path(), format!("{note}{body}"))?;
        let status = Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "ztka"])
            .arg(file.path())
            .status()
            .with_context(|| format!("cannot start {editor}"))?;
        ensure!(status.success(), "{editor} has ended with {status}; nothing was changed");
        let edited = fs::read_to_string(file.path())?;
        // What was noted goes, so that lines are those of what is written.
        let written: String =
            edited.lines().skip_while(|line| line.starts_with("# ")).map(|line| format!("{line}\n")).collect();
        if written == original {
            bail!("nothing was changed");
        }
        if wrong.is_some() && written == body {
            let text = wrong.unwrap_or_default();
            bail!("{text}\nit is as it was; nothing was changed");
        }
        match write(session, org, &written, Some(state.version), false).await {
            Ok(changed) => return told(session, &changed),
            Err(error) => (wrong, body) = (Some(format!("{error:#}")), written),
        }
    }
}
