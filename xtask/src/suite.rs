//! The suites of `cargo xtask test`: what each runs and what it needs.

use std::process::Command;

use anyhow::Result;
use ztka_test_cluster::{
    PACKAGES,
    binaries::{self, Program},
    install_packages, is_root, missing_for_level2, missing_judges,
};

use crate::{
    deny,
    run::{self, cargo},
    tally::Tally,
    workspace,
};

/// How a suite ended, other than by an error of ours.
pub(crate) enum Outcome {
    /// It ran.
    Ran(Tally),
    /// It could not run here, and why.
    Skipped(String),
}

/// A suite by name.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    run: fn(long: bool) -> Result<Outcome>,
}

impl Suite {
    pub(crate) fn run(&self, long: bool) -> Result<Outcome> {
        (self.run)(long)
    }
}

/// All suites, in the order in which they run: what fails fast comes first.
pub(crate) const SUITES: &[Suite] = &[
    Suite { name: "format", about: "cargo fmt --check", run: |_| one(cargo(&["fmt", "--all", "--check"])) },
    Suite { name: "check", about: "cargo xtask check", run: |_| Ok(Outcome::Ran(crate::check::tally()?)) },
    Suite {
        name: "deny",
        about: "banned, doubled and outdated dependencies (cargo-deny; built once with --long or CI=true)",
        run: deny,
    },
    Suite { name: "lints", about: "clippy, warnings are errors; with --long the fuzz targets too", run: lints },
    Suite { name: "setup", about: "packages and programs of the test clusters; minutes the first time", run: setup },
    Suite { name: "unit", about: "unit, property and integration tests of every crate", run: unit },
    Suite {
        name: "post-quantum",
        about: "the other crypto provider, AWS-LC; minutes of C the first time",
        run: post_quantum,
    },
    Suite {
        name: "cedar",
        about: "conditions of policy in Cedar, and lints of the servers with it; with --long kubectl through such servers",
        run: cedar,
    },
    Suite { name: "doctests", about: "examples in the documentation", run: doctests },
    Suite { name: "kit", about: "the test clusters themselves", run: kit },
    Suite {
        name: "demo",
        about: "cargo xtask demo, and the lines it prints; the same in a cluster that is there already",
        run: demo,
    },
    Suite { name: "e2e", about: "kubectl through proxy, tunnel and agent to a real Kubernetes", run: e2e },
];

/// A command that is one test by itself.
fn one(command: Command) -> Result<Outcome> {
    let (status, _) = run::streamed(command)?;
    let (passed, failed) = if status.success() { (1, 0) } else { (0, 1) };
    Ok(Outcome::Ran(Tally { passed, failed, ..Tally::default() }))
}

/// A command that runs test programs; one that fails without a failed test (it does not compile) counts as one.
fn tests(command: Command) -> Result<Outcome> {
    let (status, tally) = run::streamed(command)?;
    let mut tally = tally.settled();
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(Outcome::Ran(tally))
}

