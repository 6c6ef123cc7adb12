//! Recordings as files.

use std::{fs, os::unix::fs::PermissionsExt as _};

use ztka_core::AuditId;

use super::{disk::about, *};

#[tokio::test]
async fn each_chunk_is_there_once_in_order_whatever_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let sink = RecordingDirectory::new(dir.path());
    let (id, mut chain) = (AuditId::generate(), RecordingChain::start());
    let first = chain.cut(id, at(0), Some(about("acme", true)), None, b"");
    let second = chain.cut(id, at(1), None, None, b"{\"version\":3}\n");
    let end = Last { end: RecordingEnd::Complete, reason: None, exit: Some(0) };
    let third = chain.cut(id, at(2), None, Some(end), b"[0.1, \"x\", \"0\"]\n");
    assert_eq!(sink.take(&second).await.unwrap(), 0, "nothing without its beginning");
    assert_eq!(sink.take(&first).await.unwrap(), 1);
    assert_eq!(sink.take(&third).await.unwrap(), 1, "a hole");
    assert_eq!(sink.take(&second).await.unwrap(), 2);
    assert_eq!(sink.take(&second).await.unwrap(), 2, "again");
    // A crash in the middle of the next one.
    let cast = dir.path().join(format!("{id}.cast"));
    fs::write(&cast, [fs::read(&cast).unwrap(), b"[0.1, \"x".to_vec()].concat()).unwrap();
    for _ in 0..2 {
        assert_eq!(RecordingDirectory::new(dir.path()).take(&third).await.unwrap(), 3);
    }
    assert_eq!(fs::read_to_string(&cast).unwrap(), "{\"version\":3}\n[0.1, \"x\", \"0\"]\n");
    let behind = RecordingChain { next: 3, head: third.hash() }.cut(id, at(3), None, None, b"[9, \"o\", \"\"]\n");
    assert_eq!(sink.take(&behind).await.unwrap(), 3, "behind its end");
    let beside: Value = serde_json::from_slice(&fs::read(dir.path().join(format!("{id}.json"))).unwrap()).unwrap();
    assert_eq!((&beside["hash"], &beside["last"]["exit"]), (&json!(third.hash().to_string()), &json!(0)));
    for entry in fs::read_dir(dir.path()).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}
