//! Keys in a token, held against SoftHSM: the suite of every key store, and what happens when the token goes away.
//!
//! A PKCS#11 module belongs to a process and finds its tokens by the environment, so each test runs itself again as a
//! process of its own, with a token of its own in a folder that goes away with it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, clippy::indexing_slicing, reason = "tests")]
#![cfg(all(feature = "pkcs11", unix))]
mod support;

use std::{
    fs,
    future::Future,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use futures_util::{FutureExt as _, future::join_all};
use support::{id, key, provider};
use ztka_core::{Clock, SystemClock};
use ztka_pki::{
    Hierarchy, KeyError, KeyKind, KeyName, KeyStore, Lifetimes, Names, Pkcs11KeyStore, Pkcs11Token, Purpose,
    TrustSource, ValidCsr, conformance, file,
};

const FOLDER: &str = "ZTKA_TEST_TOKEN_FOLDER";
const PIN: &str = "correct-horse-7";
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];

/// A folder with one token labelled `ztka`.
struct Site(PathBuf);

impl Site {
    fn make(folder: &Path) -> Self {
        let site = Self(folder.into());
        fs::create_dir(folder.join("tokens")).unwrap();
        let tokens = folder.join("tokens").display().to_string();
        let settings = format!("directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n");
        fs::write(folder.join("softhsm2.conf"), settings).unwrap();
        site.set_pin(PIN);
        site.initialise();
        site
    }

    fn module() -> Option<PathBuf> {
        MODULES.iter().map(PathBuf::from).find(|path| path.exists())
    }

    fn conf(&self) -> PathBuf {
        self.0.join("softhsm2.conf")
    }

    fn pin_file(&self) -> PathBuf {
        self.0.join("pin")
    }

    fn set_pin(&self, pin: &str) {
        file::write_private(&self.pin_file(), format!("{pin}\n").as_bytes()).unwrap();
    }

    /// Makes the token, in a process of its own: another user of the same token.
    fn initialise(&self) {
        self.utility(&["--init-token", "--free", "--label", "ztka", "--so-pin", "0000", "--pin", PIN]);
    }

    fn utility(&self, arguments: &[&str]) {
        let done = Command::new("softhsm2-util").args(arguments).env("SOFTHSM2_CONF", self.conf()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    fn remove_token(&self) {
        fs::rename(self.0.join("tokens"), self.0.join("elsewhere")).unwrap();
        fs::create_dir(self.0.join("tokens")).unwrap();
    }

    fn put_token_back(&self) {
        fs::remove_dir_all(self.0.join("tokens")).unwrap();
        fs::rename(self.0.join("elsewhere"), self.0.join("tokens")).unwrap();
    }

    fn token(&self) -> Pkcs11Token {
        Pkcs11Token::new(Self::module().unwrap(), "ztka", self.pin_file())
    }

    async fn keys(&self) -> Pkcs11KeyStore {
        Pkcs11KeyStore::open(self.token()).await.unwrap()
    }
}

/// Runs the test `name` as a process of its own, and there `body`.
fn with_token<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Site) -> F) {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        return runtime.block_on(body(Site(folder.into())));
    }
    let utility = Command::new("softhsm2-util").arg("--version").output().is_ok_and(|output| output.status.success());
    if Site::module().is_none() || !utility {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "softhsm2 is missing: apt-get install softhsm2");
        eprintln!("SKIPPED: there is no SoftHSM here (apt-get install softhsm2), so no token has been tried");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let site = Site::make(folder.path());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args([name, "--exact", "--nocapture"]).env("SOFTHSM2_CONF", site.conf()).env(FOLDER, folder.path());
    let done = again.output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(done.status.success(), "{said}");
    assert!(!said.contains(PIN), "the PIN was shown");
}

fn name(text: &str) -> KeyName {
    id(text)
}

