//! Exports and proofs of the transparency log, as an auditor is given them.

use std::ops::Range;

use sha2::{Digest as _, Sha256};
use ztka_audit::{
    Hash,
    log::{LogProof, SignedHead, TreeHead, export},
};
use ztka_core::BoxError;

/// The signature that is believed here.
fn believed(signed: &SignedHead) -> Result<TreeHead, BoxError> {
    signed.certificates()?;
    Ok(signed.verified(|key, _, signature| key.0 == "k" && signature == b"fuzz")?)
}

/// RFC 9162 §2.1.1 as it is written down.
fn root(leaves: &[Hash]) -> Hash {
    let digest = |parts: &[&[u8]]| Hash::from(<[u8; 32]>::from(Sha256::digest(parts.concat())));
    match leaves {
        [] => digest(&[]),
        [leaf] => *leaf,
        _ => {
            let middle = leaves.len().next_power_of_two() / 2;
            let (left, right) = (root(&leaves[..middle]), root(&leaves[middle..]));
            digest(&[&[1], left.as_bytes(), right.as_bytes()])
        }
    }
}

/// The hashes of the leaves that are in a file, by a reader that knows JSON and nothing else.
fn leaves(text: &str) -> Vec<(u64, Option<Hash>)> {
    let mut found = Vec::new();
    for line in text.lines().skip(1) {
        let value: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let Some(leaf) = value["leaf"].as_u64() else { continue };
        let entry = line.split_once("\"entry\":").map(|(_, rest)| &rest[..rest.len() - 1]);
        let salt = line.split_once("\"salt\":\"").map(|(_, rest)| &rest[..32]);
        let hash = entry.zip(salt).map(|(entry, salt)| {
            let salt: Vec<u8> = (0..16).map(|at| u8::from_str_radix(&salt[2 * at..2 * at + 2], 16).unwrap()).collect();
            Hash::from(<[u8; 32]>::from(Sha256::digest([&[0], salt.as_slice(), entry.as_bytes()].concat())))
        });
        found.push((leaf, hash));
    }
    found
}

fn export(data: &[u8]) -> bool {
    let report = match export::verify(data, believed, &[]) {
        Ok(report) => report,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let Range { start, end } = report.leaves;
    assert!(start <= end && end <= report.head.size);
    assert!(report.events + report.covered <= end - start, "{report:?}");
    assert!(report.faults.len() as u64 <= report.found && report.faults.len() <= 1000);
    for fault in &report.faults {
        let told = fault.to_string();
        assert!(
            told.starts_with(|c: char| c.is_ascii_lowercase()) && !told.contains(|c: char| c.is_control()),
            "{told}"
        );
    }
    if report.is_sound() {
        let text = str::from_utf8(data).unwrap_or_default();
        let leaves = leaves(text);
        // An entry may be no JSON at all, if the log has it so.
        if leaves.len() as u64 == end - start {
            assert!(leaves.iter().map(|(leaf, _)| *leaf).eq(start..end));
            let hashes: Option<Vec<_>> = leaves.into_iter().map(|(_, hash)| hash).collect();
            if let Some(hashes) = hashes.filter(|hashes| hashes.len() as u64 == report.head.size) {
                assert_eq!(root(&hashes), report.head.root);
            }
        }
    }
    report.is_sound() && report.events > 0
}

fn proof(data: &[u8]) -> bool {
    let Ok(proof) = serde_json::from_slice::<LogProof>(data) else { return false };
    let Ok(head) = believed(&proof.head) else { return false };
    let mut proven = false;
    for event in &proof.events {
        if event.check(&head).is_ok() {
            proven = true;
            assert!(event.proof.leaf < head.size && event.proof.path.len() <= 64);
            let mut other = event.clone();
            other.entry.push(' ');
            assert!(other.check(&head).is_err());
        }
    }
    proven
}

/// `e` and an export, or `p` and a proof; true if it is sound.
pub(crate) fn audit_export(data: &[u8]) -> bool {
    match data.split_first() {
        Some((b'e', data)) => export(data),
        Some((b'p', data)) => proof(data),
        _ => false,
    }
}
