//! Private files: mode 0600, replaced as a whole, refused when other users could have read them.
//!
//! On systems without Unix modes the mode is neither set nor checked.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

use crate::key::hex;

/// More than any key with its chain; a larger file is something else.
const MAX_BYTES: u64 = 256 * 1024;

/// Why a private file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The system refuses.
    #[error("cannot {act} {}; check that it exists, its owner and its mode", path.display())]
    #[non_exhaustive]
    System {
        /// What was tried.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Other users may read it.
    #[error("{} has mode {mode:03o} and can be used by other users; run: chmod {} {}", path.display(), if *directory { "700" } else { "600" }, path.display())]
    #[non_exhaustive]
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// True for a directory.
        directory: bool,
    },
    /// It is not what it should be.
    #[error("{}: {what}", path.display())]
    #[non_exhaustive]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
}

impl FileError {
    /// The system's error, if it was one.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::System { source, .. } => Some(source.kind()),
            _ => None,
        }
    }

    pub(crate) fn content(path: &Path, what: impl Into<String>) -> Self {
        Self::Content { path: path.into(), what: what.into() }
    }
}

fn system(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::System { act, path: path.into(), source }
}

/// Makes `directory` with mode 0700, or checks that it is not open to other users.
///
/// # Errors
/// [`FileError`]
pub fn private_directory(directory: &Path) -> Result<(), FileError> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(system("make the directory", directory))?;
    let metadata = fs::metadata(directory).map_err(system("look at", directory))?;
    check_mode(directory, &metadata, 0o022, true)
}

/// Writes `content` to `path` with mode 0600. A reader sees the old file or the new one, also after a power loss.
///
/// # Errors
/// [`FileError`]; the old file is untouched then.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = write_beside(path, content, true)?;
    let done = fs::rename(&temporary, path).map_err(system("replace", path));
    finish(done, path, &temporary)
}

/// As [`write_private`], but returns before it is on the disk: after a power loss the file may be the old one, or unreadable.
///
/// # Errors
/// [`FileError`]
pub fn write_private_unsynced(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = write_beside(path, content, false)?;
    fs::rename(&temporary, path).map_err(system("replace", path)).inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// As [`write_private`], but fails with [`io::ErrorKind::AlreadyExists`] if there is a file already.
///
/// # Errors
/// [`FileError`]
pub fn write_private_new(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = write_beside(path, content, true)?;
    // Unlike a rename, a link never replaces.
    let done = fs::hard_link(&temporary, path).map_err(system("create", path));
    let _ = fs::remove_file(&temporary);
    finish(done, path, &temporary)
}

fn write_beside(path: &Path, content: &[u8], sync: bool) -> Result<PathBuf, FileError> {
    let mut random = [0; 8];
    SystemRandom::new().fill(&mut random).map_err(|_| FileError::content(path, "the system gives no randomness"))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", hex(&random)));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary).map_err(system("create", &temporary))?;
    let written = file.write_all(content).and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    match written {
        Ok(()) => Ok(temporary),
        Err(error) => {
            let _ = fs::remove_file(&temporary);
            Err(system("write", &temporary)(error))
        }
    }
}

fn finish(done: Result<(), FileError>, path: &Path, temporary: &Path) -> Result<(), FileError> {
    if done.is_err() {
        let _ = fs::remove_file(temporary);
    }
    done?;
    sync_directory(path)
}

fn sync_directory(path: &Path) -> Result<(), FileError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(system("sync", directory))
}

/// Reads a private file; `None` if there is none.
///
/// # Errors
/// [`FileError`] if it cannot be read, is open to other users, is no regular file, or is larger than 256 KiB.
pub fn read_private(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    read_private_up_to(path, MAX_BYTES)
}

/// As [`read_private`], for what may be larger than a key: up to `most` bytes.
///
/// # Errors
/// [`FileError`]
pub fn read_private_up_to(path: &Path, most: u64) -> Result<Option<Zeroizing<Vec<u8>>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(system("read", path))?,
    };
    let metadata = file.metadata().map_err(system("look at", path))?;
    if !metadata.is_file() {
        return Err(FileError::content(path, "is not a file; remove it, or name another path"));
    }
    check_mode(path, &metadata, 0o077, false)?;
    if metadata.len() > most {
        return Err(FileError::content(path, "is too large to be what it should be; name another path"));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.take(most).read_to_end(&mut content).map_err(system("read", path))?;
    Ok(Some(content))
}

/// Removes a file; `false` if there was none.
///
/// # Errors
/// [`FileError`]
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => {
            removed.map_err(system("remove", path))?;
            sync_directory(path)?;
            Ok(true)
        }
    }
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata, refused: u32, directory: bool) -> Result<(), FileError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    if mode & refused == 0 { Ok(()) } else { Err(FileError::Mode { path: path.into(), mode, directory }) }
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata, _: u32, _: bool) -> Result<(), FileError> {
    Ok(())
}
