//! Heads reach their places, each once, in order, whatever stops meanwhile.

use std::{fs, path::Path};

use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use ztka_audit::{Batch, Event, Hash, Kind, Position, Record, Stage, log::SignedHead};
use ztka_core::{AuditId, OrgId};

use super::*;
use crate::{Config, Opened};

async fn opened(directory: &Path) -> Opened {
    let text = format!(
        "domain = 'example.com'\nfront = 'kube.example.com:443'\nlisten = '127.0.0.1:0'\ndata_dir = '{}'",
        directory.display()
    );
    crate::open(&toml::from_str::<Config>(&text).unwrap()).await.unwrap()
}

/// One event more in the log of the installation's organisation, and a head of it.
async fn grow(controller: &Controller) -> u64 {
    let mut event = Event::new(AuditId::generate(), Stage::ResponseComplete, Timestamp::UNIX_EPOCH);
    event.annotations.set("org", OrgId::installation().as_str());
    let payload = String::from_utf8(event.to_json()).unwrap();
    let (position, previous, id) = (Position::default(), Hash::default(), event.audit_id);
    let record = Record { position, sequence: 0, previous, kind: Kind::Close, id, payload };
    let batch = Batch { journal: AuditId::generate(), records: vec![record], signature: None };
    controller.stores().events.ingest("spiffe://example.com/proxy/p1", &batch).await.unwrap();
    let org = OrgId::installation();
    let grown = controller.stores().log.grown_logs(Some(&org)).await.unwrap();
    controller.sign_tree_head(&grown[0]).await.unwrap();
    grown[0].size
}

fn sizes(text: &str) -> Vec<u64> {
    let heads = text.lines().filter_map(|line| serde_json::from_str::<SignedHead>(line).ok());
    heads.map(|head| head.claimed().unwrap().size).collect()
}

#[tokio::test]
async fn a_file_has_each_head_once_also_after_a_power_cut() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("heads.jsonl");
    let opened = opened(&directory.path().join("data")).await;
    let controller = &opened.controller;
    let mut file = HeadFile::open(&path).await.unwrap();
    let first = grow(controller).await;
    assert_eq!(file.publish(controller).await.unwrap(), 1);
    assert_eq!(file.publish(controller).await.unwrap(), 0);
    for size in first + 1..first + 4 {
        assert_eq!(grow(controller).await, size);
    }
    // Another start, behind a line that was cut off: what was cut comes again, whole.
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{}", &whole[..40])).unwrap();
    let mut file = HeadFile::open(&path).await.unwrap();
    assert_eq!(file.publish(controller).await.unwrap(), 3);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with(&whole));
    assert_eq!(sizes(&text), (first..first + 4).collect::<Vec<_>>());
    opened.close().await;
}

#[tokio::test]
async fn a_webhook_is_told_until_it_confirms() {
    let directory = tempfile::tempdir().unwrap();
    let opened = opened(&directory.path().join("data")).await;
    let controller = &opened.controller;
    let (first, second) = (grow(controller).await, grow(controller).await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/heads?from=ztka", listener.local_addr().unwrap());
    let state = directory.path().join("sent.json");
    let mut webhook = Webhook::open(&url, None, state.clone()).unwrap();
    // Refuses the first, takes the next two.
    let server = tokio::spawn(async move {
        let mut bodies = Vec::new();
        for status in ["500 Oh", "204 No Content", "200 OK"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            let body = loop {
                let mut some = [0; 4096];
                let read = stream.read(&mut some).await.unwrap();
                assert!(read > 0, "the request is whole");
                request.extend_from_slice(&some[..read]);
                let text = String::from_utf8(request.clone()).unwrap();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                assert!(head.starts_with("POST /heads?from=ztka HTTP/1.1\r\n"), "{head}");
                if serde_json::from_str::<SignedHead>(body).is_ok() {
                    break body.to_owned();
                }
            };
            bodies.push(body);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        bodies
    });
    let refused = webhook.publish(controller).await.unwrap_err();
    assert!(format!("{refused:#}").contains("500"), "{refused:#}");
    assert_eq!(webhook.publish(controller).await.unwrap(), 2);
    assert_eq!(sizes(&server.await.unwrap().join("\n")), [first, first, second]);
    // What was confirmed is not sent again by the next start.
    assert_eq!(Webhook::open(&url, None, state).unwrap().publish(controller).await.unwrap(), 0);
    for bad in ["http://example.com/", "ftp://localhost/", "localhost", "https://"] {
        assert!(Webhook::open(bad, None, directory.path().join("none")).is_err(), "{bad}");
    }
    opened.close().await;
}
