//! What is renewed in a file, and that nothing else is.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use ztka_core::{Clock, ManualClock};
use ztka_pki::{Hierarchy, Lifetimes, MemoryKeyStore, Names, ValidCsr};

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

/// A user with a certificate of ours that was made at `at` and lives for a day.
async fn ours(name: &str, at: Timestamp) -> UserEntry {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let keys = Arc::new(MemoryKeyStore::new(provider.clone()));
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(at));
    let hierarchy = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, clock).await.unwrap();
    let (org, user, credential) = ("acme".parse().unwrap(), "u1".parse().unwrap(), "k1".parse().unwrap());
    hierarchy.create_org(&org).await.unwrap();
    let key = SoftwareKey::generate(&provider).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let issued = hierarchy.issue_user(&csr, &org, &user, &credential, SignedDuration::from_hours(24)).await.unwrap();
    UserEntry {
        name: name.into(),
        certificate: Some(BASE64_STANDARD.encode(issued.pem())),
        key: Some(Zeroizing::new(BASE64_STANDARD.encode(key.to_pem().as_bytes()))),
    }
}

#[tokio::test]
async fn one_that_cannot_be_renewed_keeps_no_other_from_it_and_none_is_renewed_twice() {
    let now = Timestamp::now();
    let (old, good) = (ours("old", now - SignedDuration::from_hours(72)).await, ours("good", now).await);
    let again = UserEntry {
        name: "again".into(),
        certificate: good.certificate.clone(),
        key: good.key.as_ref().map(|key| Zeroizing::new(key.to_string())),
    };
    let context =
        |user: &str| crate::kubeconfig::ContextEntry { name: user.into(), cluster: "c".into(), user: user.into() };
    let contents = Contents {
        clusters: vec![entry("c", "https://front:8443", "c1.kube.example.com")],
        contexts: ["old", "good", "again"].map(context).into(),
        users: vec![old, good, again],
    };
    let (found, failed) = renewables(&contents, None).unwrap();
    assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["good"]);
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    assert!(failed.to_string().contains("\"old\" expired"), "{failed}");
    let (found, failed) = renewables(&contents, Some("old")).unwrap();
    assert_eq!((found.len(), failed.len()), (0, 1), "one that is asked for by name says why it is not");
}

#[test]
fn whoever_changes_the_file_by_way_of_a_link_is_waited_for_too() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("real"), folder.path().join("config"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    // kubectl takes the lock beside the name that it was given.
    for held in [&file, &link] {
        let held = Lock::take(held).unwrap();
        assert!(Locks::take(&link, &file).is_err());
        drop(held);
    }
    let both = Locks::take(&link, &file).unwrap();
    assert!(Lock::take(&file).is_err() && Lock::take(&link).is_err());
    drop(both);
    // The file itself, however it is called: one lock.
    let whole = fs::canonicalize(&file).unwrap();
    for given in [&whole, &folder.path().join(".").join("real")] {
        assert!(Locks::take(given, &whole).is_ok(), "{}", given.display());
    }
    assert!(Lock::take(&file).is_ok() && Lock::take(&link).is_ok());
}
