//! The tests that every [`ChangeStore`] passes.

use std::collections::BTreeMap;

use ztka_core::{Attributes, CredentialId, DocumentKind, OrgId, Revision, UserId};
use ztka_identity::{Credential, IdentityStore, LoginSession, User};

use super::{at, binding, cluster, is_exists, is_missing, key, org, role};
use crate::store::{Action, Change, ChangeStore, DocumentStore, Listed, ResourceKind, ResourceStore, StoreError};

/// What a listing says after these changes. Panics if one of them is not the next version.
pub fn replay(revision: &mut Revision, resources: &mut BTreeMap<(ResourceKind, String), u64>, changes: &[Change]) {
    for Change { version, kind, name, action } in changes {
        assert_eq!(*version, revision.version + 1, "no version is skipped or seen twice");
        revision.version = *version;
        let key = (*kind, name.clone());
        match action {
            Action::Created => assert_eq!(resources.insert(key, *version), None, "{name} is new"),
            Action::Updated => assert!(resources.insert(key, *version).is_some(), "{name} was there"),
            Action::Deleted => assert!(resources.remove(&key).is_some(), "{name} was there"),
        }
    }
}

fn is_compacted<T>(result: Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Compacted))
}

fn by_key(listed: Vec<Listed>) -> BTreeMap<(ResourceKind, String), u64> {
    listed.into_iter().map(|listed| ((listed.kind, listed.name), listed.version)).collect()
}

fn user(org: &OrgId, name: &str) -> User {
    let (id, org, name) = (UserId::generate(), org.clone(), name.parse().unwrap());
    User { id, org, name, admin: None, attributes: Attributes::new(), disabled: None, created: at(0) }
}

/// Runs everything about the change feed on an empty store. Panics at the first difference.
pub async fn changes(store: &(impl ChangeStore + DocumentStore + ResourceStore + IdentityStore)) {
    let before = store.list(None).await.unwrap();
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    let made = store.changes(None, before.revision, 100).await.unwrap().changes;
    let made: Vec<_> = made.iter().map(|change| (change.kind, change.action, change.name.as_str())).collect();
    let created = |org| (ResourceKind::Org, Action::Created, OrgId::as_str(org));
    assert_eq!(made, [created(&acme), created(&other)], "new organisations are changes of the installation");

    let listing = store.list(Some(&acme)).await.unwrap();
    let first = listing.revision;
    let mut resources = by_key(listing.resources);
    assert_eq!(resources.keys().collect::<Vec<_>>(), [&(ResourceKind::Org, acme.to_string())]);
    assert!(is_missing(store.list(Some(&OrgId::generate())).await));
    assert!(is_missing(store.changes(Some(&OrgId::generate()), first, 1).await));

    // One version for each change, and none for what was refused.
    let mut hint = store.hint();
    hint.mark_unchanged();
    let test = cluster(&acme, "test");
    store.create_cluster(&test).await.unwrap();
    assert!(hint.has_changed().unwrap());
    assert!(is_exists(store.create_cluster(&cluster(&acme, "test")).await));
    let (reader, one, dev) = ("reader".parse().unwrap(), "one".parse().unwrap(), "dev".parse().unwrap());
    store.create_role(&acme, &reader, &role("reader")).await.unwrap();
    assert!(is_missing(store.delete_binding(&acme, &one).await));
    store.create_binding(&acme, &one, &binding("one", "reader"), Some(&reader)).await.unwrap();
    assert!(store.delete_role(&acme, &reader).await.is_err());
    let alice = user(&acme, "alice");
    store.create_user(&alice).await.unwrap();
    store.create_group(&acme, &dev).await.unwrap();
    store.add_member(&acme, &dev, &alice.id).await.unwrap();
    store.disable_user(&alice.id, at(1)).await.unwrap();
    store.delete_binding(&acme, &one).await.unwrap();
    store.delete_cluster(&acme, &test.id, at(2)).await.unwrap();

    let all = store.changes(Some(&acme), first, 100).await.unwrap();
    let said: Vec<_> = all.changes.iter().map(|change| (change.kind, change.action, change.name.as_str())).collect();
    let (test_id, alice_id) = (test.id.as_str(), alice.id.as_str());
    assert_eq!(
        said,
        [
            (ResourceKind::Cluster, Action::Created, test_id),
            (ResourceKind::Role, Action::Created, "reader"),
            (ResourceKind::Binding, Action::Created, "one"),
            (ResourceKind::User, Action::Created, alice_id),
            (ResourceKind::Group, Action::Created, "dev"),
            (ResourceKind::Group, Action::Updated, "dev"),
            (ResourceKind::User, Action::Updated, alice_id),
            (ResourceKind::Binding, Action::Deleted, "one"),
            (ResourceKind::Cluster, Action::Deleted, test_id),
        ]
    );
    let mut revision = first;
    replay(&mut revision, &mut resources, &all.changes);
    let now = store.list(Some(&acme)).await.unwrap();
    assert_eq!((now.revision, by_key(now.resources)), (revision, resources), "list and watch say the same");
    assert_eq!(all.head, revision);
    let policy = key(DocumentKind::Policy, Some(&acme), "");
    let policy = store.snapshot(&policy, at(0)).await.unwrap().unwrap();
    assert_eq!(policy.revision, revision, "a document says the version of its newest change");

    // In pages, and at the end.
    let mut paged = Vec::new();
    let mut after = first;
    loop {
        let page = store.changes(Some(&acme), after, 2).await.unwrap();
        let Some(last) = page.changes.last() else { break };
        after.version = last.version;
        paged.extend(page.changes);
    }
    assert_eq!(paged, all.changes);
    assert_eq!(store.changes(Some(&acme), revision, 2).await.unwrap().changes, []);
    let others = store.list(Some(&other)).await.unwrap();
    assert_eq!(others.revision, first, "another organisation has versions of its own");

    // Another history.
    let later = Revision { version: revision.version + 1, ..revision };
    assert!(is_compacted(store.changes(Some(&acme), later, 2).await), "the future");
    let restored = Revision { epoch: revision.epoch + 1, ..first };
    assert!(is_compacted(store.changes(Some(&acme), restored, 2).await), "before or after a restore");
}

