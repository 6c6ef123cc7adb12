//! The tests that every [`PageStore`] passes.

use std::{collections::BTreeSet, fmt::Debug};

use ztka_core::{Attributes, CredentialId, OrgId, ProxyId, UserId};
use ztka_identity::{Credential, IdentityStore, LoginSession, User};

use super::{at, binding, cluster, org, role};
use crate::store::{
    JobStore, Page, PageStore, Paged, Proxy, ResourceStore, Revocable, Revocation, RevocationStore, StoreError,
};

fn user(org: &OrgId, name: &str) -> User {
    let (id, org, name) = (UserId::generate(), org.clone(), name.parse().unwrap());
    User { id, org, name, admin: None, attributes: Attributes::new(), disabled: None, created: at(0) }
}

/// All items, in pages of two; each page is asked for twice, and both are the same.
async fn walk<T: Debug + PartialEq>(read: impl AsyncFn(Page) -> Result<Paged<T>, StoreError>) -> Vec<T> {
    let (mut all, mut page) = (Vec::new(), Page::first(2));
    loop {
        let found = read(page.clone()).await.unwrap();
        assert_eq!(read(page.clone()).await.unwrap(), found, "a page is the same again");
        assert!(found.items.len() <= 2);
        assert!(found.items.len() == 2 || found.next.is_none(), "only the last one is shorter");
        all.extend(found.items);
        match found.next {
            Some(next) => page.after = Some(next),
            None => return all,
        }
    }
}

/// A key that is none of the list's says what to do.
fn is_refused<T: Debug>(result: Result<Paged<T>, StoreError>) {
    let Err(StoreError::Refused(text)) = &result else { unreachable!("{result:?}") };
    assert!(text.contains("; begin with the first one"), "{text}");
}

/// Runs everything about pages on an empty store. Panics at the first difference.
pub async fn pages(store: &(impl PageStore + ResourceStore + IdentityStore + RevocationStore + JobStore)) {
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    policy(store, &acme, &other).await;
    people(store, &acme, &other).await;
    installation(store, &acme).await;
    while_others_change(store, &other).await;
}

async fn policy(store: &(impl PageStore + ResourceStore), acme: &OrgId, other: &OrgId) {
    for name in ["e", "b", "d", "a", "c"] {
        store.create_cluster(&cluster(acme, name)).await.unwrap();
        store.create_role(acme, &name.parse().unwrap(), &role(name)).await.unwrap();
        store.create_binding(acme, &name.parse().unwrap(), &binding(name, "view"), None).await.unwrap();
    }
    let gone = cluster(acme, "bb");
    store.create_cluster(&gone).await.unwrap();
    store.delete_cluster(acme, &gone.id, at(1)).await.unwrap();
    store.create_cluster(&cluster(other, "b")).await.unwrap();
    let clusters = walk(async |page| store.clusters_page(acme, &page).await).await;
    assert_eq!(clusters, store.clusters(acme).await.unwrap());
    assert_eq!(walk(async |page| store.roles_page(acme, &page).await).await, store.roles(acme).await.unwrap());
    assert_eq!(walk(async |page| store.bindings_page(acme, &page).await).await, store.bindings(acme).await.unwrap());
    assert_eq!(walk(async |page| store.bindings_page(other, &page).await).await, [], "of another organisation");
    let none = OrgId::generate();
    assert_eq!(store.roles_page(&none, &Page::first(2)).await.unwrap(), Paged { items: vec![], next: None });
    // A page as long as the list is the last one.
    assert_eq!(store.roles_page(acme, &Page::first(5)).await.unwrap().next, None);
}

