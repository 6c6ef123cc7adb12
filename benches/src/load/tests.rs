use std::net::TcpListener;

use ztka_test_cluster::Authority;

use super::*;

/// A target that takes connections and never says anything, or is not there at all.
fn target(folder: &std::path::Path, address: std::net::SocketAddr) -> Target {
    let authority = Authority::create(folder, "ca").unwrap();
    let client = authority.client("load", &[]).unwrap();
    Target {
        name: "nobody".into(),
        address,
        server_name: "localhost".into(),
        ca: authority.path().to_owned(),
        certificate: client.certificate_path,
        key: client.key_path,
        path_prefix: String::new(),
        processes: Vec::new(),
    }
}

#[test]
fn nobody_there_is_an_error_that_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = format!("{:#}", once(&target(folder.path(), address), "/").unwrap_err());
    assert!(error.contains(&address.to_string()) && error.contains("refused"), "{error}");
}

#[test]
fn outcomes_add_up() {
    let mut all = Outcome::default();
    let one = |micros| Outcome {
        latencies: vec![Duration::from_micros(micros)],
        bytes: 7,
        elapsed: Duration::from_micros(micros),
        ..Outcome::default()
    };
    all.add(one(3));
    all.add(one(1));
    all.failed(&anyhow!("first"));
    all.failed(&anyhow!("second"));
    assert_eq!((all.bytes, all.errors, all.first_error.as_deref()), (14, 2, Some("first")));
    assert_eq!((all.latencies.len(), all.elapsed), (2, Duration::from_micros(3)));
}
