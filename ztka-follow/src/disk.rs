//! Documents and the place in the change feed, as private files, written behind by a thread of their own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use ztka_core::{SeriesKey, SignedDocument};
use ztka_pki::file::{self, FileError};

/// Place of the last line of the feed that was taken.
const FEED: &str = "feed";

#[derive(Debug)]
enum Write {
    Document(SeriesKey, Vec<u8>),
    Forget(SeriesKey),
    Feed(u64),
}

/// Writes in the order it is told, so that the place in the feed never runs ahead of the documents.
#[derive(Clone, Debug)]
pub(crate) struct Disk(mpsc::Sender<Write>);

/// What an earlier run has left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) documents: Vec<SignedDocument>,
    pub(crate) feed: u64,
}

impl Disk {
    /// Opens `directory`, making it if need be, and reads what is in it.
    pub(crate) fn open(directory: PathBuf) -> Result<(Self, Left), FileError> {
        file::private_directory(&directory)?;
        let left = read(&directory)?;
        let (sender, writes) = mpsc::channel();
        thread::spawn(move || {
            for write in writes {
                if let Err(error) = apply(&directory, &write) {
                    tracing::error!(error = &error as &dyn std::error::Error, "a document is not kept on disk");
                }
            }
        });
        Ok((Self(sender), left))
    }

    pub(crate) fn keep(&self, document: &SignedDocument) {
        let _ = self.0.send(Write::Document(document.header().series.clone(), document.to_wire()));
    }

    pub(crate) fn forget(&self, series: SeriesKey) {
        let _ = self.0.send(Write::Forget(series));
    }

    pub(crate) fn keep_feed(&self, feed: u64) {
        let _ = self.0.send(Write::Feed(feed));
    }
}

/// Ids are DNS labels, so the name is a plain file name.
fn name(series: &SeriesKey) -> String {
    let org = series.org.as_ref().map_or("", |org| org.as_str());
    format!("{}.{org}.{}.json", series.kind, series.subject)
}

fn apply(directory: &Path, write: &Write) -> Result<(), FileError> {
    match write {
        Write::Document(series, wire) => file::write_private(&directory.join(name(series)), wire),
        Write::Forget(series) => file::remove(&directory.join(name(series))).map(drop),
        Write::Feed(feed) => file::write_private(&directory.join(FEED), feed.to_string().as_bytes()),
    }
}

fn read(directory: &Path) -> Result<Left, FileError> {
    let mut left = Left::default();
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    for path in entries.unwrap_or_default().iter().map(fs::DirEntry::path) {
        let is_document = path.extension().is_some_and(|extension| extension == "json");
        if is_document && let Some(wire) = file::read_private(&path)? {
            match SignedDocument::from_wire(&wire) {
                Ok(document) => left.documents.push(document),
                Err(error) => tracing::warn!(file = %path.display(), %error, "a kept document cannot be read"),
            }
        }
    }
    if let Some(text) = file::read_private(&directory.join(FEED))? {
        left.feed = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    }
    Ok(left)
}
