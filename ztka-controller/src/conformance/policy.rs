//! The tests that every [`PolicyStore`] passes.

use std::collections::BTreeMap;

use ztka_authz::{Denial, Group, PolicyDocument, Project, Settings, Subject};
use ztka_core::{DocumentKind, OrgId, Revision, UserId};
use ztka_identity::IdentityStore;

use super::{at, binding, cluster, is_missing, key, org, replay, role};
use crate::store::{
    Action, ChangeStore, Content, DocumentStore, LARGEST_POLICY, PolicyChange, PolicyEdit, PolicyStore, ResourceKind,
    ResourceStore, StoreError,
};

fn json(value: &impl serde::Serialize) -> Option<String> {
    Some(serde_json::to_string(value).unwrap())
}

fn edit(kind: ResourceKind, name: &str, before: Option<String>, after: Option<String>) -> PolicyEdit {
    PolicyEdit { kind, name: name.into(), before, after }
}

fn change(basis: u64, edits: Vec<PolicyEdit>) -> PolicyChange {
    PolicyChange { basis, edits, author: "u1".parse::<UserId>().unwrap(), act: "apply".into(), at: at(1) }
}

async fn now(store: &impl DocumentStore, org: &OrgId) -> (u64, PolicyDocument) {
    let snapshot = store.snapshot(&key(DocumentKind::Policy, Some(org), ""), at(0)).await.unwrap().unwrap();
    let Content::Policy(policy) = snapshot.content else { unreachable!("a policy") };
    (snapshot.revision.version, policy)
}

/// Runs everything about policies as a whole on an empty store. Panics at the first difference.
pub async fn policy(store: &(impl PolicyStore + ChangeStore + DocumentStore + ResourceStore + IdentityStore)) {
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    let prod = cluster(&acme, "prod");
    store.create_cluster(&prod).await.unwrap();
    let (first, empty) = now(store, &acme).await;
    assert_eq!(empty.roles, []);
    let start = store.list(Some(&acme)).await.unwrap();

    // Everything at once, each with a version of its own.
    let mut of_policy = empty.clusters.first().unwrap().clone();
    let was = json(&of_policy);
    of_policy.project = Some("shop".into());
    of_policy.labels = BTreeMap::from([("stage".into(), "later".into())]);
    of_policy.namespaces = BTreeMap::from([("pay".into(), BTreeMap::from([("team".into(), "pay".into())]))]);
    let group = Group { name: "platform".parse().unwrap(), members: vec![Subject::User("paula".parse().unwrap())] };
    let denial = Denial { name: "freeze".into(), reason: "a freeze".into(), ..Denial::default() };
    let settings = Settings { view_secrets: true, ..Settings::default() };
    let (project, reader, one) = (Project { name: "shop".into() }, role("reader"), binding("one", "reader"));
    let edits = vec![
        edit(ResourceKind::Project, "shop", None, json(&project)),
        edit(ResourceKind::Cluster, prod.id.as_str(), was.clone(), json(&of_policy)),
        edit(ResourceKind::PolicyGroup, "platform", None, json(&group)),
        edit(ResourceKind::Role, "reader", None, json(&reader)),
        edit(ResourceKind::Binding, "one", None, json(&one)),
        edit(ResourceKind::Denial, "freeze", None, json(&denial)),
        edit(ResourceKind::Settings, PolicyEdit::ONE, None, json(&settings)),
    ];
    let second = store.change_policy(&acme, &change(first, edits.clone())).await.unwrap();
    assert_eq!(second, start.revision.version + 7);
    let whole = PolicyDocument {
        clusters: vec![of_policy.clone()],
        projects: vec![project],
        groups: vec![group],
        roles: vec![reader.clone()],
        bindings: vec![one],
        denials: vec![denial],
        settings: settings.clone(),
        ..PolicyDocument::default()
    };
    assert_eq!(now(store, &acme).await, (second, whole.clone()), "the document says all of it, at that version");
    assert_eq!(store.clusters(&acme).await.unwrap().first().unwrap().labels, of_policy.labels);
    let fed = store.changes(Some(&acme), start.revision, 100).await.unwrap();
    let mut listed = start.resources.iter().map(|one| ((one.kind, one.name.clone()), one.version)).collect();
    let mut revision = start.revision;
    replay(&mut revision, &mut listed, &fed.changes);
    let listing = store.list(Some(&acme)).await.unwrap();
    let again: BTreeMap<_, _> = listing.resources.into_iter().map(|one| ((one.kind, one.name), one.version)).collect();
    assert_eq!((listing.revision, again), (revision, listed), "list and watch say the same");

    // Made from a policy that is not there any more: nothing happens.
    let stale = store.change_policy(&acme, &change(first, edits.clone())).await;
    assert!(matches!(stale, Err(StoreError::Changed { version, .. }) if version == second));
    assert!(is_missing(store.change_policy(&OrgId::generate(), &change(1, edits)).await));
    let foreign = vec![edit(ResourceKind::Cluster, prod.id.as_str(), was, json(&of_policy))];
    let (of_other, nothing) = now(store, &other).await;
    assert!(is_missing(store.change_policy(&other, &change(of_other, foreign)).await), "another one's cluster");
    assert_eq!((now(store, &other).await, nothing), ((of_other, PolicyDocument::default()), PolicyDocument::default()));
    let heavy = role(&"heavy".repeat(LARGEST_POLICY / 5 + 1));
    let heavy = vec![edit(ResourceKind::Role, "heavy", None, json(&heavy))];
    let refused = store.change_policy(&acme, &change(second, heavy)).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "too large");
    assert_eq!(now(store, &acme).await, (second, whole.clone()));

    // Changed and taken away; and what it was is known.
    let mut wider = reader.clone();
    wider.rules.first_mut().unwrap().verbs.push("list".into());
    let edits = vec![
        edit(ResourceKind::Role, "reader", json(&reader), json(&wider)),
        edit(ResourceKind::Binding, "one", json(&binding("one", "reader")), None),
        edit(ResourceKind::Denial, "freeze", json(whole.denials.first().unwrap()), None),
        edit(ResourceKind::Settings, PolicyEdit::ONE, json(&settings), json(&Settings::default())),
    ];
    let third = store.change_policy(&acme, &change(second, edits)).await.unwrap();
    let (_, after) = now(store, &acme).await;
    assert_eq!((after.roles.as_slice(), after.bindings.len(), after.denials.len()), (&[wider.clone()][..], 0, 0));
    assert_eq!((after.settings, after.projects), (Settings::default(), whole.projects.clone()));
    let history = store.policy_history(&acme, None, 10).await.unwrap();
    let said: Vec<_> = history.iter().map(|one| (one.version, one.edits, one.author.is_some())).collect();
    assert_eq!(said, [(third, 4, true), (second, 7, true), (first, 0, false)], "newest first, and what was before");
    let newest = history.first().unwrap();
    assert_eq!((newest.act.as_str(), newest.at, newest.first.len()), ("apply", at(1), 4));
    assert!(newest.first.contains(&(ResourceKind::Denial, "freeze".into(), Action::Deleted)));
    assert_eq!(store.policy_history(&acme, Some(second), 10).await.unwrap().len(), 1);
    assert_eq!(store.policy_history(&other, None, 10).await.unwrap(), []);
    let back = store.policy_back(&acme, third, second).await.unwrap();
    let of = |edits: &[PolicyEdit], kind| {
        edits.iter().find(|edit| edit.kind == kind).map(|edit| edit.after.clone()).unwrap()
    };
    assert_eq!((back.len(), of(&back, ResourceKind::Role)), (4, json(&reader)));
    assert_eq!(of(&back, ResourceKind::Binding), json(&binding("one", "reader")));
    let back = store.policy_back(&acme, third, first).await.unwrap();
    assert_eq!((back.len(), of(&back, ResourceKind::Role)), (7, None), "of each object the oldest counts");
    assert_eq!(store.policy_back(&acme, third, third).await.unwrap(), []);
    let before = store.policy_back(&acme, third, first - 1).await;
    assert!(matches!(before, Err(StoreError::Compacted)), "nobody has written down what was before");
    assert!(matches!(store.policy_back(&other, of_other, of_other - 1).await, Err(StoreError::Compacted)));

    // An object that somebody else has changed since.
    let again = vec![edit(ResourceKind::Role, "reader", json(&wider), json(&reader))];
    let at_old = store.at_version(second).policy.change_policy(&acme, &change(third, again.clone())).await;
    assert!(matches!(at_old, Err(StoreError::Changed { .. })));
    let listing = store.list(Some(&acme)).await.unwrap();
    let role = listing.resources.iter().find(|one| one.kind == ResourceKind::Role).unwrap().version;
    store.at_version(role).policy.change_policy(&acme, &change(third, again)).await.unwrap();

    // Many at once.
    let (fourth, _) = now(store, &acme).await;
    let many = (0..1201).map(|number| {
        let one = binding(&format!("many-{number}"), "reader");
        edit(ResourceKind::Binding, &one.name, None, json(&one))
    });
    let many: Vec<_> = many.collect();
    let fifth = store.change_policy(&acme, &change(fourth, many)).await.unwrap();
    assert_eq!((fifth, now(store, &acme).await.1.bindings.len()), (fourth + 1201, 1201));
}

