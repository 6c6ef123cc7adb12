//! Explains one decision: `cargo run -p ztka-authz --example explain -- policy.json alice prod list pods dev`.
//!
//! The policy is the body of a `policy` document, not signed: this is for trying out what a policy would say.

use std::{env, error::Error, fs};

use jiff::Timestamp;
use ztka_authz::{Action, Facts, PolicyDocument, PolicySet, Target};
use ztka_core::{Decision, OrgId, Principal, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [file, user, cluster, verb, resource, namespace @ ..] = arguments.as_slice() else {
        return Err("usage: explain <policy.json> <user> <cluster name> <verb> <resource> [namespace]".into());
    };
    let document: PolicyDocument = serde_json::from_str(&fs::read_to_string(file)?)?;
    let known = document.clusters.iter().find(|known| known.name == *cluster).ok_or("there is no such cluster")?;
    let id = known.id.clone();
    let org: OrgId = "example".parse()?;

    let policy = PolicySet::candidate(org.clone(), document)?;

    let (name, active_until) = (user.parse()?, Timestamp::MAX);
    let session = Session {
        user: "u1".parse()?,
        credential: "k1".parse()?,
        name,
        groups: Vec::new(),
        attributes: ztka_core::Attributes::new(),
        active_until,
    };
    let who = Principal::new(org, session);
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource)),
        None => (resource.as_str(), None),
    };
    let namespace = namespace.first().map(String::as_str);
    let target = Target::Resource { group: "", resource, subresource, namespace, name: None };
    match policy.decide(&who, &id, &Action::new(verb, target), &Facts::at(Timestamp::now())) {
        Decision::Allow(grant) => println!("allowed by binding {:?}, role {:?}", grant.binding, grant.role),
        Decision::Deny(reason) => println!("denied: {reason}"),
    }
    Ok(())
}
