//! What a real node needs from the machine, and getting it from Debian.

use std::{io::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::slot;

/// Debian's packages that level 2 needs.
pub const PACKAGES: &[&str] =
    &["containerd", "runc", "containernetworking-plugins", "busybox-static", "iproute2", "util-linux"];

/// What level 2 needs and what tells that it is there.
const PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "/usr/bin/containerd"),
    ("ctr", "/usr/bin/ctr"),
    ("runc", "/usr/sbin/runc"),
    ("the CNI plugins", "/usr/lib/cni/bridge"),
    ("a static busybox", "/bin/busybox"),
    ("ip", "/sbin/ip"),
    ("unshare", "/usr/bin/unshare"),
];

/// Debian's packages of programs that single tests hold ours against, and what tells that they are there.
const JUDGES: &[(&str, &str)] = &[
    ("squid-openssl", "/usr/sbin/squid"),
    ("curl", "/usr/bin/curl"),
    ("haproxy", "/usr/sbin/haproxy"),
    ("nghttp2-client", "/usr/bin/nghttp"),
    // With the server itself.
    ("rsyslog-openssl", "/usr/share/doc/rsyslog-openssl"),
];

/// The packages of [`JUDGES`] that are not there.
#[must_use]
pub fn missing_judges() -> Vec<&'static str> {
    JUDGES.iter().filter(|(_, path)| !Path::new(path).exists()).map(|(package, _)| *package).collect()
}

/// Says why a real node cannot be started here, or `None` when it can.
#[must_use]
pub fn missing_for_level2() -> Option<String> {
    match slot::user() {
        Ok(0) => {}
        Ok(user) => return Some(format!("a real node needs root, this is user {user}")),
        Err(error) => return Some(error.to_string()),
    }
    let missing: Vec<&str> =
        PROGRAMS.iter().filter(|(_, path)| !Path::new(path).exists()).map(|(what, _)| *what).collect();
    (!missing.is_empty())
        .then(|| format!("missing: {}; run apt-get install {}", missing.join(", "), PACKAGES.join(" ")))
}

/// Whether this process may install packages and start real nodes.
#[must_use]
pub fn is_root() -> bool {
    slot::user().is_ok_and(|user| user == 0)
}

/// Installs `packages` with apt-get, as root. What it prints goes to our standard error.
///
/// # Errors
/// When apt-get is not there or fails.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    let _ = writeln!(std::io::stderr(), "installing {} with apt-get", packages.join(" "));
    for args in [&["update", "-qq"][..], &["install", "-y", "-qq", "--no-install-recommends"][..]] {
        let names = if args.contains(&"install") { packages } else { &[] };
        let output = Command::new("apt-get")
            .args(args)
            .args(names)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(std::process::Stdio::null())
            .output()
            .context("cannot run apt-get; install the packages by hand")?;
        ensure!(
            output.status.success(),
            "apt-get {} failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
