//! A file to which every head is appended once, of all organisations, one to a line.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader},
};
use ztka_audit::log::SignedHead;
use ztka_controller::Controller;

use super::{Published, news};

/// The file, and what is in it.
#[derive(Debug)]
pub(crate) struct HeadFile {
    path: PathBuf,
    published: Published,
}

impl HeadFile {
    /// Goes on with a file, or makes it. A line that a power cut has cut off is ended, and its head written again.
    pub(crate) async fn open(path: &Path) -> anyhow::Result<Self> {
        let unreadable = || format!("{} cannot be read", path.display());
        let mut published = Published::new();
        match File::open(path).await {
            Ok(file) => {
                let mut lines = BufReader::new(file).split(b'\n');
                while let Some(line) = lines.next_segment().await.with_context(unreadable)? {
                    let head = serde_json::from_slice::<SignedHead>(&line).ok().and_then(|head| head.claimed().ok());
                    if let Some(head) = head {
                        let size = published.entry(head.org).or_insert(0);
                        *size = head.size.max(*size);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(unreadable),
        }
        let end: &[u8] = if ends_a_line(path).await.with_context(unreadable)? { b"" } else { b"\n" };
        append(path, end).await.with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(Self { path: path.to_owned(), published })
    }

    /// Appends the heads that are not there yet; tells how many.
    pub(crate) async fn publish(&mut self, controller: &Controller) -> anyhow::Result<usize> {
        let news = news(controller, &self.published).await?;
        let mut lines = Vec::new();
        for (.., head) in &news {
            serde_json::to_writer(&mut lines, head)?;
            lines.push(b'\n');
        }
        if !news.is_empty() {
            append(&self.path, &lines).await.with_context(|| format!("{} cannot be written", self.path.display()))?;
        }
        let count = news.len();
        self.published.extend(news.into_iter().map(|(org, size, _)| (org, size)));
        Ok(count)
    }
}

/// Appends, on the disk when it returns.
async fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path).await?;
    file.write_all(lines).await?;
    file.flush().await?;
    file.sync_data().await
}

async fn ends_a_line(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        opened => opened?,
    };
    if file.metadata().await?.len() == 0 {
        return Ok(true);
    }
    file.seek(io::SeekFrom::End(-1)).await?;
    Ok(file.read_u8().await? == b'\n')
}
