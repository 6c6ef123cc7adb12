//! Sealing under a data key, and blind indexes. Pure: bytes in, bytes out.

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

use super::master::MasterKeyError;
use crate::Failed;

/// Bytes of a key.
pub(super) const BYTES: usize = 32;
/// Form of what is sealed: this byte, the id of the data key (8 bytes), salt, nonce, AES-256-GCM ciphertext and tag. Form 1
/// is what a master key seals.
const FORM: u8 = 2;
const ID: usize = 8;
const SALT: usize = 12;
const TAG: usize = 16;
/// How much longer the sealed form is; `resources.rs` counts on it.
const OVERHEAD: usize = 1 + ID + SALT + NONCE_LEN + TAG;
/// Keeps what is authenticated and derived here apart from any other use.
const CONTEXT: &[u8] = b"ztka column v2";
/// What a blind index begins with: no name of ours does.
const BLIND: char = '~';
/// Bytes of a blind index: two of 2^32 values are the same with a probability of 2^-65.
const BLIND_BYTES: usize = 16;

/// A value's place in the database, which is authenticated with it: elsewhere it does not open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The organisation as the row says it; empty for the installation.
    pub(crate) org: &'a str,
    pub(crate) table: &'static str,
    pub(crate) column: &'static str,
    /// The key of the row in its table and organisation.
    pub(crate) row: &'a str,
}

impl Place<'_> {
    fn aad(&self) -> Vec<u8> {
        let parts = [self.org, self.table, self.column, self.row];
        let mut aad = Vec::with_capacity(CONTEXT.len() + parts.iter().map(|part| part.len() + 4).sum::<usize>());
        aad.extend_from_slice(CONTEXT);
        for part in parts {
            // With lengths, so that no two places are the same bytes.
            aad.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            aad.extend_from_slice(part.as_bytes());
        }
        aad
    }
}

/// A data key of an organisation. Its bytes are wiped when it is dropped.
pub(crate) struct DataKey {
    pub(crate) id: i64,
    bytes: Zeroizing<[u8; BYTES]>,
}

/// 32 random bytes.
pub(super) fn random_key() -> Result<Zeroizing<[u8; BYTES]>, MasterKeyError> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| MasterKeyError::Random)?;
    Ok(bytes)
}

impl DataKey {
    pub(super) fn new(id: i64, bytes: Zeroizing<[u8; BYTES]>) -> Self {
        Self { id, bytes }
    }

    /// The key of one message: SP 800-108r1, counter mode, HMAC-SHA-256, one block. With a key of its own for each salt a
    /// random nonce is safe however much a data key seals (SP 800-38D §8.3 allows 2^32 messages of one key), and no two
    /// controllers have to count together.
    fn of_message(&self, salt: &[u8]) -> Result<LessSafeKey, Failed> {
        let mut derive = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.bytes));
        for part in [&1u32.to_be_bytes()[..], CONTEXT, &[0], salt, &256u32.to_be_bytes()] {
            derive.update(part);
        }
        let key = UnboundKey::new(&AES_256_GCM, derive.sign().as_ref()).map_err(|_| Failed::Sealing)?;
        Ok(LessSafeKey::new(key))
    }

    pub(crate) fn seal(&self, place: Place<'_>, clear: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut random = [0; SALT + NONCE_LEN];
        SystemRandom::new().fill(&mut random).map_err(|_| Failed::Sealing)?;
        let (salt, nonce) = random.split_first_chunk::<SALT>().ok_or(Failed::Sealing)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Failed::Sealing)?;
        let mut sealed = Vec::with_capacity(clear.len() + OVERHEAD);
        sealed.push(FORM);
        sealed.extend_from_slice(&self.id.to_be_bytes());
        sealed.extend_from_slice(&random);
        let head = sealed.len();
        sealed.extend_from_slice(clear);
        let (_, body) = sealed.split_at_mut(head);
        let key = self.of_message(salt)?;
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(place.aad()), body).map_err(|_| Failed::Sealing)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    pub(crate) fn open(&self, place: Place<'_>, sealed: &[u8]) -> Result<Vec<u8>, Failed> {
        let wrong = || Failed::NotOpened(place.table, place.column);
        let rest = sealed.strip_prefix(&[FORM]).and_then(|rest| rest.strip_prefix(&self.id.to_be_bytes()));
        let (salt, rest) = rest.and_then(|rest| rest.split_first_chunk::<SALT>()).ok_or_else(wrong)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let mut content = rest.to_vec();
        let (key, nonce) = (self.of_message(salt)?, Nonce::assume_unique_for_key(*nonce));
        let opened = key.open_in_place(nonce, Aad::from(place.aad()), &mut content).map_err(|_| wrong())?;
        let length = opened.len();
        content.truncate(length);
        Ok(content)
    }
}

