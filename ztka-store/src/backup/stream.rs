//! Encryption of a stream of any length in chunks, none of which can be left out, moved or put at the end.
//!
//! This is the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015), as age has it: AES-256-GCM for each chunk of
//! 64 KiB, the nonce its number and whether it is the last.

use ring::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::{
    BackupError,
    key::{BackupKey, HEADER, Keys, TAG},
};

/// Plain bytes of every chunk but the last.
const CHUNK: usize = 64 << 10;

fn nonce(number: u64, last: bool) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    let (_, end) = nonce.split_at_mut(NONCE_LEN - 9);
    for (place, byte) in end.iter_mut().zip(number.to_be_bytes().into_iter().chain([u8::from(last)])) {
        *place = byte;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts what is written.
pub(super) struct Sealer<W> {
    out: W,
    keys: Keys,
    number: u64,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Sealer<W> {
    /// Begins a backup.
    pub(super) async fn begin(mut out: W, key: &BackupKey) -> Result<Self, BackupError> {
        let (header, keys) = key.begin()?;
        out.write_all(&header).await.map_err(BackupError::Write)?;
        out.write_all(&keys.proof(&header)).await.map_err(BackupError::Write)?;
        Ok(Self { out, keys, number: 0, buffer: Vec::with_capacity(CHUNK + AES_256_GCM.tag_len()) })
    }

    pub(super) async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            // A full chunk is written when more comes: the last one may be full.
            if self.buffer.len() == CHUNK {
                self.chunk(false).await?;
            }
            let room = (CHUNK - self.buffer.len()).min(bytes.len());
            let (now, later) = bytes.split_at(room);
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Writes the end, without which it is no backup.
    pub(super) async fn finish(mut self) -> Result<W, BackupError> {
        self.chunk(true).await?;
        self.out.flush().await.map_err(BackupError::Write)?;
        Ok(self.out)
    }

    async fn chunk(&mut self, last: bool) -> Result<(), BackupError> {
        let nonce = nonce(self.number, last);
        let sealed = self.keys.stream.seal_in_place_append_tag(nonce, Aad::empty(), &mut self.buffer);
        sealed.map_err(|_| BackupError::Key("a chunk cannot be encrypted".into()))?;
        self.out.write_all(&self.buffer).await.map_err(BackupError::Write)?;
        self.buffer.clear();
        self.number += 1;
        Ok(())
    }
}

/// Decrypts what is read; gives out nothing that was not authenticated.
pub(super) struct Opener<R> {
    input: R,
    keys: Keys,
    number: u64,
    chunk: Vec<u8>,
    place: usize,
    /// The first byte of the next chunk, by which this one is known not to be the last.
    ahead: Option<u8>,
    last: bool,
}

impl<R: AsyncRead + Unpin> Opener<R> {
    /// Reads the header and checks the key.
    pub(super) async fn begin(mut input: R, key: &BackupKey) -> Result<Self, BackupError> {
        let (mut header, mut proof) = ([0; HEADER], [0; TAG]);
        let short = |_| BackupError::NotOne;
        input.read_exact(&mut header).await.map_err(short)?;
        input.read_exact(&mut proof).await.map_err(short)?;
        let keys = key.keys(&header)?;
        keys.check(&header, &proof)?;
        Ok(Self { input, keys, number: 0, chunk: Vec::new(), place: 0, ahead: None, last: false })
    }

    /// Fills `bytes`.
    pub(super) async fn read(&mut self, mut bytes: &mut [u8]) -> Result<(), BackupError> {
        while !bytes.is_empty() {
            if self.place == self.chunk.len() {
                self.next().await?;
            }
            let there = self.chunk.get(self.place..).unwrap_or_default();
            let count = there.len().min(bytes.len());
            let (now, later) = bytes.split_at_mut(count);
            now.copy_from_slice(there.get(..count).unwrap_or_default());
            self.place += count;
            bytes = later;
        }
        Ok(())
    }

    /// Nothing may be left.
    pub(super) async fn end(mut self) -> Result<(), BackupError> {
        let behind = || BackupError::Damaged("something stands behind its end".into());
        if self.place < self.chunk.len() {
            return Err(behind());
        }
        if self.last && self.number > 0 {
            return Ok(());
        }
        // An empty chunk may end it.
        self.next().await?;
        if self.last && self.chunk.is_empty() { Ok(()) } else { Err(behind()) }
    }

    async fn next(&mut self) -> Result<(), BackupError> {
        if self.last {
            return Err(BackupError::Truncated);
        }
        let whole = u64::try_from(CHUNK + AES_256_GCM.tag_len() + 1).unwrap_or(u64::MAX);
        self.chunk.clear();
        self.chunk.extend(self.ahead.take());
        let mut some = (&mut self.input).take(whole - u64::try_from(self.chunk.len()).unwrap_or(0));
        some.read_to_end(&mut self.chunk).await.map_err(BackupError::Read)?;
        if self.chunk.len() == CHUNK + AES_256_GCM.tag_len() + 1 {
            self.ahead = self.chunk.pop();
        }
        // Without a byte behind it, it has to be the last; a file that was cut between two chunks shows here.
        self.last = self.ahead.is_none();
        let nonce = nonce(self.number, self.last);
        let length = match self.keys.stream.open_in_place(nonce, Aad::empty(), &mut self.chunk) {
            Ok(plain) => plain.len(),
            Err(_) if self.last => return Err(BackupError::Truncated),
            Err(_) => return Err(BackupError::Damaged(format!("its part {} was changed", self.number))),
        };
        self.chunk.truncate(length);
        self.place = 0;
        self.number += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn key(byte: u8) -> BackupKey {
        BackupKey::Bytes(Zeroizing::new([byte; 32]))
    }

    async fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut sealer = Sealer::begin(Vec::new(), &key(1)).await.unwrap();
        sealer.write(bytes).await.unwrap();
        sealer.finish().await.unwrap()
    }

    async fn opened(mut sealed: &[u8], length: usize) -> Result<Vec<u8>, BackupError> {
        let mut opener = Opener::begin(&mut sealed, &key(1)).await?;
        let mut bytes = vec![0; length];
        opener.read(&mut bytes).await?;
        opener.end().await?;
        Ok(bytes)
    }

    #[tokio::test]
    async fn any_length_comes_back_and_says_nothing() {
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
            let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let sealed = sealed(&bytes).await;
            assert!(!sealed.windows(8).any(|some| some == [0, 1, 2, 3, 4, 5, 6, 7]));
            assert_eq!(opened(&sealed, length).await.unwrap(), bytes, "{length}");
        }
    }

    #[tokio::test]
    async fn nothing_can_be_cut_changed_moved_or_added() {
        let length = 3 * CHUNK;
        let sealed = sealed(&vec![7; length]).await;
        let whole = CHUNK + 16;
        for cut in [0, 10, HEADER + TAG, HEADER + TAG + 5, HEADER + TAG + whole, sealed.len() - whole, sealed.len() - 1]
        {
            assert!(opened(&sealed[..cut], length).await.is_err(), "cut at {cut}");
        }
        for at in [3, MAGIC_END, HEADER + 2, HEADER + TAG, HEADER + TAG + whole + 9, sealed.len() - 1] {
            let mut bent = sealed.clone();
            bent[at] ^= 1;
            assert!(opened(&bent, length).await.is_err(), "changed at {at}");
        }
        let (first, second) = (HEADER + TAG, HEADER + TAG + whole);
        let swapped =
            [&sealed[..first], &sealed[second..second + whole], &sealed[first..second], &sealed[second + whole..]];
        assert!(matches!(opened(&swapped.concat(), length).await, Err(BackupError::Damaged(_))));
        let more = [&sealed[..], b"more"].concat();
        assert!(opened(&more, length).await.is_err());
        let other = Opener::begin(&sealed[..], &key(2)).await.err().unwrap();
        assert!(matches!(other, BackupError::Key(_)), "{other}");
    }

    const MAGIC_END: usize = 13;

    #[tokio::test]
    async fn a_passphrase_opens_what_it_has_sealed_and_no_other_does() {
        let passphrase = |text: &str| BackupKey::Passphrase(Zeroizing::new(text.as_bytes().to_vec()));
        let sealer = Sealer::begin(Vec::new(), &passphrase("correct horse battery")).await.unwrap();
        let sealed = sealer.finish().await.unwrap();
        assert!(Opener::begin(&sealed[..], &passphrase("correct horse battery")).await.is_ok());
        let wrong = Opener::begin(&sealed[..], &passphrase("correct horse batterie")).await.err().unwrap();
        assert!(wrong.to_string().contains("not the key"), "{wrong}");
        let file = Opener::begin(&sealed[..], &key(1)).await.err().unwrap();
        assert!(file.to_string().contains("made with a passphrase"), "{file}");
        // Who has made the file does not make us work for hours.
        let mut greedy = sealed.clone();
        greedy[12 + 1 + 32 + 3] = 0xff;
        let greedy = Opener::begin(&greedy[..], &passphrase("correct horse battery")).await.err().unwrap();
        assert!(greedy.to_string().contains("more work"), "{greedy}");
    }
}
