//! Chunks, their chain, the files they are in, and how they are brought away.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use ztka_core::{AuditId, BoxError, ManualClock, SystemClock};

use super::*;
use crate::recording::{chunk::RecordingChain, tape::Tape};

pub(in crate::recording) fn about(org: &str, required: bool) -> About {
    About {
        org: org.parse().unwrap(),
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
        required,
        started: at(0),
    }
}

fn open(dir: &Path) -> (Recordings, Vec<InterruptedRecording>) {
    Recordings::open(RecordingOptions::new(dir), Arc::new(SystemClock)).unwrap()
}

fn speak(tape: &Tape, words: &str) {
    tape.read(false, &message(1, words.as_bytes()));
}

fn begin(recordings: &Recordings, org: &str) -> Arc<Tape> {
    let tape = recordings.begin(AuditId::generate(), about(org, true)).unwrap();
    tape.begin(transcript(Upgrade::WebSocket, Input::Off));
    tape
}

/// Until `done` says so; the disk of a busy machine takes its time.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

pub(in crate::recording) fn cast(chunks: &[Chunk]) -> String {
    chunks.iter().map(|chunk| std::str::from_utf8(&chunk.lines).unwrap()).collect()
}

#[test]
fn chunks_are_one_chain_and_nothing_of_them_can_be_changed() {
    let id = AuditId::generate();
    let mut chain = RecordingChain::start();
    let first = chain.cut(id, at(0), Some(about("acme", true)), None, b"");
    let second = chain.cut(id, at(1), None, None, b"{}\n");
    let again = RecordingChain::start().cut(id, at(0), Some(about("acme", true)), None, b"");
    assert_ne!(first.hash(), again.hash(), "a hash can be tried out");
    let mut reader = RecordingChain::start();
    assert!(!reader.takes(&second));
    assert!(reader.takes(&Chunk::decode(first.encoded().clone()).unwrap()));
    assert!(!reader.takes(&first), "twice");
    let wire = second.encoded();
    for place in 0..wire.len() {
        let mut bent = wire.to_vec();
        bent[place] ^= 1;
        if let Ok(bent) = Chunk::decode(bent.into()) {
            assert_ne!(bent.hash(), second.hash());
        }
    }
    assert!(reader.takes(&Chunk::decode(wire.clone()).unwrap()));
    assert_eq!(reader, chain);
    for bad in [&b""[..], b"{}\n", b"\n", &wire[..wire.len() - 1]] {
        assert!(Chunk::decode(bad.to_vec().into()).is_err());
    }
}

#[test]
fn what_was_said_is_on_the_disk_while_the_session_runs_and_nobody_reads_it_there() {
    let dir = tempfile::tempdir().unwrap();
    let (recordings, interrupted) = open(dir.path());
    assert!(interrupted.is_empty());
    let tape = begin(&recordings, "acme");
    speak(&tape, "PLANTED");
    until("it is not written while it runs", || cast(&recordings.chunks(tape.id()).unwrap()).contains("PLANTED"));
    tape.finish();
    speak(&tape, "after the end");
    until("it does not end", || recordings.kept() == [(tape.id(), true)]);
    let chunks = recordings.chunks(tape.id()).unwrap();
    let last = chunks.last().unwrap();
    assert_eq!(last.last.as_ref().unwrap().end, RecordingEnd::Complete);
    assert_eq!(tape.account().chunks, Some((last.number + 1, last.hash())));
    assert!(!cast(&chunks).contains("after"));
    for entry in fs::read_dir(dir.path()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|part| part == b"PLANTED"), "in clear");
    }
}

#[test]
fn a_process_that_is_gone_leaves_what_it_had_written_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let (id, before) = {
        let (recordings, _) = open(dir.path());
        let tape = begin(&recordings, "acme");
        speak(&tape, "before");
        until("it is not written", || cast(&recordings.chunks(tape.id()).unwrap()).contains("before"));
        (tape.id(), fs::read(dir.path().join(format!("{}.recording", tape.id()))).unwrap())
    };
    let path = dir.path().join(format!("{id}.recording"));
    // As it was then, with every tear that a crash can leave, and every byte of its last frame damaged.
    let whole = {
        fs::write(&path, &before).unwrap();
        open(dir.path()).0.chunks(id).unwrap().len()
    };
    for (tear, damage) in (0..8).flat_map(|tear| [(tear, None), (tear, Some(tear))]) {
        let mut torn = before.clone();
        let behind = [9, 0, 0, 0, 1, 2, 3, 4];
        torn.extend(&behind[..tear]);
        if let Some(place) = damage {
            let end = before.len();
            torn[end - 1 - place] ^= 1;
        }
        fs::write(&path, &torn).unwrap();
        let (recordings, interrupted) = open(dir.path());
        let [closed] = interrupted.as_slice() else { panic!("{interrupted:?}") };
        let chunks = recordings.chunks(id).unwrap();
        let last = chunks.last().unwrap();
        assert_eq!((closed.id, closed.chunks, closed.hash), (id, last.number + 1, last.hash()));
        assert_eq!(last.last.as_ref().unwrap().end, RecordingEnd::Interrupted);
        assert_eq!(cast(&chunks).contains("before"), damage.is_none(), "torn {tear}, damaged {damage:?}");
        assert_eq!(chunks.len(), whole - usize::from(damage.is_some()), "torn {tear}, damaged {damage:?}");
        drop(recordings);
        assert!(open(dir.path()).1.is_empty(), "closed twice");
    }
    // A first chunk that is not whole let nobody in.
    fs::write(&path, &before[..60]).unwrap();
    let (recordings, _) = open(dir.path());
    assert!(recordings.kept().is_empty());
}