fn lints(long: bool) -> Result<Outcome> {
    let mut outcome = one(cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    // A workspace of their own, with features of its own: minutes.
    if long
        && let (Outcome::Ran(tally), Outcome::Ran(fuzz)) =
            (&mut outcome, one(cargo(&["check", "--quiet", "--manifest-path=fuzz/Cargo.toml", "--bins"]))?)
    {
        *tally += fuzz;
    }
    Ok(outcome)
}

fn deny(long: bool) -> Result<Outcome> {
    let Some(mut command) = deny::command(long || run::unattended())? else {
        let how = "cargo-deny is not installed; --long builds it, or: cargo install --locked cargo-deny";
        return Ok(Outcome::Skipped(how.to_owned()));
    };
    command.args(["--all-features", "check", "bans"]);
    one(command)
}

/// Packages that have suites of their own.
const APART: &[&str] = &["ztka-test-cluster", "ztka-e2e"];

fn setup(_: bool) -> Result<Outcome> {
    if let Some(missing) = prepare_token() {
        run::say(&missing);
    }
    Ok(prepare().map_or_else(|| Outcome::Ran(Tally::default()), Outcome::Skipped))
}

/// Some crates hold a part of theirs against a real apiserver, so this needs the programs too.
fn unit(long: bool) -> Result<Outcome> {
    if let Some(missing) = prepare() {
        run::say(&format!("tests with a cluster will fail: {missing}"));
    }
    if let Some(missing) = prepare_token() {
        run::say(&missing);
    }
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests", "--examples"]);
    for member in workspace::members()?.iter().filter(|member| APART.contains(&member.name.as_str())) {
        command.args(["--exclude", &member.name]);
    }
    if long {
        command.args(["--", "--include-ignored"]);
    }
    tests(command)
}

fn post_quantum(_: bool) -> Result<Outcome> {
    tests(cargo(&["test", "--package=ztka-pki", "--features=crypto-aws-lc", "--test=post_quantum"]))
}

/// What is released without Cedar and can be built with it.
const WITH_CEDAR: [&str; 4] = [
    "--package=ztka-controller-server",
    "--package=ztka-proxy-server",
    "--package=ztka-agent-server",
    "--package=ztka-cli",
];

fn cedar(long: bool) -> Result<Outcome> {
    let mut outcome = tests(cargo(&["test", "--package=ztka-authz", "--features=cedar", "--tests"]))?;
    let mut lints = cargo(&["clippy", "--quiet", "--features=cedar", "--bins"]);
    lints.args(WITH_CEDAR).args(["--", "-D", "warnings"]);
    let more = [Some(one(lints)?), if long { Some(kubectl_with_cedar()?) } else { None }];
    for more in more.into_iter().flatten() {
        match (&mut outcome, more) {
            (Outcome::Ran(tally), Outcome::Ran(more)) => *tally += more,
            (outcome, skipped) => *outcome = skipped,
        }
    }
    Ok(outcome)
}

/// The servers are built with it, put aside and tested there; then the others are what is in the target folder again.
fn kubectl_with_cedar() -> Result<Outcome> {
    if let Some(missing) = prepare() {
        return Ok(Outcome::Skipped(missing));
    }
    let mut build = cargo(&["build", "--features=cedar", "--bins"]);
    build.args(WITH_CEDAR);
    let (built, _) = run::streamed(build)?;
    if !built.success() {
        return Ok(Outcome::Ran(Tally { failed: 1, ..Tally::default() }));
    }
    let target = workspace::target()?;
    let aside = target.join("with-cedar");
    std::fs::create_dir_all(&aside)?;
    for program in ["ztka-controller", "ztka-proxy", "ztka-agent", "ztka"] {
        std::fs::copy(target.join("debug").join(program), aside.join(program))?;
    }
    run::streamed(cargo(&["build", "--workspace", "--bins"]))?;
    let mut command = cargo(&["test", "--package=ztka-e2e", "--test=cedar"]);
    command.env("ZTKA_BIN_DIR", aside).env("ZTKA_TEST_CEDAR", "1");
    tests(command)
}

fn doctests(_: bool) -> Result<Outcome> {
    tests(cargo(&["test", "--workspace", "--no-fail-fast", "--doc"]))
}

fn demo(_: bool) -> Result<Outcome> {
    if let Some(missing) = prepare() {
        return Ok(Outcome::Skipped(missing));
    }
    let mut outcome = one(cargo(&["xtask", "demo", "--check"]))?;
    if let Outcome::Ran(tally) = &mut outcome {
        *tally += crate::demo::rehearsal::rehearse()?;
    }
    Ok(outcome)
}

fn kit(_: bool) -> Result<Outcome> {
    if let Some(missing) = prepare() {
        return Ok(Outcome::Skipped(missing));
    }
    tests(cargo(&["test", "--package=ztka-test-cluster", "--no-fail-fast", "--tests", "--", "--test-threads=2"]))
}

fn e2e(long: bool) -> Result<Outcome> {
    if !workspace::members()?.iter().any(|member| member.name == "ztka-e2e") {
        return Ok(Outcome::Skipped("there is no package ztka-e2e".to_owned()));
    }
    if let Some(missing) = prepare() {
        return Ok(Outcome::Skipped(missing));
    }
    let (built, _) = run::streamed(cargo(&["build", "--workspace", "--bins"]))?;
    if !built.success() {
        return Ok(Outcome::Ran(Tally { failed: 1, ..Tally::default() }));
    }
    let mut command = cargo(&["test", "--package=ztka-e2e", "--no-fail-fast", "--tests", "--", "--test-threads=1"]);
    if long {
        command.arg("--include-ignored");
    }
    tests(command)
}

/// Gets PostgreSQL where that can be done. Tests without it skip themselves, or fail with `CI=true`.
fn prepare_postgres() {
    let Some(missing) = ztka_test_postgres::missing() else { return };
    if !is_root() {
        run::say(&missing);
    } else if let Err(error) = install_packages(&[ztka_test_postgres::PACKAGE]) {
        run::say(&format!("{error:#}"));
    }
}

/// Gets what test clusters need; says what is missing for all of them. A real node that is impossible here is the
/// concern of the tests that need one: they skip themselves, or fail with `CI=true`.
fn prepare() -> Option<String> {
    if is_root()
        && missing_for_level2().is_some()
        && let Err(error) = install_packages(PACKAGES)
    {
        run::say(&format!("{error:#}"));
    }
    prepare_postgres();
    prepare_judges();
    let programs: Vec<Program> = Program::CLUSTER.iter().copied().chain([Program::Helm, Program::H2spec]).collect();
    binaries::ensure_all(&programs).err().map(|error| format!("{error:#}"))
}

/// Gets the programs that single tests hold ours against. Those tests skip themselves without, or fail with `CI=true`.
fn prepare_judges() {
    let missing = missing_judges();
    if !missing.is_empty()
        && is_root()
        && let Err(error) = install_packages(&missing)
    {
        run::say(&format!("{error:#}"));
    }
}

/// Gets the software token that keys in a token are tested with; says what is missing without it. Those tests skip
/// themselves then, or fail with `CI=true`.
fn prepare_token() -> Option<String> {
    let missing = || !run::answers("softhsm2-util", &["--version"]);
    if missing()
        && is_root()
        && let Err(error) = install_packages(&["softhsm2"])
    {
        run::say(&format!("{error:#}"));
    }
    missing().then(|| "SoftHSM is missing, so keys in a token are not tested; run apt-get install softhsm2".to_owned())
}
