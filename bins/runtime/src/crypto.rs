//! The crypto provider of the servers.

use rustls::{CipherSuite, crypto::CryptoProvider};

/// *ring*, offering AES-128-GCM before AES-256-GCM, as kubectl and the apiserver do: a key schedule by SHA-256, for which
/// processors have instructions, makes a handshake cheaper than one by SHA-384. Who wants the longer key offers it alone.
pub fn crypto() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    // Stable: of the others, and among them those of TLS 1.2, the order stays.
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_kubectls_and_nothing_is_left_out() {
        let names: Vec<_> = crypto().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert_eq!(
            names[..3],
            [
                CipherSuite::TLS13_AES_128_GCM_SHA256,
                CipherSuite::TLS13_AES_256_GCM_SHA384,
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
            ]
        );
        assert_eq!(names.len(), rustls::crypto::ring::default_provider().cipher_suites.len());
    }
}
