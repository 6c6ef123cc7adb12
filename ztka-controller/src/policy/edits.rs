//! Two policies as the objects in which they differ, and objects put into a policy.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Serialize, de::DeserializeOwned};
use ztka_authz::PolicyDocument;

use crate::store::{PolicyEdit, ResourceKind};

/// What a policy is made of: JSON by kind (its place in [`PolicyEdit::KINDS`]) and name. What says nothing is left out.
type Objects = BTreeMap<(usize, String), String>;

fn objects(document: &PolicyDocument) -> serde_json::Result<Objects> {
    fn all<'a, T: Serialize + 'a>(
        objects: &mut Objects,
        kind: ResourceKind,
        things: impl IntoIterator<Item = (&'a str, &'a T)>,
    ) -> serde_json::Result<()> {
        let place = PolicyEdit::KINDS.iter().position(|known| *known == kind).unwrap_or_default();
        for (name, thing) in things {
            objects.insert((place, name.to_owned()), serde_json::to_string(thing)?);
        }
        Ok(())
    }
    let PolicyDocument { clusters, projects, groups, roles, bindings, denials, guardrails, settings } = document;
    let mut found = Objects::new();
    all(&mut found, ResourceKind::Cluster, clusters.iter().map(|one| (one.id.as_str(), one)))?;
    all(&mut found, ResourceKind::Project, projects.iter().map(|one| (one.name.as_str(), one)))?;
    all(&mut found, ResourceKind::PolicyGroup, groups.iter().map(|one| (one.name.as_str(), one)))?;
    all(&mut found, ResourceKind::Role, roles.iter().map(|one| (one.name.as_str(), one)))?;
    all(&mut found, ResourceKind::Binding, bindings.iter().map(|one| (one.name.as_str(), one)))?;
    all(&mut found, ResourceKind::Denial, denials.iter().map(|one| (one.name.as_str(), one)))?;
    if *guardrails != ztka_authz::Guardrails::default() {
        all(&mut found, ResourceKind::Guardrails, [(PolicyEdit::ONE, guardrails)])?;
    }
    if *settings != ztka_authz::Settings::default() {
        all(&mut found, ResourceKind::Settings, [(PolicyEdit::ONE, settings)])?;
    }
    Ok(found)
}

/// What leads from `old` to `new`, in an order in which nothing refers to what comes later.
pub(crate) fn diff(old: &PolicyDocument, new: &PolicyDocument) -> serde_json::Result<Vec<PolicyEdit>> {
    let (mut old, mut new) = (objects(old)?, objects(new)?);
    let keys: BTreeSet<_> = old.keys().chain(new.keys()).cloned().collect();
    let edit = |key: (usize, String)| {
        let (before, after) = (old.remove(&key), new.remove(&key));
        let kind = *PolicyEdit::KINDS.get(key.0)?;
        (before != after).then_some(PolicyEdit { kind, name: key.1, before, after })
    };
    Ok(keys.into_iter().filter_map(edit).collect())
}

fn replace<T: DeserializeOwned>(
    things: &mut Vec<T>,
    body: Option<&str>,
    is: impl Fn(&T) -> bool,
) -> serde_json::Result<bool> {
    let body = body.map(serde_json::from_str).transpose()?;
    let place = things.iter().position(is);
    match (place, body) {
        (Some(place), Some(body)) => {
            if let Some(thing) = things.get_mut(place) {
                *thing = body;
            }
        }
        (Some(place), None) => drop(things.remove(place)),
        (None, Some(body)) => things.push(body),
        (None, None) => {}
    }
    Ok(place.is_some())
}

/// Puts an object in place of the one of this name, or takes it out; false if there was none.
pub(crate) fn put(
    document: &mut PolicyDocument,
    kind: ResourceKind,
    name: &str,
    body: Option<&str>,
) -> serde_json::Result<bool> {
    match kind {
        ResourceKind::Cluster => replace(&mut document.clusters, body, |one| one.id.as_str() == name),
        ResourceKind::Project => replace(&mut document.projects, body, |one| one.name == name),
        ResourceKind::PolicyGroup => replace(&mut document.groups, body, |one| one.name.as_str() == name),
        ResourceKind::Role => replace(&mut document.roles, body, |one| one.name == name),
        ResourceKind::Binding => replace(&mut document.bindings, body, |one| one.name == name),
        ResourceKind::Denial => replace(&mut document.denials, body, |one| one.name == name),
        ResourceKind::Guardrails => {
            document.guardrails = body.map(serde_json::from_str).transpose()?.unwrap_or_default();
            Ok(true)
        }
        ResourceKind::Settings => {
            document.settings = body.map(serde_json::from_str).transpose()?.unwrap_or_default();
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_leads_there_and_back() {
        let old: PolicyDocument = serde_json::from_str(
            r#"{"clusters": [{"id": "c1", "name": "prod"}], "projects": [{"name": "shop"}],
                "bindings": [{"name": "a", "subjects": [{"user": "alice"}], "role": "view",
                              "clusters": {"all": true}, "scope": "cluster"}],
                "settings": {"viewSecrets": true}}"#,
        )
        .unwrap();
        let new: PolicyDocument = serde_json::from_str(
            r#"{"clusters": [{"id": "c1", "name": "prod", "labels": {"stage": "prod"}, "project": "shop"}],
                "projects": [{"name": "shop"}], "groups": [{"name": "g", "members": [{"user": "alice"}]}],
                "roles": [{"name": "r", "rules": []}],
                "guardrails": {"gates": {"token": "closed"}}}"#,
        )
        .unwrap();
        for (from, to) in [(&old, &new), (&new, &old), (&old, &PolicyDocument::default())] {
            let edits = diff(from, to).unwrap();
            assert!(!edits.is_empty());
            let mut moved = from.clone();
            for edit in &edits {
                put(&mut moved, edit.kind, &edit.name, edit.after.as_deref()).unwrap();
            }
            assert_eq!(moved, *to);
            assert_eq!(diff(to, to).unwrap(), []);
        }
        let of_cluster = diff(&old, &new).unwrap();
        assert!(of_cluster.iter().any(|edit| edit.kind == ResourceKind::Settings && edit.after.is_none()));
    }
}