/// The whole chain of causes.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn it_is_a_key_store_as_the_others_are() {
    with_token("it_is_a_key_store_as_the_others_are", |site| async move {
        conformance::key_store(&site.keys().await).await.unwrap();
        // With one session, everything waits for its turn.
        let one = Pkcs11KeyStore::open(site.token().sessions(1)).await.unwrap();
        conformance::key_store(&one).await.unwrap();
        // SoftHSM makes every kind.
        for kind in KeyKind::ALL {
            one.create(&name(&format!("k.{}", kind.as_str().to_lowercase())), kind).await.unwrap();
        }
    });
}

#[test]
fn a_hierarchy_has_its_keys_in_it() {
    with_token("a_hierarchy_has_its_keys_in_it", |site| async move {
        let keys = Arc::new(site.keys().await);
        keys.create(&name("root"), KeyKind::P384).await.unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (names, lives) = (Names::of("example.com"), Lifetimes::default());
        let made = Hierarchy::create(names, lives, keys.clone(), clock.clone()).await.unwrap();
        let org = made.create_org(&id("acme")).await.unwrap();
        // Opened again, by the names of the keys, in a store of its own.
        let keys = Arc::new(site.keys().await);
        let hierarchy = Hierarchy::open(made.state(), lives, keys, clock.clone()).await.unwrap();
        hierarchy.open_org(&org).await.unwrap();
        let csr = ValidCsr::from_der(&key().csr().unwrap()).unwrap();
        let issued = hierarchy.issue_agent(&csr, &id("acme"), &id("c1"), &id("i1")).await.unwrap();
        let trust = TrustSource::new(made.trust_bundle(), provider(), clock).unwrap();
        trust.verify(Purpose::Agents, issued.chain()).unwrap();
    });
}

#[test]
fn signing_waits_on_another_thread() {
    with_token("signing_waits_on_another_thread", |site| async move {
        let signer = site.keys().await.create(&name("k"), KeyKind::P256).await.unwrap();
        let signs = signer.clone();
        let elsewhere = thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().max_blocking_threads(1).build().unwrap();
            runtime.block_on(async {
                // Nothing that may block gets a turn, so only what asks the token on this very thread has an answer.
                let (release, held) = mpsc::channel::<()>();
                let busy = tokio::task::spawn_blocking(move || held.recv());
                let mut signature = signs.sign(b"message");
                assert!((&mut signature).now_or_never().is_none());
                drop(release);
                busy.await.unwrap().unwrap_err();
                signature.await.unwrap()
            })
        });
        let signature = tokio::task::spawn_blocking(|| elsewhere.join().unwrap()).await.unwrap();
        assert!(signer.public_key().is_signed(b"message", &signature));
        // Many at once, from as many tasks.
        let tasks = (0..64_u8).map(|number| {
            let signer = signer.clone();
            tokio::spawn(async move { signer.sign(&[number]).await.unwrap() })
        });
        for (number, signature) in (0..64_u8).zip(join_all(tasks).await) {
            assert!(signer.public_key().is_signed(&[number], &signature.unwrap()));
        }
    });
}

/// A key is made only after a look through a module initialised anew, which others use meanwhile.
#[test]
fn keys_are_made_while_others_sign() {
    with_token("keys_are_made_while_others_sign", |site| async move {
        let keys = site.keys().await;
        keys.create(&name("signs"), KeyKind::P256).await.unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let signing = (0..3_u8).map(|number| {
            let (keys, done) = (keys.clone(), done.clone());
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let signer = keys.open(&name("signs")).await.unwrap();
                    let signature = signer.sign(&[number]).await.unwrap();
                    assert!(signer.public_key().is_signed(&[number], &signature));
                }
            })
        });
        let signing: Vec<_> = signing.collect();
        for number in 0..20 {
            let label = name(&format!("k{number}"));
            assert!(matches!(keys.open(&label).await, Err(KeyError::Absent(_))));
            let made = keys.create(&label, KeyKind::P256).await.unwrap();
            assert_eq!(keys.open(&label).await.unwrap().public_key(), made.public_key());
        }
        done.store(true, Ordering::Relaxed);
        join_all(signing).await.into_iter().for_each(|ended| ended.unwrap());
    });
}

