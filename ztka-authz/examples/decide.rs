//! Decides one question by a policy in YAML, and says why:
//! `cargo run -p ztka-authz --example decide -- policy.yaml alice,dev prod "list pods -n shop"`.
//!
//! Without arguments it asks a policy of its own. Nobody has signed what is asked here: this is for trying it out.

use std::{env, error::Error, fs};

use ztka_authz::{
    Facts, PolicySet, Supported,
    tools::{Question, policy_from_yaml},
};

const POLICY: &str = "
clusters: [{id: c1, name: prod}]
bindings:
- {name: look, subjects: [{group: dev}], role: view, clusters: {all: true}, scope: {namespaces: [shop]}}
";

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    print!("{}", decide(&env::args().skip(1).collect::<Vec<_>>())?);
    Ok(())
}

pub(crate) fn decide(arguments: &[String]) -> Result<String, Box<dyn Error>> {
    let (text, who, cluster, question) = match arguments {
        [] => (POLICY.to_owned(), "alice,dev", "prod", "list pods -n shop"),
        [file, who, cluster, question] => {
            (fs::read_to_string(file)?, who.as_str(), cluster.as_str(), question.as_str())
        }
        _ => return Err("usage: decide <policy.yaml> <user>[,<group>…] <cluster name> <question>".into()),
    };
    let document = policy_from_yaml(&text)?;
    let known = document.clusters.iter().find(|known| known.name == cluster).ok_or("there is no such cluster")?;
    let id = known.id.clone();
    let policy = PolicySet::candidate("example".parse()?, document)?;

    let mut names = who.split(',');
    let (user, groups) = (names.next().unwrap_or_default(), names.collect::<Vec<_>>());
    let who = policy.somebody(user, &groups).ok_or("a user or group has no valid name")?;
    let question: Question = question.parse()?;
    let facts = Facts::at(jiff::Timestamp::now()).supporting(Supported::ALL);
    Ok(policy.explain(&who, &id, &question.action(), &facts).to_string())
}
