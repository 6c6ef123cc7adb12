//! Private keys under a passphrase or a wrapping key, as files that others read too.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
#![cfg(unix)]
mod support;

use std::{fs, path::Path, process::Command};

use futures_util::FutureExt as _;
use support::{key, provider};
use ztka_pki::{
    FileKeyStore, KeyError, KeyKind, KeyStore, MemoryKeyStore, Passphrase, SoftwareKey, WrappingKey, conformance, file,
};

const SECRET: &str = "correct horse battery staple";

fn passphrase() -> Passphrase {
    Passphrase::new(SECRET).unwrap()
}

fn store(directory: &Path) -> FileKeyStore {
    FileKeyStore::open(directory, provider()).unwrap()
}

/// What the openssl command does to `input`, or `None` where there is none.
fn openssl(arguments: &[&str], directory: &Path) -> Option<(bool, String)> {
    let output = match Command::new("openssl").args(arguments).current_dir(directory).output() {
        Ok(output) => output,
        Err(_) => {
            assert!(std::env::var("CI").as_deref() != Ok("true"), "openssl is missing");
            eprintln!("SKIPPED: there is no openssl command here, so nobody else has read our keys");
            return None;
        }
    };
    let text = [output.stdout, output.stderr].concat();
    Some((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

#[tokio::test]
async fn every_store_of_keys_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    conformance::key_store(&MemoryKeyStore::new(provider())).await.unwrap();
    conformance::key_store(&store(&at("plain"))).await.unwrap();
    conformance::key_store(&store(&at("passphrase")).with_passphrase(passphrase())).await.unwrap();
    let wrapping = WrappingKey::new(&[7; 32]).unwrap();
    conformance::key_store(&store(&at("wrapped")).wrapped_under(wrapping)).await.unwrap();
    for name in ["plain", "passphrase", "wrapped"] {
        assert_eq!(fs::read_dir(at(name)).unwrap().count(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_key_file_says_nothing_without_its_secret() {
    let directory = tempfile::tempdir().unwrap();
    let name = "root".parse().unwrap();
    let path = directory.path().join("root.key");
    let other = || WrappingKey::new(&[8; 32]).unwrap();
    let wrapped = |key| store(directory.path()).wrapped_under(key);
    let encrypted = |text: &str| store(directory.path()).with_passphrase(Passphrase::new(text).unwrap());
    let said = async |keys: FileKeyStore| {
        let error = keys.open(&name).await.unwrap_err().to_string();
        assert!(error.contains("root.key") && !error.contains("BEGIN") && !error.contains(SECRET), "{error}");
        error
    };

    let made = encrypted(SECRET).create(&name, KeyKind::P256).await.unwrap();
    let pem = fs::read_to_string(&path).unwrap();
    assert!(pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{pem}");
    let opened = encrypted(&format!("{SECRET}\r\n")).open(&name).await.unwrap();
    assert_eq!(opened.public_key(), made.public_key());
    assert!(said(encrypted("another")).await.contains("does not open with this passphrase"));
    assert!(said(store(directory.path())).await.contains("is encrypted; configure its passphrase"));
    assert!(said(wrapped(other())).await.contains("is not wrapped"));
    // The same key is never written the same way twice.
    let key = key();
    assert_ne!(key.to_encrypted_pem(&passphrase()).unwrap(), key.to_encrypted_pem(&passphrase()).unwrap());

    // What is not encrypted is not taken for it.
    file::write_private(&path, key.to_pem().as_bytes()).unwrap();
    assert!(said(encrypted(SECRET)).await.contains("is not encrypted, but a passphrase is configured"));
    assert!(said(wrapped(other())).await.contains("is not wrapped"));

    encrypted(SECRET).destroy(&name).await.unwrap();
    let keys = wrapped(WrappingKey::new(&[7; 32]).unwrap());
    let made = keys.create(&name, KeyKind::Ed25519).await.unwrap();
    assert_eq!(keys.open(&name).await.unwrap().public_key(), made.public_key());
    assert!(said(wrapped(other())).await.contains("wrapping key"));
    // Bound to its name: another file's content does not open as this one.
    let twin = "twin".parse().unwrap();
    fs::copy(&path, directory.path().join("twin.key")).unwrap();
    assert!(keys.open(&twin).await.unwrap_err().to_string().contains("does not open"));
    // Every byte counts.
    let whole = fs::read_to_string(&path).unwrap();
    let (label, der) = x509_cert::der::pem::decode_vec(whole.as_bytes()).unwrap();
    for at in 0..der.len() {
        let mut bent = der.clone();
        bent[at] ^= 1;
        let pem = x509_cert::der::pem::encode_string(label, x509_cert::der::pem::LineEnding::LF, &bent).unwrap();
        file::write_private(&path, pem.as_bytes()).unwrap();
        assert!(keys.open(&name).await.is_err(), "byte {at}");
    }
    let debug = format!("{:?} {:?} {:?}", passphrase(), other(), encrypted(SECRET));
    assert!(debug.starts_with("Passphrase { .. } WrappingKey { .. } ") && !debug.contains(SECRET), "{debug}");
    assert!(Passphrase::new("\n").is_err());
}

#[tokio::test]
async fn files_and_key_derivation_wait_on_another_thread() {
    let directory = tempfile::tempdir().unwrap();
    let keys = store(directory.path()).with_passphrase(passphrase());
    let name = "k".parse().unwrap();
    let mut made = keys.create(&name, KeyKind::P256);
    // On this thread, the first poll would have had it.
    assert!((&mut made).now_or_never().is_none());
    made.await.unwrap();
    assert!(keys.open(&name).now_or_never().is_none());
    assert!(keys.destroy(&name).now_or_never().is_none());
}

#[test]
fn openssl_and_we_read_each_others_keys() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    fs::write(at.join("pass"), SECRET).unwrap();
    for kind in KeyKind::ALL {
        let key = SoftwareKey::generate_of(kind, &provider()).unwrap();
        fs::write(at.join("plain.pem"), key.to_pem().as_bytes()).unwrap();
        fs::write(at.join("ours.pem"), key.to_encrypted_pem(&passphrase()).unwrap().as_bytes()).unwrap();
        let read =
            ["pkey", "-in", "ours.pem", "-passin", "file:pass", "-pubout", "-outform", "DER", "-out", "public.der"];
        let Some((read, text)) = openssl(&read, at) else { return };
        assert!(read, "{kind}: {text}");
        assert_eq!(fs::read(at.join("public.der")).unwrap(), key.public().der(), "{kind}");
        // What openssl makes: its default (PBKDF2), scrypt, other hashes and ciphers, and two forms from the past.
        let theirs: [(&[&str], bool); 6] = [
            (&["-topk8"], true),
            (&["-topk8", "-scrypt"], true),
            (&["-topk8", "-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512", "-iter", "3000"], true),
            (&["-topk8", "-v2", "aes256", "-v2prf", "hmacWithSHA1"], false),
            (&["-topk8", "-v1", "PBE-SHA1-3DES"], false),
            (&["-topk8", "-iter", "10000001"], false),
        ];
        for (how, taken) in theirs {
            if how.contains(&"10000001") && kind != KeyKind::P256 {
                continue;
            }
            let write = ["pkcs8", "-in", "plain.pem", "-passout", "file:pass", "-out", "theirs.pem"];
            let (written, text) = openssl(&[&write[..], how].concat(), at).unwrap();
            assert!(written, "{how:?}: {text}");
            let pem = fs::read(at.join("theirs.pem")).unwrap();
            match SoftwareKey::from_encrypted_pem(&pem, &passphrase(), &provider()) {
                Ok(read) => assert!(taken && read.public() == key.public(), "{how:?}"),
                Err(error) => {
                    let said = error.to_string();
                    assert!(!taken && matches!(error, KeyError::Unusable(_)), "{how:?}: {said}");
                    assert!(said.contains("openssl pkcs8 -topk8") || said.contains("encrypt it anew"), "{said}");
                }
            }
        }
    }
}