/// The id of the data key that something is sealed under; none if it is not of this form.
pub(crate) fn key_of(sealed: &[u8]) -> Option<i64> {
    sealed.strip_prefix(&[FORM])?.first_chunk::<ID>().map(|id| i64::from_be_bytes(*id))
}

/// The key of an organisation's blind indexes.
pub(crate) struct IndexKey(Zeroizing<[u8; BYTES]>);

impl IndexKey {
    pub(super) fn new(bytes: Zeroizing<[u8; BYTES]>) -> Self {
        Self(bytes)
    }

    /// What stands in a column for a value: equal values of a column are equal, and nothing else can be told.
    pub(crate) fn blind(&self, column: &str, value: &str) -> String {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &*self.0));
        mac.update(column.as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        let mac = mac.sign();
        let mut text = String::with_capacity(1 + 2 * BLIND_BYTES);
        text.push(BLIND);
        for byte in mac.as_ref().iter().take(BLIND_BYTES) {
            text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: i64, byte: u8) -> DataKey {
        DataKey::new(id, Zeroizing::new([byte; BYTES]))
    }

    const PLACE: Place<'_> = Place { org: "acme", table: "users", column: "name", row: "u1" };

    #[test]
    fn opens_in_its_place_only_and_under_its_key_only() {
        let sealed = key(5, 7).seal(PLACE, b"alice").unwrap();
        assert_eq!((sealed.len(), OVERHEAD), (5 + OVERHEAD, 49));
        assert_eq!(key_of(&sealed), Some(5));
        assert!(!sealed.windows(5).any(|part| part == b"alice"));
        assert_ne!(sealed, key(5, 7).seal(PLACE, b"alice").unwrap(), "salt and nonce are used once");
        assert_eq!(key(5, 7).open(PLACE, &sealed).unwrap(), b"alice");
        for elsewhere in [
            Place { org: "other", ..PLACE },
            Place { table: "roles", ..PLACE },
            Place { column: "body", ..PLACE },
            Place { row: "u2", ..PLACE },
            Place { org: "acmeu", table: "sers", ..PLACE },
        ] {
            assert!(key(5, 7).open(elsewhere, &sealed).is_err(), "{elsewhere:?}");
        }
        assert!(key(5, 8).open(PLACE, &sealed).is_err());
        assert!(key(6, 7).open(PLACE, &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(key(5, 7).open(PLACE, &sealed[..cut]).is_err());
            let mut bent = sealed.clone();
            bent[cut] ^= 1;
            assert!(key(5, 7).open(PLACE, &bent).is_err());
        }
    }

    #[test]
    fn keys_are_wiped_when_they_are_dropped() {
        fn is_wiped<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        is_wiped(&key(1, 1).bytes);
        is_wiped(&IndexKey::new(Zeroizing::new([1; BYTES])).0);
        is_wiped(&random_key().unwrap());
    }

    #[test]
    fn a_message_key_is_the_one_of_sp_800_108() {
        // By another program: HMAC-SHA256(07 * 32, 00000001 | "ztka column v2" | 00 | 01 * 12 | 00000100).
        let mut derive = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]));
        derive.update(b"\0\0\0\x01ztka column v2\0\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\0\0\x01\0");
        let expected = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, derive.sign().as_ref()).unwrap());
        let (mut one, mut two) = (*b"text", *b"text");
        let nonce = || Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let ours = key(1, 7).of_message(&[1; 12]).unwrap();
        let _tag = ours.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut one).unwrap();
        let _tag = expected.seal_in_place_separate_tag(nonce(), Aad::empty(), &mut two).unwrap();
        assert_eq!(one, two);
    }

    #[test]
    fn a_blind_index_is_of_a_column_and_a_key() {
        let key = |byte| IndexKey::new(Zeroizing::new([byte; BYTES]));
        let alice = key(1).blind("users.name", "alice");
        assert_eq!(alice, key(1).blind("users.name", "alice"));
        assert_eq!(alice.len(), 33);
        for other in [
            key(1).blind("users.name", "bob"),
            key(1).blind("events.user_name", "alice"),
            key(2).blind("users.name", "alice"),
        ] {
            assert_ne!(alice, other);
        }
        assert!(alice.parse::<ztka_core::UserName>().is_err(), "no user can be called so");
    }
}
