//! What must hold for any bytes of somebody who wants a certificate, or shows one: shared by the replay of corpora and
//! the fuzz targets.
//!
//! A fuzzer does not guess signatures, so inputs may name what is genuine: `@TOKEN@`, `@CSR@`, `@KEY@`, `@CHAIN@`,
//! `@TRUST@`, `@ID@`, and `@OTHER-…@` for somebody else's.

#![allow(dead_code, reason = "each test binary and fuzz target uses its part")]

pub(crate) mod authority;
pub(crate) mod csr;
pub(crate) mod key;
pub(crate) mod peer;
pub(crate) mod stored;
#[path = "../support/mod.rs"]
mod support;
pub(crate) mod token;
pub(crate) mod wire;

use std::sync::{Arc, OnceLock};

use jiff::SignedDuration;
use support::{Installation, id, now, provider};
use tokio::runtime::Runtime;
use ztka_core::Verified;
use ztka_pki::{Enrollee, EnrolmentToken, Peer, Purpose, SoftwareKey, TokenRecord};

/// An installation, made once, with the proxies `p1` (ours) and `p2` (somebody else).
pub(crate) struct World {
    runtime: Runtime,
    at: Installation,
    token: (EnrolmentToken, TokenRecord),
    key: Arc<SoftwareKey>,
    chain: String,
    peer: Verified<Peer>,
    /// Texts that inputs may name.
    genuine: Vec<(&'static str, String)>,
}

pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let at = runtime.block_on(Installation::new());
        let enrollee = Enrollee::Proxy { proxy: id("p1") };
        let token =
            EnrolmentToken::generate(enrollee, at.hierarchy.pin(), now(), SignedDuration::from_hours(1)).unwrap();
        let issue = |key: &SoftwareKey, name: &str| {
            let csr = ztka_pki::ValidCsr::from_der(&key.csr().unwrap()).unwrap();
            runtime.block_on(at.hierarchy.issue_proxy(&csr, &id(name))).unwrap()
        };
        let (ours, theirs) = (support::key(), support::key());
        let (issued, others) = (issue(&ours, "p1"), issue(&theirs, "p2"));
        let peer = at.trust.verify(Purpose::Proxies, issued.chain()).unwrap();
        let chain = issued.pem();
        let genuine = vec![
            ("@TOKEN@", token.0.to_text().to_string()),
            ("@CSR@", ours.csr_pem().unwrap()),
            ("@KEY@", ours.to_pem().to_string()),
            ("@CHAIN@", chain.clone()),
            ("@TRUST@", serde_json::to_string(&at.hierarchy.trust_bundle()).unwrap()),
            ("@ID@", peer.id.to_string()),
            ("@OTHER-CSR@", theirs.csr_pem().unwrap()),
            ("@OTHER-KEY@", theirs.to_pem().to_string()),
            ("@OTHER-CHAIN@", others.pem()),
            ("@OTHER-ID@", "spiffe://example.com/proxy/p2".to_owned()),
        ];
        World { runtime, at, token, key: Arc::new(ours), chain, peer, genuine }
    })
}

impl World {
    /// `text` with what it names put in, as it stands inside of JSON strings if `json`.
    pub(crate) fn fill(&self, text: &str, json: bool) -> String {
        let mut filled = text.to_owned();
        for (name, genuine) in &self.genuine {
            // A bundle is JSON itself.
            let value = if json && *name != "@TRUST@" { genuine.replace('\n', "\\n") } else { genuine.clone() };
            filled = filled.replace(name, &value);
        }
        filled
    }

    /// What nobody may be shown.
    fn secrets(&self) -> [String; 2] {
        let token = self.token.0.to_text();
        let secret = token.split('.').nth(2).unwrap().to_owned();
        [secret, self.key.to_pem().lines().nth(1).unwrap().to_owned()]
    }
}
