//! Keys and credentials as files: modes, and errors that say what to do.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]
mod support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use support::{Installation, key, provider};
use ztka_pki::{
    Credential, CredentialDirectory, CredentialStore as _, FileKeyStore, KeyKind, KeyStore as _, MemoryCredentialStore,
    MemoryEnrolmentStore, Passphrase, Purpose, StoredCredential, conformance, file,
};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn every_implementation_of_a_trait_conforms() {
    let directory = tempfile::tempdir().unwrap();
    conformance::enrolment_store(&MemoryEnrolmentStore::default()).await.unwrap();
    conformance::credential_store(&MemoryCredentialStore::default(), provider()).await.unwrap();
    let store = CredentialDirectory::open(directory.path().join("state"), provider()).unwrap();
    conformance::credential_store(&store, provider()).await.unwrap();
}

#[tokio::test]
async fn private_files_are_private_and_whole() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().join("keys");
    let keys = FileKeyStore::open(&at, provider()).unwrap();
    keys.create(&"root".parse().unwrap(), KeyKind::default()).await.unwrap();
    assert_eq!((mode(&at), mode(&at.join("root.key"))), (0o700, 0o600));

    let path = directory.path().join("secret");
    file::write_private(&path, b"one").unwrap();
    file::write_private(&path, b"two").unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(**file::read_private(&path).unwrap().unwrap(), *b"two");
    assert_eq!(file::write_private_new(&path, b"three").unwrap_err().kind(), Some(std::io::ErrorKind::AlreadyExists));
    assert_eq!(**file::read_private(&path).unwrap().unwrap(), *b"two");
    // Nothing is left beside it.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    assert!(file::remove(&path).unwrap() && !file::remove(&path).unwrap());
    assert!(file::read_private(&path).unwrap().is_none());
}

#[tokio::test]
async fn what_is_wrong_with_a_file_is_said_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let store = CredentialDirectory::open(&state, provider()).unwrap();
    let at = Installation::new().await;
    let mine = key();
    let chain = at.issue(Purpose::Agents, "acme", &mine).await.pem();
    let saved =
        StoredCredential { key: mine.to_pem(), chain: chain.clone(), trust: at.hierarchy.trust_bundle(), token: None };
    store.save(&saved).await.unwrap();
    let path = store.path();
    assert_eq!(mode(&path), 0o600);
    let text = |error: ztka_pki::CredentialStoreError| error.to_string();
    let broken = async |content: &str| {
        file::write_private(&path, content.as_bytes()).unwrap();
        text(store.load().await.unwrap_err())
    };
    let pem = mine.to_pem();
    let end = chain.find("-----END").unwrap() + "-----END CERTIFICATE-----\n".len();
    let (leaf, above) = chain.split_at(end);
    let root = at.hierarchy.root_pem();
    let encrypted = mine.to_encrypted_pem(&Passphrase::new("secret").unwrap()).unwrap();
    let legacy =
        format!("-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n{}", "AAAA\n");
    for (content, says) in [
        (format!("{}{above}{leaf}", *pem), "not in order"),
        (format!("{}{leaf}{root}{above}", *pem), "not in order"),
        (format!("{}{leaf}{above}{leaf}", *pem), "not in order"),
        (format!("{}{chain}", *encrypted), "is encrypted; configure its passphrase"),
        (format!("{legacy}-----END EC PRIVATE KEY-----\n{chain}"), "is encrypted; configure its passphrase"),
        (format!("{}{}{chain}", *pem, *encrypted), "two private keys"),
        (format!("{}{}", *pem, chain.replacen("MII", "AAA", 1)), "certificate chain"),
        (chain.clone(), "no private key"),
        (format!("{}{}{chain}", *pem, *key().to_pem()), "two private keys"),
        (format!("{}{chain}", *key().to_pem()), "not the certificate's"),
        (pem.to_string(), "certificate chain"),
        (String::new(), "no private key"),
        ("\0\0\0".into(), "no private key"),
        (format!("{}{}", pem.replace('A', "!"), chain), "PEM"),
    ] {
        let said = broken(&content).await;
        assert!(said.contains(says) && said.contains("credential.pem"), "{said}");
        assert!(!said.contains("BEGIN"), "{said}");
    }
    // Line ends of another system, and certificates before the key, change nothing.
    for good in [format!("{}{chain}", *pem).replace('\n', "\r\n"), format!("{chain}{}", *pem)] {
        file::write_private(&path, good.as_bytes()).unwrap();
        assert_eq!(store.load().await.unwrap().unwrap().chain, chain);
    }
    // The root, and what cross-certifies it, may follow.
    let server = key();
    let issued = at.issue(Purpose::Servers, "", &server).await;
    assert_eq!(Credential::new(issued.chain().to_vec(), &server).unwrap().chain().len(), 3);
    store.save(&saved).await.unwrap();
    store.load().await.unwrap().unwrap();

    set_mode(&path, 0o644);
    let said = text(store.load().await.unwrap_err());
    assert!(said.contains("mode 644") && said.contains("chmod 600"), "{said}");
    set_mode(&path, 0o600);
    fs::remove_file(state.join("trust.json")).unwrap();
    let said = text(store.load().await.unwrap_err());
    assert!(said.contains("trust.json") && said.contains("enrol again"), "{said}");
    fs::remove_file(&path).unwrap();
    assert!(store.load().await.unwrap().is_none());
    fs::create_dir(&path).unwrap();
    let said = text(store.load().await.unwrap_err());
    assert!(said.contains("not a file"), "{said}");

    set_mode(&state, 0o777);
    let said = CredentialDirectory::open(&state, provider()).unwrap_err().to_string();
    assert!(said.contains("chmod 700"), "{said}");
    set_mode(&state, 0o700);
    let large = directory.path().join("large");
    file::write_private(&large, &vec![b'x'; 300 * 1024]).unwrap();
    assert!(file::read_private(&large).unwrap_err().to_string().contains("too large"));
}

#[test]
fn keys_and_credentials_are_never_shown() {
    let key = key();
    let pem = key.to_pem();
    let secret = pem.lines().nth(1).unwrap();
    assert!(!format!("{key:?}").contains(secret));
    assert!(!format!("{key:?}").contains("der"));
}