/// Runs everything about what is left of many changes made at once, on an empty store that keeps `history` of them. Panics at
/// the first difference.
pub async fn bulk_compaction(
    store: &(impl PolicyStore + ChangeStore + DocumentStore + ResourceStore + IdentityStore),
    history: u64,
) {
    let acme = org(store, "acme").await;
    let start = store.list(Some(&acme)).await.unwrap().revision;
    // As many as versions between two sweeps, so that what is looked at when a change begins is always alike.
    let roles: Vec<_> = (0..64).map(|number| role(&format!("role-{number}"))).collect();
    let (mut basis, _) = now(store, &acme).await;
    let mut is_there = false;
    while basis < start.version + 20 * history {
        let one = |role| match is_there {
            true => (json(role), None),
            false => (None, json(role)),
        };
        let edits = roles.iter().map(|role| {
            let (before, after) = one(role);
            edit(ResourceKind::Role, &role.name, before, after)
        });
        basis = store.change_policy(&acme, &change(basis, edits.collect())).await.unwrap();
        is_there = !is_there;
    }
    let head = store.list(Some(&acme)).await.unwrap().revision;
    let long_ago = Revision { version: head.version - 4 * history, ..head };
    let kept = store.changes(Some(&acme), long_ago, u32::MAX).await;
    assert!(matches!(kept, Err(StoreError::Compacted)), "{} changes are kept", kept.unwrap().changes.len());
    let recent = Revision { version: head.version - history + 1, ..head };
    assert_eq!(store.changes(Some(&acme), recent, u32::MAX).await.unwrap().changes.len() as u64, history - 1);
}