#[test]
fn a_token_that_was_away_is_used_again() {
    with_token("a_token_that_was_away_is_used_again", |site| async move {
        let keys = site.keys().await;
        let signer = keys.create(&name("k"), KeyKind::P256).await.unwrap();
        signer.sign(b"before").await.unwrap();
        site.remove_token();
        let error = signer.sign(b"away").await.unwrap_err();
        assert!(matches!(error, KeyError::Unavailable(_)), "{error:?}");
        let said = told(&error);
        assert!(said.contains("\"ztka\"") && !said.contains(PIN), "{said}");
        assert!(keys.open(&name("k")).await.is_err());
        site.put_token_back();
        let signature = signer.sign(b"after").await.unwrap();
        assert!(signer.public_key().is_signed(b"after", &signature));
        let opened = keys.open(&name("k")).await.unwrap();
        assert_eq!(opened.public_key(), signer.public_key());
        conformance::key_store(&keys).await.unwrap();
    });
}

#[test]
fn a_token_that_was_initialised_again_has_other_keys() {
    with_token("a_token_that_was_initialised_again_has_other_keys", |site| async move {
        let keys = site.keys().await;
        let signer = keys.create(&name("k"), KeyKind::P256).await.unwrap();
        signer.sign(b"before").await.unwrap();
        site.utility(&["--delete-token", "--token", "ztka"]);
        site.initialise();
        let error = signer.sign(b"after").await.unwrap_err();
        assert!(matches!(error, KeyError::Absent(_)), "{}", told(&error));
        let other = keys.create(&name("k"), KeyKind::P256).await.unwrap();
        assert_ne!(other.public_key(), signer.public_key());
        // A signer never signs with a key that has its name only.
        let error = signer.sign(b"after").await.unwrap_err();
        assert!(matches!(error, KeyError::Absent(_)), "{}", told(&error));
        assert!(other.public_key().is_signed(b"new", &other.sign(b"new").await.unwrap()));
    });
}

