//! Documents and the place in the change feed, as private files, written behind by a thread of their own.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use ztka_core::{DocumentKind, SeriesKey, SignedDocument};
use ztka_pki::file::{self, FileError};

/// Place of the last line of the feed that was taken.
const FEED: &str = "feed";
/// A policy with thousands of bindings stays well below; what the feed brings is no longer either.
const LARGEST: u64 = 32 * 1024 * 1024;

#[derive(Debug)]
enum Write {
    Document(SeriesKey, Vec<u8>),
    Head(SeriesKey, Vec<u8>),
    Forget(SeriesKey),
    Feed(u64),
    #[cfg(test)]
    Settle(mpsc::Sender<()>),
}

/// Writes in the order it is told, and the place in the feed only when every document before it is on the disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk(mpsc::Sender<Write>);

/// What an earlier run has left.
#[derive(Debug, Default)]
pub(crate) struct Left {
    pub(crate) documents: Vec<SignedDocument>,
    pub(crate) feed: u64,
    /// A file is there that cannot be used: what it held has to be asked for again.
    pub(crate) damaged: bool,
}

impl Disk {
    /// Opens `directory`, making it if need be, and reads what is in it.
    pub(crate) fn open(directory: PathBuf) -> Result<(Self, Left), FileError> {
        file::private_directory(&directory)?;
        let left = read(&directory)?;
        let (sender, writes) = mpsc::channel();
        let mut writer = Writer { directory, waiting: HashMap::new(), feed: left.feed };
        thread::spawn(move || writes.into_iter().for_each(|write| writer.apply(write)));
        Ok((Self(sender), left))
    }

    pub(crate) fn keep(&self, document: &SignedDocument) {
        let _ = self.0.send(Write::Document(document.header().series.clone(), document.to_wire()));
    }

    /// Keeps a head without waiting for the disk: there is another one every few seconds.
    pub(crate) fn keep_head(&self, head: &SignedDocument) {
        let _ = self.0.send(Write::Head(head.header().series.clone(), head.to_wire()));
    }

    pub(crate) fn forget(&self, series: SeriesKey) {
        let _ = self.0.send(Write::Forget(series));
    }

    pub(crate) fn keep_feed(&self, feed: u64) {
        let _ = self.0.send(Write::Feed(feed));
    }

    /// Returns when all that was told before was tried.
    #[cfg(test)]
    pub(crate) fn settle(&self) {
        let (done, wait) = mpsc::channel();
        let _ = self.0.send(Write::Settle(done));
        let _ = wait.recv();
    }
}

/// Ids are DNS labels, so the name is a plain file name.
fn name(series: &SeriesKey) -> String {
    let org = series.org.as_ref().map_or("", |org| org.as_str());
    format!("{}.{org}.{}.json", series.kind, series.subject)
}

fn is_head(path: &Path) -> bool {
    let prefix = format!("{}.", DocumentKind::Head);
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
}

/// The thread's side.
struct Writer {
    directory: PathBuf,
    /// Documents that could not be written, as when the disk is full: tried again at every step of the feed.
    waiting: HashMap<SeriesKey, Vec<u8>>,
    /// The place on the disk.
    feed: u64,
}

impl Writer {
    fn apply(&mut self, write: Write) {
        match write {
            Write::Document(series, wire) => {
                self.waiting.insert(series.clone(), wire);
                self.write(|waiting| *waiting == series);
            }
            Write::Head(series, wire) => {
                if let Err(error) = file::write_private_unsynced(&self.directory.join(name(&series)), &wire) {
                    tracing::debug!(error = &error as &dyn std::error::Error, "a head is not kept on disk");
                }
            }
            Write::Forget(series) => {
                self.waiting.remove(&series);
                if let Err(error) = file::remove(&self.directory.join(name(&series))) {
                    tracing::error!(error = &error as &dyn std::error::Error, "an expired document is not removed");
                }
            }
            Write::Feed(feed) => {
                self.write(|_| true);
                // Behind this place the controller would not send again what is missing here: an old policy or session
                // would be in force after a restart.
                if self.waiting.is_empty() && feed != self.feed {
                    match file::write_private(&self.directory.join(FEED), feed.to_string().as_bytes()) {
                        Ok(()) => self.feed = feed,
                        Err(error) => {
                            let error = &error as &dyn std::error::Error;
                            tracing::error!(error, "the place in the feed is not kept on disk");
                        }
                    }
                }
            }
            #[cfg(test)]
            Write::Settle(done) => drop(done.send(())),
        }
    }

    /// Tries those that wait and are `chosen`.
    fn write(&mut self, chosen: impl Fn(&SeriesKey) -> bool) {
        let (directory, mut failure) = (&self.directory, None);
        self.waiting.retain(|series, wire| {
            let written = chosen(series).then(|| file::write_private(&directory.join(name(series)), wire));
            match written {
                Some(Ok(())) => false,
                Some(Err(error)) => {
                    failure = Some(error);
                    true
                }
                None => true,
            }
        });
        if let Some(error) = failure {
            let (error, waiting) = (&error as &dyn std::error::Error, self.waiting.len());
            tracing::error!(error, waiting, "documents are not kept on disk; they are in force and tried again");
        }
    }
}

fn read(directory: &Path) -> Result<Left, FileError> {
    let mut left = Left::default();
    let entries = fs::read_dir(directory).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    for path in entries.unwrap_or_default().iter().map(fs::DirEntry::path) {
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let document = match file::read_private_up_to(&path, LARGEST) {
            Ok(Some(wire)) => SignedDocument::from_wire(&wire).map_err(|error| error.to_string()),
            Ok(None) => continue,
            Err(error @ FileError::Content { .. }) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        match document {
            Ok(document) => left.documents.push(document),
            // Not synced, and no loss.
            Err(_) if is_head(&path) => {}
            Err(error) => {
                left.damaged = true;
                tracing::warn!(file = %path.display(), error, "a kept document cannot be read");
            }
        }
    }
    if let Some(text) = file::read_private(&directory.join(FEED))? {
        left.feed = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    }
    Ok(left)
}
