//! Who may depend on whom, as `docs/architecture.md` draws it.

use crate::workspace::Member;

/// Folder of a member → folders it may depend on, tests aside. A member that is not here may depend on none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ztka-core", &[]),
    ("ztka-pki", &["ztka-core"]),
    ("ztka-tunnel", &["ztka-core"]),
    ("ztka-authz", &["ztka-core"]),
    ("ztka-audit", &["ztka-core"]),
    ("ztka-identity", &["ztka-core"]),
    ("ztka-api", &["ztka-core"]),
    // docs/decisions/0003-one-follower.md
    ("ztka-follow", &["ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit"]),
    ("ztka-proxy", &["ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit", "ztka-follow"]),
    ("ztka-agent", &["ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit", "ztka-follow"]),
    ("ztka-controller", &["ztka-core", "ztka-pki", "ztka-authz", "ztka-audit", "ztka-identity", "ztka-api"]),
    ("ztka-store", &["ztka-core", "ztka-pki", "ztka-authz", "ztka-audit", "ztka-identity", "ztka-controller"]),
    ("bins/runtime", &["ztka-tunnel"]),
    ("bins/proxy", PROXY),
    ("bins/agent", AGENT),
    ("bins/controller", CONTROLLER),
    // The command line, and `ztka up`: every server in one process.
    ("bins/ztka", UP),
    // Only ever run by people and machines that build the workspace.
    ("tests/cluster", &[]),
    ("tests/postgres", &[]),
    ("tests/e2e", ANY),
    ("benches", ANY),
    ("xtask", ANY),
];

const PROXY: &[&str] =
    &["bins/runtime", "ztka-proxy", "ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit", "ztka-follow"];

const AGENT: &[&str] =
    &["bins/runtime", "ztka-agent", "ztka-core", "ztka-pki", "ztka-tunnel", "ztka-authz", "ztka-audit", "ztka-follow"];

const CONTROLLER: &[&str] = &[
    "bins/runtime",
    "ztka-controller",
    "ztka-store",
    "ztka-core",
    "ztka-pki",
    "ztka-authz",
    "ztka-audit",
    "ztka-identity",
    "ztka-api",
];

const UP: &[&str] = &[
    "bins/runtime",
    "bins/controller",
    "bins/proxy",
    "bins/agent",
    "ztka-controller",
    "ztka-proxy",
    "ztka-agent",
    "ztka-store",
    "ztka-core",
    "ztka-pki",
    "ztka-tunnel",
    "ztka-authz",
    "ztka-audit",
    "ztka-identity",
    "ztka-follow",
    "ztka-api",
];

const ANY: &[&str] = &["*"];

pub(crate) fn check(members: &[Member]) -> Vec<String> {
    let mut broken = Vec::new();
    for member in members {
        let Some((_, allowed)) = ALLOWED.iter().find(|(folder, _)| *folder == member.folder) else {
            broken.push(format!("{} is new: say in xtask/src/check/edges.rs what it may depend on", member.folder));
            continue;
        };
        if *allowed == ANY {
            continue;
        }
        for name in &member.dependencies {
            let folder = members.iter().find(|other| other.name == *name).map_or(name.as_str(), |other| &other.folder);
            if !allowed.contains(&folder) {
                broken.push(format!("{} must not depend on {folder}", member.folder));
            }
        }
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(folder: &str, dependencies: &[&str]) -> Member {
        let dependencies = dependencies.iter().map(|&name| name.to_owned()).collect();
        Member { name: folder.to_owned(), folder: folder.to_owned(), dependencies, uses: Vec::new() }
    }

    #[test]
    fn siblings_never_depend_on_each_other() {
        let members =
            [member("ztka-core", &[]), member("ztka-pki", &["ztka-core", "ztka-authz"]), member("ztka-authz", &[])];
        assert_eq!(check(&members), ["ztka-pki must not depend on ztka-authz"]);
    }

    #[test]
    fn a_new_member_has_to_be_named() {
        assert_eq!(check(&[member("ztka-new", &[])]).len(), 1);
    }

    #[test]
    fn drivers_of_the_workspace_may_use_everything() {
        assert!(check(&[member("xtask", &["ztka-store"]), member("ztka-store", &[])]).is_empty());
    }
}
