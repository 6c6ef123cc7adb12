//! The master key, which wraps the data keys and never enters the database.

use std::{fmt, path::Path};

use async_trait::async_trait;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;
use ztka_pki::file::{FileError, read_private, write_private_new};

/// Form of what is sealed: this byte, a random nonce, AES-256-GCM ciphertext and tag.
const FORM: u8 = 1;
/// Bytes of the key, which the file has in hexadecimal.
const BYTES: usize = 32;

/// A master key: it wraps keys and never comes near the database. The two here are a local one ([`MasterKey`]) and one in a
/// PKCS#11 token (`TokenKey`, feature `pkcs11`).
///
/// A master key wraps two keys for each organisation, and one more with each rotation: far from the 2^32 messages that
/// SP 800-38D §8.3 allows with random nonces.
#[async_trait]
pub trait KeyEncryption: Send + Sync + fmt::Debug + 'static {
    /// Says which key this is, and nothing of what it is; stored with what it wraps.
    fn id(&self) -> &str;

    /// Wraps a key; `context` is authenticated with it.
    ///
    /// # Errors
    /// The key cannot be used now.
    async fn wrap(&self, context: &[u8], key: &[u8]) -> Result<Vec<u8>, MasterKeyError>;

    /// Opens what [`Self::wrap`] made with the same context.
    ///
    /// # Errors
    /// It was wrapped by another key or for another context, or the key cannot be used now.
    async fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError>;
}

#[async_trait]
impl KeyEncryption for std::sync::Arc<dyn KeyEncryption> {
    fn id(&self) -> &str {
        (**self).id()
    }

    async fn wrap(&self, context: &[u8], key: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        (**self).wrap(context, key).await
    }

    async fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        (**self).unwrap(context, wrapped).await
    }
}

/// A 256-bit master key in memory, from a file or the environment. Its bytes are wiped when it is dropped.
pub struct MasterKey {
    bytes: Zeroizing<[u8; BYTES]>,
    id: String,
}

/// Why a master key cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no file.
    #[error(
        "there is no master key at {0}, and the database is encrypted; restore the file from its backup, a new key would \
         not open what is stored"
    )]
    Absent(std::path::PathBuf),
    /// It holds something else.
    #[error("the master key is something else than 64 hexadecimal digits; restore it from its backup")]
    Content,
    /// No randomness for a new one.
    #[error("no key could be made: the system gives no randomness")]
    Random,
    /// What is stored is under another one.
    #[error(transparent)]
    NotOpened(#[from] NotOpened),
    /// A data key is under a master key that is not configured.
    #[error("a data key is under the master key {0}, which is not configured; add it to the previous ones")]
    Unknown(String),
    /// It is elsewhere, and cannot be used now.
    #[error("the master key cannot be used now")]
    Unavailable(#[source] ztka_core::BoxError),
}

/// What is stored cannot be opened with this master key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("what is stored cannot be opened with this master key; check that it is the one made with this database")]
pub struct NotOpened;

impl MasterKey {
    /// Reads the key at `path`, or makes one there, with mode 0600, if there is no file.
    ///
    /// # Errors
    /// [`MasterKeyError`]; a file that other users may read is refused.
    pub fn load_or_create(path: &Path) -> Result<Self, MasterKeyError> {
        if let Some(key) = Self::read(path)? {
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
        Self::read(path)?.ok_or(MasterKeyError::Content)
    }

    /// Reads the key at `path`.
    ///
    /// # Errors
    /// [`MasterKeyError`]; [`MasterKeyError::Absent`] if there is no file.
    pub fn load(path: &Path) -> Result<Self, MasterKeyError> {
        Self::read(path)?.ok_or_else(|| MasterKeyError::Absent(path.into()))
    }

    fn read(path: &Path) -> Result<Option<Self>, MasterKeyError> {
        let Some(content) = read_private(path)? else { return Ok(None) };
        Self::parse(std::str::from_utf8(&content).map_err(|_| MasterKeyError::Content)?).map(Some)
    }

    /// The key of 64 hexadecimal digits, as a secret in the environment has them.
    ///
    /// # Errors
    /// [`MasterKeyError::Content`]
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let text = text.trim_end();
        let mut bytes = Zeroizing::new([0; BYTES]);
        if text.len() != 2 * BYTES || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(MasterKeyError::Content);
        }
        for (place, byte) in bytes.iter_mut().enumerate() {
            let digits = text.get(2 * place..2 * place + 2).ok_or(MasterKeyError::Content)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| MasterKeyError::Content)?;
        }
        Self::new(&bytes)
    }

    /// The key of these bytes.
    ///
    /// # Errors
    /// None in practice: every 32 bytes are a key.
    pub fn new(bytes: &[u8; BYTES]) -> Result<Self, MasterKeyError> {
        let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), b"ztka master key id v1");
        let id = mac.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { bytes: Zeroizing::new(*bytes), id })
    }

    fn key(&self) -> Result<LessSafeKey, MasterKeyError> {
        let key = UnboundKey::new(&AES_256_GCM, &*self.bytes).map_err(|_| MasterKeyError::Content)?;
        Ok(LessSafeKey::new(key))
    }
}

#[async_trait]
impl KeyEncryption for MasterKey {
    fn id(&self) -> &str {
        &self.id
    }

    async fn wrap(&self, context: &[u8], key: &[u8]) -> Result<Vec<u8>, MasterKeyError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| MasterKeyError::Random)?;
        let mut sealed = [&[FORM][..], &nonce, key].concat();
        let (_, body) = sealed.split_at_mut(1 + NONCE_LEN);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self.key()?.seal_in_place_separate_tag(nonce, Aad::from(context), body);
        sealed.extend_from_slice(tag.map_err(|_| MasterKeyError::Random)?.as_ref());
        Ok(sealed)
    }

    async fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, MasterKeyError> {
        let rest = wrapped.strip_prefix(&[FORM]).ok_or(NotOpened)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(NotOpened)?;
        let mut content = Zeroizing::new(rest.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key()?.open_in_place(nonce, Aad::from(context), &mut content).map_err(|_| NotOpened)?;
        let length = opened.len();
        content.truncate(length);
        Ok(content)
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn opens_only_what_was_wrapped_with_this_key_for_this_context() {
        let key = MasterKey::new(&[7; 32]).unwrap();
        let sealed = key.wrap(b"root", b"secret").await.unwrap();
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_ne!(sealed, key.wrap(b"root", b"secret").await.unwrap(), "a nonce is used once");
        assert_eq!(key.unwrap(b"root", &sealed).await.unwrap().as_slice(), b"secret");
        assert!(key.unwrap(b"users", &sealed).await.is_err());
        let other = MasterKey::new(&[8; 32]).unwrap();
        assert!(other.unwrap(b"root", &sealed).await.is_err());
        assert_ne!(other.id(), key.id());
        for cut in 0..sealed.len() {
            assert!(key.unwrap(b"root", &sealed[..cut]).await.is_err());
        }
        let mut bent = sealed.clone();
        *bent.last_mut().unwrap() ^= 1;
        assert!(key.unwrap(b"root", &bent).await.is_err());
    }

    #[tokio::test]
    async fn the_file_is_made_once_and_has_to_be_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.key");
        assert!(matches!(MasterKey::load(&path), Err(MasterKeyError::Absent(_))));
        let sealed = MasterKey::load_or_create(&path).unwrap().wrap(b"root", b"secret").await.unwrap();
        assert!(MasterKey::load_or_create(&path).unwrap().unwrap(b"root", &sealed).await.is_ok());
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(MasterKey::parse(&text).unwrap().unwrap(b"root", &sealed).await.is_ok());
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
