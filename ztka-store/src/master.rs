//! The master key, under which private keys are sealed before they are stored.

use std::{fmt, path::Path};

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;
use ztka_pki::file::{FileError, read_private, write_private_new};

/// Form of what is sealed: this byte, a random nonce, AES-256-GCM ciphertext and tag. The name is authenticated too.
const FORM: u8 = 1;
/// Keeps this use of the key apart from any other.
const CONTEXT: &[u8] = b"ztka private key v1\0";
/// Bytes of the key, which the file has in hexadecimal.
const BYTES: usize = 32;

/// A 256-bit key that never enters the store. Whoever has it and the database has every private key in it.
pub struct MasterKey(LessSafeKey);

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// It holds something else.
    #[error("the master key file holds something else than 64 hexadecimal digits; restore it from its backup")]
    Content,
    /// No randomness for a new one.
    #[error("no master key could be made: the system gives no randomness")]
    Random,
}

/// What is stored cannot be opened with this master key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a stored private key cannot be opened; check that the master key file is the one made with this database")]
pub struct NotOpened;

impl MasterKey {
    /// Reads the key at `path`, or makes one there, with mode 0600, if there is no file.
    ///
    /// # Errors
    /// [`MasterKeyError`]; a file that other users may read is refused.
    pub fn load_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let mut bytes = Zeroizing::new([0; BYTES]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| MasterKeyError::Random)?;
        let text: Zeroizing<String> = Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        match write_private_new(path, text.as_bytes()) {
            // Another process was first: its key counts.
            Err(error) if error.kind() == Some(std::io::ErrorKind::AlreadyExists) => {}
            written => written?,
        }
        Self::load(path)?.ok_or(MasterKeyError::Content)
    }

    fn load(path: &Path) -> Result<Option<Self>, MasterKeyError> {
        let Some(content) = read_private(path)? else { return Ok(None) };
        let text = std::str::from_utf8(&content).map_err(|_| MasterKeyError::Content)?.trim_end();
        let mut bytes = Zeroizing::new([0; BYTES]);
        if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(MasterKeyError::Content);
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * place..2 * place + 2).ok_or(MasterKeyError::Content)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| MasterKeyError::Content)?;
        }
        Self::new(&bytes).map(Some)
    }

    /// The key of these bytes.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn new(bytes: &[u8; BYTES]) -> Result<Self, MasterKeyError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| MasterKeyError::Content)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Seals `secret`, to be kept as `name`.
    pub(crate) fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        let mut nonce = [0; NONCE_LEN];
        // Random nonces are safe for 2^32 messages, and there are a few keys per organisation.
        SystemRandom::new().fill(&mut nonce).map_err(|_| MasterKeyError::Random)?;
        let mut sealed = secret.to_vec();
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        let done = self.0.seal_in_place_append_tag(nonce_of, Aad::from(aad(name)), &mut sealed);
        done.map_err(|_| MasterKeyError::Random)?;
        Ok([&[FORM][..], &nonce, &sealed].concat())
    }

    /// Opens what [`Self::seal`] made for the same name.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let rest = sealed.strip_prefix(&[FORM]).ok_or(NotOpened)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(NotOpened)?;
        let mut content = Zeroizing::new(rest.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(aad(name)), &mut content).map_err(|_| NotOpened)?;
        let length = opened.len();
        content.truncate(length);
        Ok(content)
    }
}

fn aad(name: &str) -> Vec<u8> {
    [CONTEXT, name.as_bytes()].concat()
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_only_what_was_sealed_with_this_key_for_this_name() {
        let key = MasterKey::new(&[7; 32]).unwrap();
        let sealed = key.seal("root", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed, key.seal("root", b"secret").unwrap(), "a nonce is used once");
        assert_eq!(key.open("root", &sealed).unwrap().as_slice(), b"secret");
        assert!(key.open("users", &sealed).is_err());
        assert!(MasterKey::new(&[8; 32]).unwrap().open("root", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(key.open("root", &sealed[..cut]).is_err());
        }
        let mut bent = sealed.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert!(key.open("root", &bent).is_err());
    }

    #[test]
    fn the_file_is_made_once_and_has_to_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        let sealed = MasterKey::load_or_create(&path).unwrap().seal("root", b"secret").unwrap();
        assert!(MasterKey::load_or_create(&path).unwrap().open("root", &sealed).is_ok());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            mode(0o644);
            assert!(matches!(MasterKey::load_or_create(&path), Err(MasterKeyError::File(_))));
            mode(0o600);
        }
        std::fs::write(&path, "hello").unwrap();
        assert!(matches!(MasterKey::load_or_create(&path), Err(MasterKeyError::Content)));
    }
}
