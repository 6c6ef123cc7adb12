//! The agent's credential in a Secret, whatever somebody has written there: what is taken for a credential is one, no error
//! tells a key, and what is saved leaves everything else as it was.

use std::sync::{Arc, Mutex, OnceLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::Method;
use jiff::SignedDuration;
use serde_json::Value;
use tokio::runtime::Runtime;
use ztka_agent::{
    SecretStore,
    accounts::{AgentToken, Client},
};
use ztka_core::ManualClock;
use ztka_pki::{
    Credential, CredentialStore as _, Hierarchy, Lifetimes, MemoryKeyStore, Names, PublicKey, SoftwareKey,
    StoredCredential, TokenId, ValidCsr,
};

struct World {
    runtime: Runtime,
    store: SecretStore,
    /// What the apiserver has.
    object: Arc<Mutex<String>>,
    /// What an agent renews to.
    renewed: StoredCredential,
    genuine: Vec<(&'static str, String)>,
    /// Lines of private keys.
    secrets: Vec<String>,
    _token: tempfile::NamedTempFile,
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

async fn issued(hierarchy: &Hierarchy, instance: &str) -> (StoredCredential, SoftwareKey) {
    let key = SoftwareKey::generate(&provider()).unwrap();
    let csr = ValidCsr::from_der(&key.csr().unwrap()).unwrap();
    let (org, cluster) = ("acme".parse().unwrap(), "c1".parse().unwrap());
    let issued = hierarchy.issue_agent(&csr, &org, &cluster, &instance.parse().unwrap()).await.unwrap();
    let credential = Credential::new(issued.chain().to_vec(), &key).unwrap();
    (StoredCredential::of(&credential, &key, hierarchy.trust_bundle()), key)
}

fn token() -> TokenId {
    format!("e{:032x}", 7).parse().unwrap()
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let object = Arc::new(Mutex::new(String::new()));
        let kept = object.clone();
        let answer = move |method: &Method, sent: Vec<u8>| {
            let mut kept = kept.lock().unwrap();
            if *method != Method::GET {
                *kept = String::from_utf8(sent).unwrap();
            }
            (200, kept.clone())
        };
        let pool = runtime.block_on(super::apiserver(answer));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "token").unwrap();
        let store = SecretStore::new(Client::new(pool, AgentToken::file(file.path())), provider());
        let clock = ManualClock::at("2030-01-01T00:00:00Z".parse().unwrap());
        let keys = Arc::new(MemoryKeyStore::new(provider()));
        let shared = Arc::new(clock.clone());
        let made = Hierarchy::create(Names::of("example.com"), Lifetimes::default(), keys, shared);
        let hierarchy = runtime.block_on(made).unwrap();
        runtime.block_on(hierarchy.create_org(&"acme".parse().unwrap())).unwrap();
        let ((ours, key), (other, other_key)) =
            (runtime.block_on(issued(&hierarchy, "i1")), runtime.block_on(issued(&hierarchy, "i2")));
        clock.advance(SignedDuration::from_hours(1));
        let (renewed, _) = runtime.block_on(issued(&hierarchy, "i1"));
        let trust = serde_json::to_string(&ours.trust).unwrap();
        let encoded = |text: &str| BASE64_STANDARD.encode(text);
        let genuine = vec![
            ("@CREDENTIAL@", encoded(&format!("{}{}", *ours.key, ours.chain))),
            ("@CHAIN-FIRST@", encoded(&format!("{}{}", ours.chain, *ours.key))),
            ("@KEY@", encoded(&ours.key)),
            ("@CHAIN@", encoded(&ours.chain)),
            ("@OTHER-KEY@", encoded(&format!("{}{}", *other.key, ours.chain))),
            ("@OTHER@", encoded(&format!("{}{}", *other.key, other.chain))),
            ("@TWO-KEYS@", encoded(&format!("{}{}{}", *ours.key, *other.key, ours.chain))),
            ("@TRUST@", encoded(&trust)),
            ("@TOKEN@", encoded(token().as_str())),
        ];
        let lines = |key: &SoftwareKey| key.to_pem().lines().nth(1).unwrap().to_owned();
        let secrets = vec![lines(&key), lines(&other_key)];
        World { runtime, store, object, renewed, genuine, secrets, _token: file }
    })
}

/// The Secret as the apiserver gives it; true if there is a credential in it.
pub(crate) fn credential_secret(data: &[u8]) -> bool {
    let world = world();
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let mut text = text.to_owned();
    for (name, value) in &world.genuine {
        text = text.replace(name, value);
    }
    // An apiserver answers with objects.
    let Ok(before @ Value::Object(_)) = serde_json::from_str::<Value>(&text) else { return false };
    *world.object.lock().unwrap() = text;
    let hidden = |shown: String| assert!(world.secrets.iter().all(|secret| !shown.contains(secret)), "{shown}");
    let loaded = world.runtime.block_on(world.store.load());
    let is_one = match &loaded {
        Ok(None) => false,
        Ok(Some(stored)) => {
            let credential = stored.credential(&provider()).expect("what is loaded is a credential");
            let key = SoftwareKey::from_pem(stored.key.as_bytes(), &provider()).unwrap();
            let signature = credential.sign(b"message").unwrap();
            assert!(PublicKey::from_spki(key.public().der()).unwrap().is_signed(b"message", &signature));
            hidden(format!("{stored:?}"));
            true
        }
        Err(error) => {
            hidden(format!("{error} {error:?}"));
            false
        }
    };
    match world.runtime.block_on(world.store.pending_key(&token())) {
        Ok(key) => hidden(format!("{:?}", key.map(|_| ()))),
        Err(error) => hidden(format!("{error} {error:?}")),
    }

    // What is written is whole, or nothing; whatever else is in the object stays there.
    let saved = world.runtime.block_on(world.store.save(&world.renewed));
    let after: Value = serde_json::from_str(&world.object.lock().unwrap()).unwrap();
    match saved {
        Ok(()) if after != before => {
            let ours = ["credential.pem", "trust.json"];
            for (key, value) in before["data"].as_object().into_iter().flatten() {
                assert!(ours.contains(&key.as_str()) || after["data"][key] == *value, "{key} has changed");
            }
            for (key, value) in before.as_object().into_iter().flatten() {
                assert!(key == "data" || after[key] == *value, "{key} has changed");
            }
            let again = world.runtime.block_on(world.store.load()).unwrap().unwrap();
            assert_eq!((&*again.key, &again.chain), (&*world.renewed.key, &world.renewed.chain));
        }
        Ok(()) => assert!(is_one, "only another's credential, or a newer one, stays"),
        Err(error) => {
            hidden(format!("{error} {error:?}"));
            assert_eq!(after, before, "not saved, and changed");
        }
    }
    is_one
}