#[test]
fn limits_are_of_a_session_of_an_organisation_and_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let options = RecordingOptions::new(dir.path()).session_limit(4096).org_limit(12_000).total_limit(20_000);
    let (recordings, _) = Recordings::open(options, Arc::new(ManualClock::at(at(0)))).unwrap();
    let tape = begin(&recordings, "acme");
    speak(&tape, &"x".repeat(180_000));
    let account = tape.account();
    assert_eq!((account.state, account.cut), ("failed", true), "{account:?}");
    assert!(account.reason.unwrap().contains("longer than"));
    until("the end of it is not written", || recordings.kept() == [(tape.id(), true)]);
    assert!(recordings.chunks(tape.id()).unwrap().iter().any(|chunk| chunk.last.is_some()));
    let refused = recordings.begin(AuditId::generate(), about("acme", true)).unwrap_err();
    assert!(refused.to_string().contains("of this organisation"), "{refused}");
    let other = recordings.begin(AuditId::generate(), about("other", true));
    let refused = other.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("too many recordings wait here"), "{refused}");
}

#[test]
fn what_the_disk_does_not_take_ends_what_has_to_be_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let options = RecordingOptions::new(dir.path()).org_limit(1500);
    let (recordings, _) = Recordings::open(options, Arc::new(SystemClock)).unwrap();
    let tape = begin(&recordings, "acme");
    speak(&tape, &"x".repeat(5000));
    until("it is written", || recordings.chunks(tape.id()).unwrap().len() > 1);
    speak(&tape, "more");
    until("it does not fail", || tape.account().state == "failed");
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    assert!(matches!(tape.poll_go_on(&mut cx), std::task::Poll::Ready(Err(_))));
    // What was said until then is there, and how it ended.
    until("its end is not written", || recordings.kept() == [(tape.id(), true)]);
    let chunks = recordings.chunks(tape.id()).unwrap();
    assert!(cast(&chunks).contains("more") && cast(&chunks).contains("not recorded from here on"));
    assert_eq!(tape.account().chunks, Some((chunks.len() as u64, chunks.last().unwrap().hash())));
}

/// Fails at first, and forgets nothing.
#[derive(Clone, Default)]
struct Controller(Arc<Mutex<(Vec<Chunk>, u64)>>);

#[async_trait]
impl RecordingSink for Controller {
    async fn take(&self, chunk: &Chunk) -> Result<u64, BoxError> {
        let mut held = self.0.lock().unwrap();
        held.1 += 1;
        if held.1 == 1 {
            return Err("the controller is away".into());
        }
        let next = held.0.len() as u64;
        if chunk.number == next {
            held.0.push(Chunk::decode(chunk.encoded().clone())?);
        }
        Ok(held.0.len() as u64)
    }
}

#[tokio::test]
async fn it_is_brought_away_while_it_runs_and_removed_when_it_is_there_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (recordings, _) = open(dir.path());
    let tape = begin(&recordings, "acme");
    let controller = Controller::default();
    let shipping = tokio::spawn(recordings.clone().ship(controller.clone()));
    let (of, have) = (tape.clone(), controller.clone());
    let words = tokio::task::spawn_blocking(move || {
        speak(&of, "one");
        until("nothing comes while it runs", || cast(&have.0.lock().unwrap().0).contains("one"));
        speak(&of, "two");
        of.finish();
        until("the end does not come", || have.0.lock().unwrap().0.iter().any(|chunk| chunk.last.is_some()));
    });
    words.await.unwrap();
    let of = recordings.clone();
    tokio::task::spawn_blocking(move || until("it stays", || of.kept().is_empty())).await.unwrap();
    shipping.abort();
    let mut chain = RecordingChain::start();
    let chunks = controller.0.lock().unwrap().0.clone();
    assert!(chunks.iter().all(|chunk| chain.takes(chunk)));
    assert_eq!(tape.account().chunks, Some((chain.next, chain.head)));
    assert!(cast(&chunks).contains("two"));
    assert!(fs::read_dir(dir.path()).unwrap().all(|entry| entry.unwrap().file_name() == "key"));
}
