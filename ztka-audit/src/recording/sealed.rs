//! The file of a recording that waits to be brought away: a frame for each chunk, encrypted under a key of this server.
//!
//! ```text
//! file  = "ZTKAREC1" │ salt: 32 bytes │ frame, frame, …
//! frame = length of content: u32 LE │ CRC32C of length and content: u32 LE │ content
//! content = nonce: 12 random bytes │ chunk, AES-256-GCM: key by HMAC-SHA-256 of the server's key over the salt; id and number
//!           beside it
//! ```

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use bytes::Bytes;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hmac,
    rand::{SecureRandom as _, SystemRandom},
};
use ztka_core::AuditId;

use super::chunk::{Chunk, MAX_CHUNK, RecordingChain};
use crate::spool::{framed, unframed};

const MAGIC: &[u8; 8] = b"ZTKAREC1";
pub(super) const HEAD: usize = 8 + SALT;
const SALT: usize = 32;
const TAG: usize = 16;
/// What a sealed chunk is longer by.
const MORE: usize = NONCE_LEN + TAG;
/// Length and checksum of a frame.
const PREFIX: usize = 8;
const CONTEXT: &[u8] = b"ztka recording spool v1";

/// The key of a server, from which that of each recording is derived.
#[derive(Clone)]
pub(super) struct ServerKey(hmac::Key);

impl ServerKey {
    /// Reads the key in the file at `path`, or makes one that its owner alone can read.
    pub(super) fn load_or_create(path: &Path) -> io::Result<Self> {
        let mut key = [0; 32];
        match File::open(path) {
            Ok(file) => {
                let mut all = Vec::new();
                (&file).take(64).read_to_end(&mut all)?;
                let bytes = all.as_slice().try_into();
                key = bytes.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key has 32 bytes"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                SystemRandom::new().fill(&mut key).map_err(io::Error::other)?;
                let part = path.with_extension("part");
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&part)?;
                file.write_all(&key)?;
                file.sync_all()?;
                std::fs::rename(&part, path)?;
            }
            Err(error) => return Err(error),
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &key)))
    }

    fn of_recording(&self, salt: &[u8; SALT]) -> io::Result<LessSafeKey> {
        let mut derive = hmac::Context::with_key(&self.0);
        derive.update(CONTEXT);
        derive.update(salt);
        let key = UnboundKey::new(&AES_256_GCM, derive.sign().as_ref()).map_err(io::Error::other)?;
        Ok(LessSafeKey::new(key))
    }
}

/// Seals and opens the chunks of one recording.
pub(super) struct Sealer {
    key: LessSafeKey,
    id: AuditId,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Sealer {
    /// Of a new recording, with what its file begins with.
    pub(super) fn new(server: &ServerKey, id: AuditId) -> io::Result<(Self, Vec<u8>)> {
        let mut salt = [0; SALT];
        SystemRandom::new().fill(&mut salt).map_err(io::Error::other)?;
        let head = [&MAGIC[..], &salt].concat();
        Ok((Self { key: server.of_recording(&salt)?, id }, head))
    }

    /// Of the recording whose file begins with `head`.
    pub(super) fn of(server: &ServerKey, id: AuditId, head: &[u8]) -> io::Result<Self> {
        let salt = head.strip_prefix(MAGIC).and_then(|rest| rest.first_chunk::<SALT>());
        let salt = salt.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not the file of a recording"))?;
        Ok(Self { key: server.of_recording(salt)?, id })
    }

    fn aad(&self, number: u64) -> Aad<String> {
        Aad::from(format!("{}/{number}", self.id))
    }

    /// Appends the frame of a chunk.
    pub(super) fn seal(&self, chunk: &Chunk, out: &mut Vec<u8>) -> io::Result<()> {
        let mut content = chunk.encoded().to_vec();
        // Random, not the number: what takes the place of a chunk that a crash has cut short has the same one.
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(io::Error::other)?;
        let unique = Nonce::assume_unique_for_key(nonce);
        let tag = self.key.seal_in_place_separate_tag(unique, self.aad(chunk.number), &mut content);
        let tag = tag.map_err(io::Error::other)?;
        framed(out, |out| {
            out.extend_from_slice(&nonce);
            out.extend_from_slice(&content);
            out.extend_from_slice(tag.as_ref());
        });
        Ok(())
    }

    /// The chunk whose frame is at the start of `bytes`, and how long that is. `None` at what is not whole, or not of here.
    pub(super) fn open(&self, number: u64, bytes: &[u8]) -> Option<(Chunk, usize)> {
        let (content, rest) = unframed(bytes, ..=MAX_CHUNK + MORE)?;
        let (nonce, content) = content.split_first_chunk()?;
        let mut content = content.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, self.aad(number), &mut content).ok()?.len();
        content.truncate(length);
        let chunk = Chunk::decode(Bytes::from(content)).ok()?;
        (chunk.recording == self.id && chunk.number == number).then_some((chunk, bytes.len() - rest.len()))
    }
}

/// Reads the chunks of a file, one after the other.
#[derive(Debug)]
pub(super) struct ChunkReader {
    file: File,
    sealer: Sealer,
    chain: RecordingChain,
    /// Behind the last whole chunk.
    offset: u64,
}

impl ChunkReader {
    pub(super) fn open(server: &ServerKey, id: AuditId, path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head)?;
        let sealer = Sealer::of(server, id, &head)?;
        Ok(Self { file, sealer, chain: RecordingChain::start(), offset: HEAD as u64 })
    }

    pub(super) fn chain(&self) -> RecordingChain {
        self.chain
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn into_sealer(self) -> Sealer {
        self.sealer
    }

    /// The next chunk, if it is whole and fits to the one before.
    pub(super) fn next(&mut self) -> io::Result<Option<Chunk>> {
        use std::os::unix::fs::FileExt as _;
        let mut prefix = [0; PREFIX];
        let left = self.file.metadata()?.len().saturating_sub(self.offset);
        if left < PREFIX as u64 {
            return Ok(None);
        }
        self.file.read_exact_at(&mut prefix, self.offset)?;
        let length = prefix.first_chunk::<4>().map_or(0, |length| u32::from_le_bytes(*length)) as usize;
        let whole = PREFIX + length;
        if length > MAX_CHUNK + MORE || (whole as u64) > left {
            return Ok(None);
        }
        let mut frame = vec![0; whole];
        self.file.read_exact_at(&mut frame, self.offset)?;
        let Some((chunk, taken)) = self.sealer.open(self.chain.next, &frame) else { return Ok(None) };
        if !self.chain.takes(&chunk) {
            return Ok(None);
        }
        self.offset += taken as u64;
        Ok(Some(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_twice_has_two_nonces() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerKey::load_or_create(&dir.path().join("key")).unwrap();
        let id = AuditId::generate();
        let (sealer, _) = Sealer::new(&server, id).unwrap();
        let mut chain = RecordingChain::start();
        let [_, chunk] = ["begin\n", "go on\n"]
            .map(|lines| chain.cut(id, jiff::Timestamp::UNIX_EPOCH, None, None, lines.as_bytes()));
        let sealed = || {
            let mut out = Vec::new();
            sealer.seal(&chunk, &mut out).unwrap();
            out
        };
        let (one, two) = (sealed(), sealed());
        assert_ne!(one[PREFIX..PREFIX + NONCE_LEN], two[PREFIX..PREFIX + NONCE_LEN]);
        for frame in [&one, &two] {
            assert_eq!(sealer.open(chunk.number, frame).unwrap().0, chunk);
            assert!(sealer.open(chunk.number + 1, frame).is_none(), "it is in its own place alone");
        }
    }
}