async fn people(store: &(impl PageStore + IdentityStore), acme: &OrgId, other: &OrgId) {
    let mut users = Vec::new();
    for name in ["eve", "bob", "dan", "alice", "carol"] {
        let user = user(acme, name);
        store.create_user(&user).await.unwrap();
        users.push(user);
    }
    store.create_user(&user(other, "alice")).await.unwrap();
    let mut listed = walk(async |page| store.users_page(acme, &page).await).await;
    assert!(listed.is_sorted_by(|one, next| one.id < next.id), "by id");
    listed.sort_by(|one, other| one.name.cmp(&other.name));
    assert_eq!(listed, store.users(acme).await.unwrap());

    for group in ["ops", "dev", "all"] {
        store.create_group(acme, &group.parse().unwrap()).await.unwrap();
    }
    for user in &users {
        store.add_member(acme, &"dev".parse().unwrap(), &user.id).await.unwrap();
    }
    let groups = walk(async |page| store.groups_page(acme, &page).await).await;
    assert_eq!(groups, store.groups(acme).await.unwrap(), "each with all its members");

    let alice = users.first().unwrap();
    // Of two of the same moment the ids decide.
    for created in [3, 1, 3, 2, 3] {
        let (id, created) = (CredentialId::generate(), at(created));
        let (org, user, not_after) = (acme.clone(), alice.id.clone(), at(1000));
        let credential =
            Credential { id, org, user, created, not_after, renewed: None, last_used: None, revoked: None };
        let session = LoginSession { credential: credential.id.clone(), active_until: not_after };
        store.create_credential(&credential, &session).await.unwrap();
    }
    let credentials = walk(async |page| store.credentials_page(&alice.id, &page).await).await;
    assert!(credentials.is_sorted_by(|one, next| one.created >= next.created), "newest first");
    let ids = |all: &[Credential]| all.iter().map(|held| held.id.clone()).collect::<BTreeSet<_>>();
    assert_eq!((credentials.len(), ids(&credentials).len()), (5, 5));
    assert_eq!(ids(&credentials), ids(&store.credentials(&alice.id).await.unwrap()));
    for bad in ["", "x", "1", "x y"] {
        is_refused(store.credentials_page(&alice.id, &Page { after: Some(bad.into()), limit: 2 }).await);
    }
}

async fn installation(
    store: &(impl PageStore + ResourceStore + IdentityStore + RevocationStore + JobStore),
    acme: &OrgId,
) {
    for name in ["x", "z", "y"] {
        org(store, name).await;
    }
    assert_eq!(walk(async |page| store.orgs_page(&page).await).await, store.orgs().await.unwrap());
    for created in [2, 1, 2, 2, 3] {
        let proxy = Proxy { id: ProxyId::generate(), created: at(created), not_after: None, renewed: None };
        store.create_proxy(&proxy).await.unwrap();
    }
    assert_eq!(walk(async |page| store.proxies_page(&page).await).await, store.proxies().await.unwrap());
    is_refused(store.proxies_page(&Page { after: Some("x".into()), limit: 2 }).await);

    for (since, serial) in [(2, "0a"), (1, "0b"), (2, "0c"), (2, "0d"), (3, "0e")] {
        let (what, ends) = (Revocable::Serial(serial.into()), Some(at(100)));
        store.revoke(&Revocation { org: Some(acme.clone()), what, since: at(since), ends }).await.unwrap();
    }
    let revoked = walk(async |page| store.revocations_page(Some(acme), at(5), &page).await).await;
    assert_eq!(revoked, store.revocations(Some(acme), at(5)).await.unwrap());
    assert_eq!(walk(async |page| store.revocations_page(None, at(5), &page).await).await, []);
    assert_eq!(walk(async |page| store.revocations_page(Some(acme), at(100), &page).await).await, [], "over");
    is_refused(store.revocations_page(None, at(5), &Page { after: Some("1 serial".into()), limit: 2 }).await);

    for (name, second) in [("x", 5), ("y", 6), ("z", 6)] {
        let all = store.orgs().await.unwrap();
        let gone = all.iter().find(|org| org.name.as_str() == name).unwrap();
        store.delete_org(&gone.id, at(second)).await.unwrap();
    }
    assert_eq!(walk(async |page| store.deletions_page(&page).await).await, store.deletions().await.unwrap());
    is_refused(store.deletions_page(&Page { after: Some("x".into()), limit: 2 }).await);
}

/// What was there all the time is seen exactly once.
async fn while_others_change(store: &(impl PageStore + ResourceStore), org: &OrgId) {
    let name = |name: &str| name.parse().unwrap();
    let stays = ["b", "d", "f", "h", "j"];
    for role_name in stays {
        store.create_role(org, &name(role_name), &role(role_name)).await.unwrap();
    }
    let (mut seen, mut page, mut turn) = (Vec::new(), Page::first(2), 0);
    loop {
        let found = store.roles_page(org, &page).await.unwrap();
        seen.extend(found.items.into_iter().map(|role| role.name));
        let Some(next) = found.next else { break };
        // What the page ended with may go; others come before and behind.
        if !stays.contains(&next.as_str()) {
            store.delete_role(org, &name(&next)).await.unwrap();
        }
        for letter in ["a", "c", "e", "g", "i", "k"] {
            let other = format!("{letter}{turn}");
            store.create_role(org, &name(&other), &role(&other)).await.unwrap();
        }
        turn += 1;
        page.after = Some(next);
        assert!(turn < 100, "{seen:?}");
    }
    let once: BTreeSet<_> = seen.iter().collect();
    assert_eq!(once.len(), seen.len(), "nothing twice: {seen:?}");
    assert!(stays.iter().all(|name| seen.iter().any(|seen| seen == name)), "{seen:?}");
    assert!(seen.is_sorted());
}
