//! A crypto provider with post-quantum key exchange.

use std::sync::Arc;

use rustls::crypto::{
    CryptoProvider,
    aws_lc_rs::{self, kx_group::X25519MLKEM768},
};

/// AWS-LC as the crypto provider of every configuration here, with the hybrid key exchange X25519MLKEM768
/// (draft-ietf-tls-ecdhe-mlkem) before all others: what is recorded today is not read by a quantum computer of tomorrow.
///
/// Whoever does not know it shakes hands by X25519 or a NIST curve as before.
pub fn aws_lc() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups.retain(|group| group.name() != X25519MLKEM768.name());
    provider.kx_groups.insert(0, X25519MLKEM768);
    Arc::new(provider)
}