#[test]
fn a_wrong_pin_is_tried_once() {
    with_token("a_wrong_pin_is_tried_once", |site| async move {
        site.set_pin("wrong-staple-3");
        let error = Pkcs11KeyStore::open(site.token()).await.unwrap_err();
        let said = told(&error);
        assert!(said.contains("refuses the PIN in") && !said.contains("wrong-staple"), "{said}");
        site.set_pin(PIN);
        let keys = site.keys().await;
        let signer = keys.create(&name("k"), KeyKind::P256).await.unwrap();
        // The PIN was changed while we were cut off.
        site.set_pin("wrong-staple-3");
        site.remove_token();
        signer.sign(b"away").await.unwrap_err();
        site.put_token_back();
        for _ in 0..20 {
            let said = told(&signer.sign(b"refused").await.unwrap_err());
            assert!(said.contains("refuses the PIN in"), "{said}");
        }
        site.set_pin(PIN);
        signer.sign(b"after").await.unwrap();
    });
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    with_token("what_is_wrong_is_said_with_what_to_do", |site| async move {
        let module = Site::module().unwrap();
        let open = async |token| told(&Pkcs11KeyStore::open(token).await.unwrap_err());
        let said = open(Pkcs11Token::new(&module, "another", site.pin_file())).await;
        assert!(said.contains("the token \"another\" is not there"), "{said}");
        let said = open(Pkcs11Token::new("/nowhere/module.so", "ztka", site.pin_file())).await;
        assert!(said.contains("/nowhere/module.so is not a PKCS#11 module"), "{said}");
        let said = open(Pkcs11Token::new(&module, "ztka", site.0.join("none"))).await;
        assert!(said.contains("is missing; put the token's user PIN there"), "{said}");
        file::write_private(&site.pin_file(), b"\n").unwrap();
        let said = open(site.token()).await;
        assert!(said.contains("is not one line of UTF-8 text"), "{said}");
        site.set_pin(PIN);
        fs::set_permissions(site.pin_file(), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let said = open(site.token()).await;
        assert!(said.contains("chmod 600"), "{said}");
        site.set_pin(PIN);
        // Two of a label: made by somebody else.
        let keys = site.keys().await;
        keys.create(&name("twin"), KeyKind::P256).await.unwrap();
        let pem = site.0.join("imported.pem");
        fs::write(&pem, key().to_pem().as_bytes()).unwrap();
        let at = pem.display().to_string();
        site.utility(&["--import", &at, "--token", "ztka", "--label", "twin", "--id", "77", "--pin", PIN]);
        let said = told(&keys.open(&name("twin")).await.unwrap_err());
        assert!(said.contains("two keys of this label"), "{said}");
        // One that somebody else has put there is used.
        site.utility(&["--import", &at, "--token", "ztka", "--label", "theirs", "--id", "78", "--pin", PIN]);
        conformance::signer(&*keys.open(&name("theirs")).await.unwrap()).await.unwrap();
    });
}

#[test]
fn nobody_waits_for_ever() {
    with_token("nobody_waits_for_ever", |site| async move {
        let keys = Pkcs11KeyStore::open(site.token().sessions(1).patience(Duration::from_secs(5))).await.unwrap();
        let signer = keys.create(&name("k"), KeyKind::P256).await.unwrap();
        signer.sign(b"before").await.unwrap();
        // The next login hangs: it waits for somebody to write into the PIN.
        fs::remove_file(site.pin_file()).unwrap();
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(site.pin_file()).status().unwrap().success());
        site.remove_token();
        signer.sign(b"away").await.unwrap_err();
        site.put_token_back();
        // The second finds no turn: the hanging call has it still.
        for _ in 0..2 {
            let said = told(&signer.sign(b"hangs").await.unwrap_err());
            assert!(said.contains("does not answer"), "{said}");
        }
        let pipe = site.0.join("pipe");
        fs::rename(site.pin_file(), &pipe).unwrap();
        site.set_pin(PIN);
        fs::OpenOptions::new().write(true).open(&pipe).unwrap();
        while signer.sign(b"after").await.is_err() {}
    });
}

#[test]
fn a_wrapping_key_opens_what_it_has_wrapped_and_never_leaves() {
    with_token("a_wrapping_key_opens_what_it_has_wrapped_and_never_leaves", |site| async move {
        let keys = site.keys().await;
        let master = name("master");
        assert!(matches!(keys.wrapping_key(&master, false).await, Err(KeyError::Absent(_))));
        let key = keys.wrapping_key(&master, true).await.unwrap();
        let wrapped = key.wrap(b"acme", b"a data key of 32 bytes, perhaps.").await.unwrap();
        assert!(!wrapped.windows(8).any(|part| part == b"data key"));
        let again = site.keys().await.wrapping_key(&master, true).await.unwrap();
        assert_eq!(again.id(), key.id(), "it is made once");
        assert_eq!(again.unwrap(b"acme", &wrapped).await.unwrap().as_slice(), b"a data key of 32 bytes, perhaps.");
        assert!(matches!(again.unwrap(b"other", &wrapped).await, Err(KeyError::Passphrase)), "another context");
        let mut bent = wrapped.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert!(matches!(again.unwrap(b"acme", &bent).await, Err(KeyError::Passphrase)));
        let other = keys.wrapping_key(&name("other"), true).await.unwrap();
        assert!(matches!(other.unwrap(b"acme", &wrapped).await, Err(KeyError::Passphrase)), "another key");
        // It is there again after the token was away.
        site.remove_token();
        assert!(again.wrap(b"acme", b"x").await.is_err());
        site.put_token_back();
        assert_eq!(again.unwrap(b"acme", &wrapped).await.unwrap().len(), 32);
    });
}
