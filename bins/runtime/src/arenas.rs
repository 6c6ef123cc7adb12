//! How many arenas glibc allocates from (decision 0017).

/// Starts the program again in its own place, with so many arenas instead of eight for each processor, unless its environment
/// says something about that already. Comes back where there is nothing to change, or it does not work: then everything goes
/// on, with more memory.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn at_most(arenas: usize) {
    use std::{env, os::unix::process::CommandExt as _, process::Command};

    const ARENAS: &str = "MALLOC_ARENA_MAX";

    if env::var_os(ARENAS).is_some() || env::var_os("GLIBC_TUNABLES").is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    let mut arguments = env::args_os();
    let mut again = Command::new(program);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // Read by glibc as a process starts, and never again.
    let error = again.args(arguments).env(ARENAS, arenas.to_string()).exec();
    tracing::debug!(%error, "the program could not be started again with fewer arenas");
}

/// There are none.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn at_most(_: usize) {}
