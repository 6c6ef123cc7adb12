//! The key of a backup: from a passphrase, or from a file.

use std::path::Path;

use argon2::{Algorithm, Argon2, Params, Version};
use ring::{
    aead::{AES_256_GCM, LessSafeKey, UnboundKey},
    digest, hkdf, hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;
use ztka_pki::file::read_private;

use super::BackupError;

/// How a backup begins; the last byte is its form.
const MAGIC: &[u8; 12] = b"ZTKA-BACKUP\x01";
const SALT: usize = 32;
/// Magic, kind of key, salt, and three numbers for Argon2: KiB, passes, lanes.
pub(super) const HEADER: usize = MAGIC.len() + 1 + SALT + 12;
/// Bytes of the code that shows whether a key is the right one.
pub(super) const TAG: usize = 32;
const BYTES: usize = 32;

/// RFC 9106, the second recommended choice: 64 MiB, three passes; one lane, since ours is one thread.
const COST: Cost = Cost { kib: 64 << 10, passes: 3, lanes: 1 };
/// What a header may ask for at most: who has made it may be anybody.
const MOST: Cost = Cost { kib: 1 << 20, passes: 16, lanes: 16 };

/// What opens a backup.
#[derive(Clone)]
pub enum BackupKey {
    /// A passphrase, made slow to guess by Argon2id.
    Passphrase(Zeroizing<Vec<u8>>),
    /// 256 random bits.
    Bytes(Zeroizing<[u8; BYTES]>),
}

#[derive(Clone, Copy)]
struct Cost {
    kib: u32,
    passes: u32,
    lanes: u32,
}

/// The keys of one backup. Its salt is random, so they are no other's.
pub(super) struct Keys {
    pub(super) stream: LessSafeKey,
    proof: hmac::Key,
}

impl BackupKey {
    /// The passphrase in a private file (0600), without the end of its line.
    ///
    /// # Errors
    /// [`BackupError::Key`]: it cannot be read, or is shorter than twelve bytes.
    pub fn passphrase_file(path: &Path) -> Result<Self, BackupError> {
        let content = read_private(path).map_err(|error| BackupError::Key(error.to_string()))?;
        let content = content.ok_or_else(|| BackupError::Key(format!("there is no file {}", path.display())))?;
        let length = content.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
        let passphrase = content.get(..length).unwrap_or_default();
        if passphrase.len() < 12 {
            return Err(BackupError::Key("the passphrase has to have twelve characters at least".into()));
        }
        Ok(Self::Passphrase(Zeroizing::new(passphrase.to_vec())))
    }

    /// The key in a private file (0600): 64 hexadecimal digits, as `openssl rand -hex 32` makes them.
    ///
    /// # Errors
    /// [`BackupError::Key`]: it cannot be read, or is something else.
    pub fn key_file(path: &Path) -> Result<Self, BackupError> {
        let content = read_private(path).map_err(|error| BackupError::Key(error.to_string()))?;
        let content = content.ok_or_else(|| BackupError::Key(format!("there is no file {}", path.display())))?;
        let wrong = || BackupError::Key(format!("{} does not hold 64 hexadecimal digits", path.display()));
        let digits = content.trim_ascii();
        if digits.len() != 2 * BYTES {
            return Err(wrong());
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let digit = |digit: Option<&u8>| digit.and_then(|digit| char::from(*digit).to_digit(16));
            let (high, low) = (digit(pair.first()).ok_or_else(wrong)?, digit(pair.last()).ok_or_else(wrong)?);
            *byte = u8::try_from(high * 16 + low).map_err(|_| wrong())?;
        }
        Ok(Self::Bytes(bytes))
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Passphrase(_) => 1,
            Self::Bytes(_) => 2,
        }
    }

    /// A header for a new backup, and its keys.
    pub(super) fn begin(&self) -> Result<([u8; HEADER], Keys), BackupError> {
        let mut salt = [0; SALT];
        let random = SystemRandom::new().fill(&mut salt);
        random.map_err(|_| BackupError::Key("the system gives no randomness".into()))?;
        let cost = match self {
            Self::Passphrase(_) => COST,
            Self::Bytes(_) => Cost { kib: 0, passes: 0, lanes: 0 },
        };
        let mut header = [0; HEADER];
        let parts: [&[u8]; 6] = [
            MAGIC,
            &[self.kind()],
            &salt,
            &cost.kib.to_le_bytes(),
            &cost.passes.to_le_bytes(),
            &cost.lanes.to_le_bytes(),
        ];
        for (place, byte) in header.iter_mut().zip(parts.concat()) {
            *place = byte;
        }
        let keys = self.keys(&header)?;
        Ok((header, keys))
    }

    /// The keys of the backup with this header.
    pub(super) fn keys(&self, header: &[u8; HEADER]) -> Result<Keys, BackupError> {
        let rest = header.strip_prefix(MAGIC).ok_or(BackupError::NotOne)?;
        let ([kind], rest) = rest.split_first_chunk::<1>().ok_or(BackupError::NotOne)?;
        let (salt, rest) = rest.split_first_chunk::<SALT>().ok_or(BackupError::NotOne)?;
        let mut numbers = rest.chunks_exact(4).map(|four| four.try_into().map_or(0, u32::from_le_bytes));
        let mut next = || numbers.next().unwrap_or_default();
        let cost = Cost { kib: next(), passes: next(), lanes: next() };
        if *kind != self.kind() {
            let other = if *kind == 1 { "a passphrase" } else { "a key file" };
            return Err(BackupError::Key(format!("the backup was made with {other}; give that")));
        }
        let mut secret = Zeroizing::new([0; BYTES]);
        match self {
            Self::Bytes(bytes) => secret.clone_from(bytes),
            Self::Passphrase(passphrase) => {
                if cost.kib > MOST.kib || cost.passes > MOST.passes || cost.lanes > MOST.lanes {
                    return Err(BackupError::Damaged("its header asks for more work than any that is made".into()));
                }
                let wrong = |_| BackupError::Damaged("its header makes no sense".into());
                let params = Params::new(cost.kib, cost.passes, cost.lanes, Some(BYTES)).map_err(wrong)?;
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
                argon2.hash_password_into(passphrase, salt, &mut *secret).map_err(wrong)?;
            }
        }
        let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(&*secret);
        // Whatever is changed in the header gives other keys.
        let header = digest::digest(&digest::SHA256, header);
        let derive = |purpose: &[u8]| {
            let mut key = Zeroizing::new([0; BYTES]);
            let info = [purpose, header.as_ref()];
            let filled = extracted.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut *key));
            filled.map(|()| key).map_err(|_| BackupError::Key("no key can be derived".into()))
        };
        let stream = derive(b"ztka backup stream v1")?;
        let stream = UnboundKey::new(&AES_256_GCM, &*stream).map_err(|_| BackupError::Key("no key".into()))?;
        let proof = hmac::Key::new(hmac::HMAC_SHA256, &*derive(b"ztka backup header v1")?);
        Ok(Keys { stream: LessSafeKey::new(stream), proof })
    }
}

impl Keys {
    /// Shows, behind the header, that these are the keys.
    pub(super) fn proof(&self, header: &[u8; HEADER]) -> [u8; TAG] {
        let mut proof = [0; TAG];
        for (place, byte) in proof.iter_mut().zip(hmac::sign(&self.proof, header).as_ref()) {
            *place = *byte;
        }
        proof
    }

    pub(super) fn check(&self, header: &[u8; HEADER], proof: &[u8; TAG]) -> Result<(), BackupError> {
        let checked = hmac::verify(&self.proof, header, proof);
        checked.map_err(|_| BackupError::Key("this is not the key of the backup, or its header is damaged".into()))
    }
}

impl std::fmt::Debug for BackupKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Passphrase(_) => "BackupKey::Passphrase",
            Self::Bytes(_) => "BackupKey::Bytes",
        })
    }
}
