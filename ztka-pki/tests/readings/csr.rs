//! A CSR that is accepted is one of RFC 2986, signed by the key in it: read once more, byte by byte, and by `ring` itself.

use ring::signature;
use sha2::{Digest as _, Sha256};
use x509_cert::der::pem::{LineEnding, encode_string};
use ztka_pki::{CsrError, SoftwareKey, ValidCsr};

use super::world;

/// The first byte says what the rest is: a request in DER, one in PEM, or what a request says, to be signed with a key
/// that we hold. True if it is accepted.
pub(crate) fn csr(data: &[u8]) -> bool {
    match data.split_first() {
        Some((b'd', der)) => judge(der, ValidCsr::from_der(der)),
        Some((b'p', pem)) => {
            let read = ValidCsr::from_pem(world().fill(&String::from_utf8_lossy(pem), false).as_bytes());
            read.is_ok_and(|csr| {
                assert_eq!(csr.key().id().0, hex(&Sha256::digest(csr.key().der())));
                true
            })
        }
        Some((b's', info)) => {
            let key = &world().key;
            let der = signed(info, key);
            let read = ValidCsr::from_der(&der);
            if let Ok(csr) = &read {
                assert_eq!(csr.key(), key.public(), "a key is certified that has signed nothing");
            }
            judge(&der, read)
        }
        // The same about our own key: the input is subject and attributes.
        Some((b'o', rest)) => {
            let split = rest.iter().position(|byte| *byte == b'|').unwrap_or(rest.len());
            let (subject, attributes) = (&rest[..split], rest.get(split + 1..).unwrap_or_default());
            let key = &world().key;
            let info = [&[2, 1, 0], subject, key.public().der(), attributes].concat();
            let der = signed(&tlv(0x30, &info), key);
            judge(&der, ValidCsr::from_der(&der))
        }
        _ => false,
    }
}

/// ecdsa-with-SHA256
const ECDSA_SHA256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];

fn signed(info: &[u8], key: &SoftwareKey) -> Vec<u8> {
    let signature = super::world().runtime.block_on(ztka_pki::Signer::sign(key, info)).unwrap();
    let signature = tlv(3, &[&[0], signature.as_slice()].concat());
    tlv(0x30, &[info, &tlv(0x30, ECDSA_SHA256), &signature].concat())
}

fn judge(der: &[u8], read: Result<ValidCsr, CsrError>) -> bool {
    let Ok(csr) = read else { return false };
    assert!(der.len() <= 16 * 1024);
    let parts = parts(der).expect("accepted, and no request of RFC 2986");
    assert_eq!(csr.key().der(), parts.spki, "another key than the one in the request");
    assert_eq!(csr.key().id().0, hex(&Sha256::digest(parts.spki)));
    assert!(parts.is_signed(), "nobody has signed this");
    let pem = encode_string("CERTIFICATE REQUEST", LineEnding::LF, der).unwrap();
    assert_eq!(ValidCsr::from_pem(pem.as_bytes()).unwrap().key(), csr.key());
    // One encoding: nothing can be put behind it or taken off.
    assert!(ValidCsr::from_der(&[der, &[0]].concat()).is_err() && ValidCsr::from_der(&der[..der.len() - 1]).is_err());
    true
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One element of DER.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let head = match length {
        0..0x80 => vec![tag, length as u8],
        0x80..0x100 => vec![tag, 0x81, length as u8],
        _ => vec![tag, 0x82, (length >> 8) as u8, length as u8],
    };
    [&head, content].concat()
}

struct Parts<'a> {
    info: &'a [u8],
    spki: &'a [u8],
    key: &'a [u8],
    key_algorithm: &'a [u8],
    algorithm: &'a [u8],
    signature: &'a [u8],
}

fn parts(der: &[u8]) -> Option<Parts<'_>> {
    let mut all = der;
    let (_, mut request) = element(&mut all, 0x30)?;
    let (info, mut inside) = element(&mut request, 0x30)?;
    let (_, algorithm) = element(&mut request, 0x30)?;
    let (_, signature) = element(&mut request, 3)?;
    if !all.is_empty() || !request.is_empty() || element(&mut inside, 2)?.1 != [0] {
        return None;
    }
    element(&mut inside, 0x30)?;
    let (spki, mut key_parts) = element(&mut inside, 0x30)?;
    element(&mut inside, 0xa0)?;
    let (_, key_algorithm) = element(&mut key_parts, 0x30)?;
    let (_, key) = element(&mut key_parts, 3)?;
    let (key, signature) = (key.strip_prefix(&[0])?, signature.strip_prefix(&[0])?);
    (inside.is_empty() && key_parts.is_empty()).then_some(Parts {
        info,
        spki,
        key,
        key_algorithm,
        algorithm,
        signature,
    })
}

/// The element with this tag at the start of `bytes`, with and without its head; its length in the shortest form.
fn element<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<(&'a [u8], &'a [u8])> {
    let whole = *bytes;
    let (found, rest) = whole.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, head) = match first {
        0..=0x7f => (usize::from(*first), 2),
        0x81 => (usize::from(*rest.first()?), 3),
        0x82 => (usize::from(*rest.first()?) << 8 | usize::from(*rest.get(1)?), 4),
        _ => return None,
    };
    let shortest = match length {
        0..0x80 => 2,
        0x80..0x100 => 3,
        _ => 4,
    };
    if *found != tag || head != shortest {
        return None;
    }
    let (element, after) = whole.split_at_checked(head + length)?;
    *bytes = after;
    Some((element, &element[head..]))
}

impl Parts<'_> {
    fn is_signed(&self) -> bool {
        let is = |oid: &[u8]| self.algorithm.starts_with(oid);
        let curve = |oid: &[u8]| self.key_algorithm.ends_with(oid);
        let (p256, p384) = (curve(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7]), curve(&[0x2b, 0x81, 4, 0, 0x22]));
        let ecdsa = |last: u8| is(&[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, last]);
        let rsa = |last: u8| is(&[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, last]);
        let algorithm: &dyn signature::VerificationAlgorithm = match () {
            () if p256 && ecdsa(2) => &signature::ECDSA_P256_SHA256_ASN1,
            () if p256 && ecdsa(3) => &signature::ECDSA_P256_SHA384_ASN1,
            () if p384 && ecdsa(2) => &signature::ECDSA_P384_SHA256_ASN1,
            () if p384 && ecdsa(3) => &signature::ECDSA_P384_SHA384_ASN1,
            () if is(&[6, 3, 0x2b, 0x65, 0x70]) => &signature::ED25519,
            () if rsa(11) => &signature::RSA_PKCS1_2048_8192_SHA256,
            () if rsa(12) => &signature::RSA_PKCS1_2048_8192_SHA384,
            () if rsa(13) => &signature::RSA_PKCS1_2048_8192_SHA512,
            () => return false,
        };
        signature::UnparsedPublicKey::new(algorithm, self.key).verify(self.info, self.signature).is_ok()
    }
}
