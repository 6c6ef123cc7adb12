//! The suite of a transparency log.

use ztka_core::{AuditId, OrgId};

use super::{Sender, at, event};
use crate::{
    Event, EventStore, GrownLog, Hash, HeadAt, LogStore, Stage,
    log::{ConsistencyProof, InclusionProof, SignedHead, Tiles, TreeHead, edge, entry},
};

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

async fn root(store: &dyn LogStore, org: &OrgId, size: u64) -> Hash {
    let ids: Vec<_> = edge(size).into_iter().map(|(id, _)| id).collect();
    store.tiles(org, &ids).await.unwrap().root(size).unwrap()
}

async fn head(store: &dyn LogStore, size: u64, second: i64) -> TreeHead {
    TreeHead { org: acme(), epoch: 1, size, root: root(store, &acme(), size).await, time: at(second) }
}

fn signed(head: &TreeHead) -> SignedHead {
    let text = SignedHead::text(head);
    let signature = SignedHead::message(&text);
    SignedHead::new(text, ztka_core::KeyId("k".into()), &signature, vec!["AAAA".into()])
}

/// The store is empty, and keeps events as well.
pub async fn log<S: EventStore + LogStore>(store: &S) {
    let (org, mut sender) = (acme(), Sender::new());
    assert_eq!(store.log_size(&org).await.unwrap(), 0);
    assert_eq!(store.head(&org, HeadAt::Newest).await.unwrap(), None);
    assert_eq!(store.grown_logs(None).await.unwrap(), []);

    // Batches of many sizes, one of them twice, and events of another organisation among them.
    let mut sent: Vec<Event> = Vec::new();
    for (count, repeat) in [(1, true), (2, false), (40, true), (64, false), (1, false)] {
        let mut batch = Vec::new();
        for _ in 0..count {
            let mine = event(AuditId::generate(), Stage::ResponseComplete, 0);
            let mut foreign = event(AuditId::generate(), Stage::ResponseComplete, 0);
            foreign.annotations.set("org", "other");
            batch.push(mine.clone());
            sent.push(mine);
            if count == 2 {
                batch.push(foreign);
            }
        }
        let batch = sender.events(&batch);
        for _ in 0..if repeat { 2 } else { 1 } {
            store.ingest("spiffe://example.com/proxy/p1", &batch).await.unwrap();
        }
    }
    let size = sent.len() as u64;
    assert_eq!(store.log_size(&org).await.unwrap(), size, "what is known is no leaf again");
    assert_eq!(store.log_size(&"other".parse().unwrap()).await.unwrap(), 2);
    let leaves = store.leaves(&org, 0..size + 10).await.unwrap();
    assert_eq!(leaves.iter().map(|leaf| leaf.index).collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
    for (leaf, event) in leaves.iter().zip(&sent) {
        let payload = String::from_utf8(event.to_json()).unwrap();
        assert_eq!(leaf.content.as_ref().unwrap().entry, entry("spiffe://example.com/proxy/p1", &payload));
    }
    assert_eq!(store.leaves(&org, 40..50).await.unwrap(), leaves[40..50]);
    assert_ne!(leaves[0].content.as_ref().unwrap().salt, leaves[1].content.as_ref().unwrap().salt);

    // Every leaf is proven from few tiles, also in a smaller tree than there is now.
    let whole = head(store, size, 1).await;
    let small = head(store, 50, 0).await;
    for leaf in &leaves {
        for head in [&whole, &small] {
            let ids: Vec<_> = Tiles::needed(&InclusionProof::ranges(leaf.index, head.size)).into_iter().collect();
            let tiles = store.tiles(&org, &ids).await.unwrap();
            let proof = InclusionProof::of(&tiles, leaf.index, head.size);
            assert_eq!(proof.is_some(), leaf.index < head.size);
            let hash = leaf.content.as_ref().unwrap().hash();
            assert!(proof.is_none_or(|proof| proof.check(&hash, head).is_ok()), "{leaf:?}");
        }
    }
    let ids: Vec<_> = Tiles::needed(&ConsistencyProof::ranges(50, size)).into_iter().collect();
    let tiles = store.tiles(&org, &ids).await.unwrap();
    ConsistencyProof::of(&tiles, 50, size).unwrap().check(&small, &whole).unwrap();

    // A request is found, of which another proxy says something as well, and an event on several lines is on one.
    let id = sent[7].audit_id;
    let lines = String::from_utf8(sent[7].to_json()).unwrap().replacen('{', " {\n", 1);
    let lines = Sender::new().batch([(id, format!("{lines}\n"))]);
    store.ingest("spiffe://example.com/proxy/p2", &lines).await.unwrap();
    let of_it = store.leaves_of(&org, id, None).await.unwrap();
    assert_eq!(of_it.iter().map(|leaf| leaf.index).collect::<Vec<_>>(), [7, size]);
    assert!(!of_it[1].content.as_ref().unwrap().entry.contains('\n'));
    assert_eq!(store.leaves_of(&org, id, Some(Stage::RequestReceived)).await.unwrap(), []);
    assert_eq!(store.leaves_of(&"other".parse().unwrap(), id, None).await.unwrap(), []);

    // Of each size there is one head, the first.
    let grown = GrownLog { org: org.clone(), epoch: 1, size: size + 1, head: None };
    assert!(store.grown_logs(None).await.unwrap().contains(&grown));
    assert_eq!(store.grown_logs(Some(&org)).await.unwrap(), std::slice::from_ref(&grown));
    assert!(store.add_head(&small, &signed(&small)).await.unwrap());
    assert!(store.add_head(&whole, &signed(&whole)).await.unwrap());
    let again = TreeHead { time: at(9), ..whole.clone() };
    assert!(!store.add_head(&again, &signed(&again)).await.unwrap());
    let (small, whole) = (Some(signed(&small)), Some(signed(&whole)));
    assert_eq!(store.head(&org, HeadAt::Newest).await.unwrap(), whole);
    assert_eq!(store.head(&org, HeadAt::Size(50)).await.unwrap(), small);
    assert_eq!(store.head(&org, HeadAt::Size(51)).await.unwrap(), None);
    assert_eq!(store.head(&org, HeadAt::After(0)).await.unwrap(), small);
    assert_eq!(store.head(&org, HeadAt::After(50)).await.unwrap(), whole);
    assert_eq!(store.head(&org, HeadAt::After(size)).await.unwrap(), None);
    let grown = GrownLog { head: Some((size, at(1))), ..grown };
    assert!(store.grown_logs(None).await.unwrap().contains(&grown));
}