/// Runs everything about changes of what somebody else may have changed on an empty store. Panics at the first
/// difference.
pub async fn conditions(store: &(impl ChangeStore + ResourceStore + IdentityStore)) {
    let acme = org(store, "acme").await;
    let (reader, one, dev) = ("reader".parse().unwrap(), "one".parse().unwrap(), "dev".parse().unwrap());
    let test = cluster(&acme, "test");
    store.create_cluster(&test).await.unwrap();
    store.create_role(&acme, &reader, &role("reader")).await.unwrap();
    store.create_binding(&acme, &one, &binding("one", "reader"), Some(&reader)).await.unwrap();
    let alice = user(&acme, "alice");
    store.create_user(&alice).await.unwrap();
    store.create_group(&acme, &dev).await.unwrap();
    let (id, created, not_after) = (CredentialId::generate(), at(0), at(1000));
    let credential = Credential {
        id,
        org: acme.clone(),
        user: alice.id.clone(),
        created,
        not_after,
        renewed: None,
        last_used: None,
        revoked: None,
    };
    let session = LoginSession { credential: credential.id.clone(), active_until: at(900) };
    store.create_credential(&credential, &session).await.unwrap();

    // In an order in which each can be done. What was expected is what the listing says, or one more.
    for (kind, name) in [
        (ResourceKind::Binding, one.as_str()),
        (ResourceKind::Role, reader.as_str()),
        (ResourceKind::Group, dev.as_str()),
        (ResourceKind::Credential, credential.id.as_str()),
        (ResourceKind::User, alice.id.as_str()),
        (ResourceKind::Cluster, test.id.as_str()),
        (ResourceKind::Org, acme.as_str()),
    ] {
        let listing = store.list(Some(&acme)).await.unwrap();
        let listed = listing.resources.iter().find(|listed| listed.kind == kind && listed.name == name);
        let version = listed.unwrap().version;
        let change = async |expected| {
            let at_version = store.at_version(expected);
            let (identity, resources) = (at_version.identity, at_version.resources);
            match kind {
                ResourceKind::Binding => resources.delete_binding(&acme, &one).await,
                ResourceKind::Role => resources.delete_role(&acme, &reader).await,
                ResourceKind::Group => identity.add_member(&acme, &dev, &alice.id).await,
                ResourceKind::Credential => identity.revoke_credential(&credential.id, at(1)).await,
                ResourceKind::User => identity.disable_user(&alice.id, at(1)).await,
                ResourceKind::Org => identity.limit_credentials(&acme, None).await,
                _ => resources.delete_cluster(&acme, &test.id, at(1)).await,
            }
        };
        for other in [version - 1, version + 1, 0] {
            let refused = change(other).await;
            assert!(matches!(refused, Err(StoreError::Changed { version: now, .. }) if now == version), "{kind}");
        }
        assert_eq!(store.list(Some(&acme)).await.unwrap(), listing, "nothing has changed");
        change(version).await.unwrap();
        assert!(change(version).await.is_err(), "it is at another version, or gone");
    }
    // What is not there is missing, not changed.
    let gone = store.at_version(1).resources.delete_role(&acme, &reader).await;
    assert!(is_missing(gone));
    store.at_version(1).resources.create_role(&acme, &reader, &role("reader")).await.unwrap();
}

/// Runs what is about changes that are not kept any more on an empty store that keeps at least `history` changes, and
/// not many more. Panics at the first difference.
pub async fn compaction(store: &(impl ChangeStore + ResourceStore + IdentityStore), history: u64) {
    let acme = org(store, "acme").await;
    let first = store.list(Some(&acme)).await.unwrap().revision;
    let mut revision = first;
    while revision.version < first.version + 6 * history {
        let name = format!("role-{}", revision.version).parse().unwrap();
        store.create_role(&acme, &name, &role("any")).await.unwrap();
        let kept = Revision { version: revision.version.saturating_sub(history).max(first.version) + 1, ..revision };
        let page = store.changes(Some(&acme), kept, 1).await;
        revision = page.unwrap().head;
    }
    assert!(is_compacted(store.changes(Some(&acme), first, 1).await));
    let long_ago = Revision { version: revision.version - 3 * history, ..revision };
    assert!(is_compacted(store.changes(Some(&acme), long_ago, 1).await));
    // Listing again is always possible, and watching from there.
    let listing = store.list(Some(&acme)).await.unwrap();
    assert_eq!(listing.revision, revision);
    assert_eq!(store.changes(Some(&acme), listing.revision, 1).await.unwrap().changes, []);
    let recent = Revision { version: revision.version - history + 1, ..revision };
    let changes = store.changes(Some(&acme), recent, u32::MAX).await.unwrap().changes;
    assert_eq!(changes.len() as u64, history - 1);
}
