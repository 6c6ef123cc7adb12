//! The tests that every [`RecordingStore`] passes.

use jiff::SignedDuration;
use ztka_audit::{About, Chunk, Last, RecordingChain, RecordingEnd};
use ztka_core::{AuditId, OrgId};
use ztka_identity::IdentityStore;

use super::{at, org};
use crate::store::{RecordingStore, TakenChunk};

const MOST: u64 = 1 << 20;

/// A recording of four chunks, begun at a time.
fn recorded(org: &OrgId, second: i64) -> Vec<Chunk> {
    let about = About {
        org: org.clone(),
        cluster: "c1".parse().unwrap(),
        user: "u1".parse().unwrap(),
        user_name: "alice".parse().unwrap(),
        credential: "k1".parse().unwrap(),
        namespace: "default".into(),
        pod: "web".into(),
        container: String::new(),
        kind: "exec".into(),
        command: vec!["sh".into()],
        tty: true,
        required: true,
        started: at(second),
    };
    let last = Last { end: RecordingEnd::Complete, reason: None, exit: Some(3) };
    let (id, mut chain) = (AuditId::generate(), RecordingChain::start());
    vec![
        chain.cut(id, at(second), Some(about), None, b""),
        chain.cut(id, at(second + 1), None, None, b"{}\n"),
        chain.cut(id, at(second + 2), None, None, b"[0.1, \"o\", \"one\"]\n"),
        chain.cut(id, at(second + 3), None, Some(last), b"[0.1, \"x\", \"3\"]\n"),
    ]
}

/// Runs everything about recordings on an empty store. Panics at the first difference.
pub async fn recordings(store: &(impl RecordingStore + IdentityStore)) {
    let (acme, other) = (org(store, "acme").await, org(store, "other").await);
    let all = recorded(&acme, 0);
    let [first, second, third, last] = all.as_slice() else { unreachable!() };
    let take = async |source: &str, chunk: &Chunk| store.take_chunk(source, chunk, MOST).await.unwrap();

    // In order alone, and each once, however often it comes.
    assert_eq!(take("p1", second).await, TakenChunk::Next(0), "nothing without its beginning");
    assert_eq!(take("p1", first).await, TakenChunk::Next(1));
    assert_eq!(take("p1", first).await, TakenChunk::Next(1));
    assert_eq!(take("p1", third).await, TakenChunk::Next(1), "a hole");
    assert_eq!(take("p2", second).await, TakenChunk::Next(1), "by somebody else");
    assert_eq!(take("p1", second).await, TakenChunk::Next(2));
    assert_eq!(take("p1", second).await, TakenChunk::Next(2));
    // One that does not fit to what is there.
    let mut forged = RecordingChain { next: 2, head: first.hash() };
    let forged = forged.cut(first.recording, at(9), None, None, b"[0.1, \"o\", \"forged\"]\n");
    assert_eq!(take("p1", &forged).await, TakenChunk::Next(2));

    let id = first.recording;
    let running = store.recording(&acme, id).await.unwrap().unwrap();
    assert_eq!((running.chunks, running.hash, &running.last, running.at), (2, second.hash(), &None, at(1)));
    assert_eq!(Some(&running.about), first.about.as_ref());
    for chunk in [third, last] {
        assert_eq!(take("p1", chunk).await, TakenChunk::Next(chunk.number + 1));
    }
    let mut behind = RecordingChain { next: 4, head: last.hash() };
    let behind = behind.cut(id, at(9), None, None, b"[0.1, \"o\", \"behind\"]\n");
    assert_eq!(take("p1", &behind).await, TakenChunk::Next(4), "behind its end");
    let done = store.recording(&acme, id).await.unwrap().unwrap();
    assert_eq!((done.chunks, done.hash, done.last.as_ref()), (4, last.hash(), last.last.as_ref()));
    assert_eq!(done.bytes, all.iter().map(|chunk| chunk.encoded().len() as u64).sum::<u64>());
    assert_eq!(store.recording_chunks(&acme, id, 0, 10).await.unwrap(), all);
    assert_eq!(
        store.recording_chunks(&acme, id, 1, 2).await.unwrap(),
        all.iter().skip(1).take(2).cloned().collect::<Vec<_>>()
    );

    // Nobody sees another organisation's.
    assert_eq!(store.recording(&other, id).await.unwrap(), None);
    assert_eq!(store.recording_chunks(&other, id, 0, 10).await.unwrap(), []);
    assert_eq!(store.recordings(&other, None, 10).await.unwrap(), []);

    // Pages, newest first.
    for begun in [20, 10] {
        for chunk in recorded(&acme, begun) {
            take("p1", &chunk).await;
        }
    }
    let page = store.recordings(&acme, None, 2).await.unwrap();
    let begun: Vec<_> = page.iter().map(|kept| kept.about.started).collect();
    assert_eq!(begun, [at(20), at(10)]);
    let after = page.last().map(|kept| (kept.about.started, kept.id));
    let page = store.recordings(&acme, after, 2).await.unwrap();
    assert_eq!(page.iter().map(|kept| kept.id).collect::<Vec<_>>(), [id]);

    // No more than an organisation may have; what has begun is taken to its end.
    let next = recorded(&acme, 30);
    assert_eq!(store.take_chunk("p1", next.first().unwrap(), 10).await.unwrap(), TakenChunk::Full);
    assert_eq!(store.take_chunk("p1", next.first().unwrap(), MOST).await.unwrap(), TakenChunk::Next(1));
    assert_eq!(store.take_chunk("p1", next.get(1).unwrap(), 10).await.unwrap(), TakenChunk::Next(2));
    assert_eq!(take("p1", recorded(&"none".parse().unwrap(), 0).first().unwrap()).await, TakenChunk::Nobody);

    // What is old goes, and nothing else.
    assert_eq!(store.remove_recordings(at(3)).await.unwrap(), 0);
    let later = at(3).checked_add(SignedDuration::from_secs(1)).unwrap();
    assert_eq!(store.remove_recordings(later).await.unwrap(), 1);
    assert_eq!(store.recording(&acme, id).await.unwrap(), None);
    assert_eq!(store.recording_chunks(&acme, id, 0, 10).await.unwrap(), []);
    assert_eq!(store.recordings(&acme, None, 10).await.unwrap().len(), 3);
}
