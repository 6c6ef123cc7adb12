//! A credential that is read from its file is a key with its own certificate, and is read again as it is written.

use std::os::unix::fs::PermissionsExt as _;

use x509_cert::{
    Certificate,
    der::{Decode as _, Encode as _},
};
use ztka_pki::{Credential, CredentialDirectory, CredentialStore as _, PublicKey, SoftwareKey};

use super::{provider, world};

/// `credential.pem`, and behind a NUL `trust.json`, as a process finds them when it starts; true if it can.
pub(crate) fn stored_credential(data: &[u8]) -> bool {
    let world = world();
    let text = String::from_utf8_lossy(data);
    let (pem, trust) = text.split_once('\0').unwrap_or((&text, "@TRUST@"));
    let (pem, trust) = (world.fill(pem, false), world.fill(trust, false));
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in [("credential.pem", &pem), ("trust.json", &trust)] {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let directory = CredentialDirectory::open(folder.path(), provider()).unwrap();
    let stored = match world.runtime.block_on(directory.load()) {
        Ok(stored) => stored.expect("there is a file"),
        Err(error) => {
            let shown = format!("{error} {error:?}");
            assert!(world.secrets().iter().all(|secret| !shown.contains(secret)), "{shown}");
            return false;
        }
    };
    let credential = stored.credential(&provider()).expect("what was read is a credential");
    let key = SoftwareKey::from_pem(stored.key.as_bytes(), &provider()).unwrap();
    let leaf = Certificate::from_der(&credential.chain()[0]).expect("a certificate");
    let leaf = leaf.tbs_certificate();
    let spki = leaf.subject_public_key_info().to_der().unwrap();
    assert_eq!(spki, key.public().der(), "key and certificate are of different people");
    let signature = credential.sign(b"message").unwrap();
    assert!(PublicKey::from_spki(&spki).unwrap().is_signed(b"message", &signature));
    let serial = super::csr::hex(leaf.serial_number().as_bytes());
    assert_eq!(credential.serial(), serial.trim_start_matches("00"));
    assert!(credential.issued() <= credential.not_after());
    let shown = format!("{stored:?} {credential:?} {key:?}");
    assert!(!stored.key.lines().filter(|line| line.len() > 40).any(|line| shown.contains(line)), "{shown}");

    // What is written is read, and is the same.
    world.runtime.block_on(directory.save(&stored)).unwrap();
    let again = world.runtime.block_on(directory.load()).unwrap().unwrap();
    assert_eq!((&*again.key, &again.chain, &again.trust), (&*stored.key, &stored.chain, &stored.trust));
    Credential::from_pem(again.chain.as_bytes(), &key).unwrap();
    true
}
