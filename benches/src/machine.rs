//! What the figures were measured on, and by which versions.

use std::{
    env,
    fmt::{self, Display},
    fs,
    process::Command,
    thread,
};

/// Set by who has just built the programs that are measured: the Git revision that they were built of, with `+` if
/// something was changed. The checkout in which figures are taken may be at another one by then, so it is not asked.
pub const BUILD: &str = "ZTKA_BENCH_BUILD";

/// The machine and the versions, as they are printed above a table.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Cores that this process may use.
    pub cores: usize,
    /// Model of the processor.
    pub processor: String,
    /// Kernel.
    pub kernel: String,
    /// Of what the measured programs were built, and by which compiler; empty if nobody said so.
    pub build: String,
    /// HAProxy; empty without one.
    pub haproxy: String,
    /// Processes that wanted a core during the last minute, on average. Looked at before a run, it is what others do.
    pub load: f64,
}

impl Machine {
    /// Looks it up; what cannot be found out is `unknown`.
    #[must_use]
    pub fn look() -> Self {
        let unknown = || "unknown".to_owned();
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned());
        Self {
            cores: thread::available_parallelism().map_or(1, Into::into),
            processor: model(&processors).map_or_else(unknown, str::to_owned),
            kernel: kernel.unwrap_or_else(|_| unknown()),
            build: env::var(BUILD).ok().map(|revision| build(&revision)).unwrap_or_default(),
            haproxy: first_line("haproxy", &["-v"]).as_deref().and_then(version).unwrap_or_default(),
            load: fs::read_to_string("/proc/loadavg").ok().as_deref().and_then(load).unwrap_or_default(),
        }
    }

    /// True if others had a noticeable share of the cores, so that figures are worth little.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a handful")]
        let cores = self.cores as f64;
        self.load > cores / 4.0
    }

    /// What is to be said below the figures of a machine that was [busy](Machine::is_busy).
    #[must_use]
    pub fn busy(&self) -> Option<String> {
        self.is_busy().then(|| format!("The machine was not idle before the run (load average {:.2}).", self.load))
    }
}

/// The beginning of a sentence, without its full stop.
impl Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, processor, kernel, build, .. } = self;
        let build = if build.is_empty() { "unknown build" } else { build };
        write!(f, "{cores} cores, {processor}, Linux {kernel}; {build}")
    }
}

/// Who has just built knows the revision; the compiler is still the same.
fn build(revision: &str) -> String {
    let rustc = first_line("rustc", &["-V"]);
    format!("revision {revision}{}", rustc.map(|rustc| format!(", {rustc}")).unwrap_or_default())
}

fn load(loadavg: &str) -> Option<f64> {
    loadavg.split_whitespace().next()?.parse().ok()
}

fn model(cpuinfo: &str) -> Option<&str> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, model)| model.trim())
}

fn version(line: &str) -> Option<String> {
    let version = line.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(version.split('-').next().unwrap_or(version).to_owned())
}

fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).ok()?;
    text.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_models_are_found_in_what_programs_print() {
        let line = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(version(line).as_deref(), Some("2.6.12"));
        assert_eq!(version("nothing"), None);
        assert_eq!(load("0.52 0.58 0.59 1/389 12345\n"), Some(0.52));
        assert_eq!(load(""), None);
        assert_eq!(model("processor\t: 0\nmodel name\t: AMD EPYC\n"), Some("AMD EPYC"));
        assert_eq!(model("processor\t: 0\n"), None);
    }

    #[test]
    fn a_build_that_nobody_told_is_not_guessed() {
        assert!(Machine::default().to_string().ends_with("; unknown build"));
        let machine = Machine { build: build("0123456789ab+"), ..Machine::default() };
        assert!(machine.to_string().contains("; revision 0123456789ab+"), "{machine}");
    }
}
