//! `ztka audit verify` as an auditor runs it: with a file and the root certificate, without a network.
#![expect(clippy::unwrap_used, reason = "these are tests")]

use std::{fs, path::Path, process::Command, sync::Arc};

use jiff::Timestamp;
use ztka_audit::{
    Batch, Event, EventStore as _, Hash, Kind, LogStore as _, MemoryStore, Position, Record, Stage,
    log::{SignedHead, TreeHead, edge, export::Export},
};
use ztka_core::{AuditId, ManualClock, OrgId};
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names};

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

async fn hierarchy() -> Hierarchy {
    let keys = Arc::new(MemoryKeyStore::new(Arc::new(rustls::crypto::ring::default_provider())));
    let clock = Arc::new(ManualClock::at(now()));
    Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap()
}

async fn grow(store: &MemoryStore, count: usize) {
    for number in 0..count {
        let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, now());
        event.request_uri = format!("/api/v1/namespaces/shop/pods/web-{number}");
        event.annotations.set("org", "acme");
        let payload = String::from_utf8(event.to_json()).unwrap();
        let (position, previous, id) = (Position::default(), Hash::default(), event.audit_id);
        let record = Record { position, sequence: 0, previous, kind: Kind::Close, id, payload };
        let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
        store.ingest("spiffe://example.com/proxy/p1", &batch).await.unwrap();
    }
}

async fn head(hierarchy: &Hierarchy, store: &MemoryStore, size: u64) -> SignedHead {
    let ids: Vec<_> = edge(size).into_iter().map(|(id, _)| id).collect();
    let root = store.tiles(&acme(), &ids).await.unwrap().root(size).unwrap();
    let text = SignedHead::text(&TreeHead { org: acme(), epoch: 1, size, root, time: now() });
    let (key, signature, chain) = hierarchy.sign_with_chain(&SignedHead::message(&text)).await.unwrap();
    SignedHead::new(text, key, &signature, SignedHead::chain_of(chain))
}

async fn export(store: &MemoryStore, head: SignedHead) -> String {
    let size = head.claimed().unwrap().size;
    let (mut export, mut text) = (Export::new(head, 0..size).unwrap(), String::new());
    while let Some(piece) = export.next(store).await.unwrap() {
        text.push_str(str::from_utf8(&piece).unwrap());
    }
    text
}

/// Exit code, and what was said on either output.
fn verify(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ztka"));
    command.args(["audit", "verify"]).args(arguments).current_dir(directory);
    command.env("HOME", directory).env_remove("XDG_CONFIG_HOME").env_remove("ZTKA_CREDENTIAL");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn an_auditor_needs_the_file_and_the_root() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let (ours, store) = (hierarchy().await, MemoryStore::default());
    grow(&store, 50).await;
    let earlier = head(&ours, &store, 50).await;
    grow(&store, 50).await;
    let file = export(&store, head(&ours, &store, 100).await).await;
    fs::write(at("root.pem"), ours.root_pem()).unwrap();
    fs::write(at("other.pem"), hierarchy().await.root_pem()).unwrap();
    fs::write(at("audit.jsonl"), &file).unwrap();
    fs::write(at("earlier.jsonl"), format!("{}\n", serde_json::to_string(&earlier).unwrap())).unwrap();

    let trusted = ["audit.jsonl", "--trust", "root.pem", "--previous-head", "earlier.jsonl", "--whole"];
    let (code, said) = verify(directory.path(), &trusted);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("100 events are as they were logged"), "{said}");
    assert!(said.contains("1 earlier heads are continued"), "{said}");

    // By the key alone, as `openssl x509 -pubkey` prints it.
    let (.., chain) = ours.sign_with_chain(b"").await.unwrap();
    let key = ztka_pki::signing_key(&chain, &[ours.root()], now()).unwrap();
    fs::write(at("key.der"), key.der()).unwrap();
    let pem = Command::new("openssl").args(["pkey", "-pubin", "-inform", "DER", "-in"]).arg(at("key.der")).output();
    fs::write(at("key.pem"), pem.unwrap().stdout).unwrap();
    let (code, said) = verify(directory.path(), &["audit.jsonl", "--key", "key.pem", "-o", "json"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\"sound\": true"), "{said}");

    // What is wrong is told, and the exit code says so.
    let line = file.lines().find(|line| line.starts_with("{\"leaf\":41,")).unwrap();
    let id = line.split_once("\"auditID\":\"").unwrap().1.split_once('"').unwrap().0;
    fs::write(at("changed.jsonl"), file.replace(line, &line.replace("web-41", "web-14"))).unwrap();
    fs::write(at("removed.jsonl"), file.replace(&format!("{line}\n"), "")).unwrap();
    let told = [
        ("changed.jsonl", format!("changed: leaf 41 (Audit-ID {id}) is not the event that was logged there")),
        ("removed.jsonl", "removed: leaf 41 of the log is not in this file".to_owned()),
    ];
    for (name, expected) in told {
        let (code, said) = verify(directory.path(), &[name, "--trust", "root.pem"]);
        assert_eq!(code, 1, "{said}");
        assert!(said.lines().any(|line| line == expected), "{said}");
    }
    let other = MemoryStore::default();
    grow(&other, 60).await;
    let forked = head(&ours, &other, 60).await;
    fs::write(at("forked.jsonl"), format!("{}\n", serde_json::to_string(&forked).unwrap())).unwrap();
    let (code, said) =
        verify(directory.path(), &["audit.jsonl", "--trust", "root.pem", "--previous-head", "forked.jsonl"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("forked: the first 60 leaves have another root"), "{said}");

    // And where nothing can be said, that is another code.
    for arguments in [
        &["audit.jsonl", "--trust", "other.pem"][..],
        &["audit.jsonl", "--trust", "audit.jsonl"],
        &["audit.jsonl"],
        &["missing.jsonl", "--trust", "root.pem"],
        &["root.pem", "--trust", "root.pem"],
        &["audit.jsonl", "--trust", "root.pem", "--previous-head", "root.pem"],
    ] {
        let (code, said) = verify(directory.path(), arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.starts_with("error: nothing can be said: "), "{said}");
    }
}
