//! A private key in a PEM file, encrypted or not: what is read is one key, which is the same when it is read again; no error
//! tells anything of it.

use ztka_pki::{KeyError, Passphrase, PublicKey, SoftwareKey};

use super::{provider, world};

/// A passphrase (may be empty), a line end, and the file; true if there is a key in it.
pub(crate) fn private_key(data: &[u8]) -> bool {
    let world = world();
    let text = String::from_utf8_lossy(data);
    let Some((passphrase, file)) = text.split_once('\n') else { return false };
    let file = world.fill(file, false);
    let told = |error: &KeyError| {
        let shown = format!("{error} {error:?}");
        assert!(shown.len() > 20, "says what to do: {shown}");
        let lines = file.lines().filter(|line| line.len() > 32 && !line.starts_with('-'));
        assert!(lines.clone().all(|line| !shown.contains(line)), "{shown}");
        assert!(passphrase.len() < 8 || !shown.contains(passphrase), "{shown}");
    };
    let plain = SoftwareKey::from_pem(file.as_bytes(), &provider());
    if let Ok(key) = &plain {
        assert!(file.contains("PRIVATE KEY-----"));
        let again = SoftwareKey::from_pem(key.to_pem().as_bytes(), &provider()).unwrap();
        is_the_same(key, &again);
    }
    plain.as_ref().err().into_iter().for_each(told);
    let Ok(secret) = Passphrase::new(passphrase) else { return plain.is_ok() };
    match SoftwareKey::from_encrypted_pem(file.as_bytes(), &secret, &provider()) {
        Ok(key) => {
            assert!(matches!(plain, Err(KeyError::Encrypted)), "{plain:?}: of no use without its passphrase");
            let wrong = Passphrase::new(format!("{passphrase}x")).unwrap();
            let refused = SoftwareKey::from_encrypted_pem(file.as_bytes(), &wrong, &provider());
            assert!(refused.is_err(), "any passphrase does");
            let again = SoftwareKey::from_pem(key.to_pem().as_bytes(), &provider()).unwrap();
            is_the_same(&key, &again);
            true
        }
        Err(error) => {
            told(&error);
            plain.is_ok()
        }
    }
}

fn is_the_same(key: &SoftwareKey, again: &SoftwareKey) {
    assert_eq!(key.public().der(), again.public().der());
    let csr = ztka_pki::ValidCsr::from_der(&again.csr().unwrap()).expect("a key that we take is one that we certify");
    assert_eq!(csr.key().id(), key.public().id());
    PublicKey::from_spki(key.public().der()).unwrap();
    let shown = format!("{key:?}");
    assert!(!key.to_pem().lines().filter(|line| line.len() > 32).any(|line| shown.contains(line)), "{shown}");
}
