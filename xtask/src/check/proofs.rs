//! Proofs (`Type::assertion(…)`): each may be made in one place of production code.

use anyhow::Result;

use super::{source, text};
use crate::workspace::Member;

/// A proof's type and the one file that makes it. `Verified` is a proof per type of what was verified.
const ALLOWED: &[(&str, &str)] = &[
    ("Authenticated", "ztka-pki/src/authenticate.rs"),
    ("Recorded", "ztka-audit/src/layer.rs"),
    ("Permitted", "ztka-authz/src/layer.rs"),
    // A signed document, whose signature was checked.
    ("Verified", "ztka-core/src/document.rs"),
    // A peer, whose chain was checked.
    ("Verified", "ztka-pki/src/peer.rs"),
    // A principal, read from chain and session document: once by the proxy, once more by the agent.
    ("Verified", "ztka-proxy/src/directory.rs"),
    ("Verified", "ztka-agent/src/evidence.rs"),
    // A proxy's id, read from a verified peer, for the agent's end of a tunnel.
    ("Verified", "ztka-pki/src/peer/as_proxy.rs"),
    // A caller's id, read from a verified peer, for the record of a refusal.
    ("Verified", "ztka-pki/src/peer/as_caller.rs"),
    // rustls's own proofs: our verifiers of certificates.
    ("ClientCertVerified", "ztka-pki/src/tls/verifier.rs"),
    ("ServerCertVerified", "ztka-pki/src/tls/verifier.rs"),
    ("ServerCertVerified", "ztka-pki/src/tls/pin.rs"),
];

pub(crate) fn check(members: &[Member]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    let mut made = vec![0_usize; ALLOWED.len()];
    for file in text::shipped(members)? {
        let code = source::production(&text::read(&file)?);
        for (number, line) in code.lines().enumerate() {
            for proof in proofs(line) {
                match ALLOWED.iter().position(|allowed| *allowed == (proof, file.as_str())) {
                    Some(at) => made.iter_mut().skip(at).take(1).for_each(|count| *count += 1),
                    None => broken.push(format!("{file}:{}: {proof}::assertion has no business here", number + 1)),
                }
            }
        }
    }
    for ((proof, file), count) in ALLOWED.iter().zip(made) {
        match count {
            1 => {}
            0 => broken.push(format!("{file} does not make {proof} any more: correct xtask/src/check/proofs.rs")),
            _ => broken.push(format!("{file} makes {proof} in {count} places")),
        }
    }
    Ok(broken)
}

/// The types whose `assertion` is called, or named, on a line of code.
fn proofs(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("::assertion").filter_map(move |(at, _)| {
        let before = line.get(..at)?;
        // `Verified::<T>::assertion` is a call of Verified's.
        let before = if before.ends_with('>') { before.get(..before.rfind("::<")?)? } else { before };
        let start = before.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |at| at + 1);
        before.get(start..)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_found_by_type() {
        let line = "let a = Recorded::assertion(x, core::Verified::assertion(y)); b.map(Verified::<Peer>::assertion)";
        assert_eq!(proofs(line).collect::<Vec<_>>(), ["Recorded", "Verified", "Verified"]);
    }

    #[test]
    fn other_words_are_no_proofs() {
        assert_eq!(proofs("pub fn assertion(checked: T) -> Self { assertion(1) }").count(), 0);
    }
}
