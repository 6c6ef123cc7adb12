//! What is renewed in a file, and that nothing else is.

use super::*;

fn entry(name: &str, server: &str, tls_server_name: &str) -> ClusterEntry {
    let some = |text: &str| Some(text.to_owned());
    let authority = some(&BASE64_STANDARD.encode("ca"));
    ClusterEntry { name: name.into(), server: some(server), tls_server_name: some(tls_server_name), authority }
}

#[test]
fn the_controller_is_where_the_clusters_are() {
    let address = |server: &str, name: &str| endpoint(&entry("c", server, name)).map(|(at, name, _)| (at, name));
    let expected = |at: &str| Some((at.to_owned(), "api.example.com".to_owned()));
    assert_eq!(address("https://front:8443", "c1.kube.example.com"), expected("front:8443"));
    assert_eq!(address("https://front/clusters/c1", "kube.example.com"), expected("front:443"));
    assert_eq!(address("https://[::1]:8443/clusters/c1", "kube.example.com"), expected("[::1]:8443"));
    assert_eq!(address("http://front:8443", "c1.kube.example.com"), None);
    assert_eq!(address("https://front:6443", "kubernetes"), None);
}

#[test]
fn values_are_replaced_and_every_other_byte_stays() {
    let old = Renewable {
        name: "alice".into(),
        credential: CredentialFile {
            address: String::new(),
            server_name: String::new(),
            ca_bundle: String::new(),
            chain: String::new(),
            key: Zeroizing::new(String::new()).into(),
        },
        chain: "Q0hBSU4=".into(),
        key: Zeroizing::new("S0VZ".into()),
        authorities: vec!["Q0E=".into(), "Q0E=".into()],
    };
    let text = "# kept\nusers:\n- {a: \"Q0hBSU4=\", key: S0VZ} # S0VZlonger S0VZ\nother: XS0VZ\nca: Q0E=\r\n";
    let (chain, key, ca) =
        (BASE64_STANDARD.encode("chain"), BASE64_STANDARD.encode("k"), BASE64_STANDARD.encode("ca2"));
    let expected =
        format!("# kept\nusers:\n- {{a: \"{chain}\", key: {key}}} # S0VZlonger {key}\nother: XS0VZ\nca: {ca}\r\n");
    assert_eq!(*old.replaced(text, "chain", "k", "ca2"), expected);
}

#[test]
fn users_of_others_are_left_alone() {
    let key = SoftwareKey::generate(&rustls::crypto::ring::default_provider()).unwrap();
    let user = |certificate: Option<&str>, key: Option<&str>| UserEntry {
        name: "other".into(),
        certificate: certificate.map(|pem| BASE64_STANDARD.encode(pem)),
        key: key.map(|pem| Zeroizing::new(BASE64_STANDARD.encode(pem))),
    };
    let contents =
        Contents { users: vec![user(None, None), user(Some("no"), Some(&key.to_pem()))], ..Contents::default() };
    let error = renewables(&contents, None).unwrap_err().to_string();
    assert!(error.contains("ztka kubeconfig --file"), "{error}");
    let error = renewables(&contents, Some("none")).unwrap_err().to_string();
    assert!(error.contains("no context \"none\""), "{error}");
}

#[test]
fn two_do_not_change_the_same_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    let held = Lock::take(&file).unwrap();
    let error = Lock::take(&file).unwrap_err().to_string();
    assert!(error.contains("config.lock"), "{error}");
    drop(held);
    assert!(Lock::take(&file).is_ok());
}
