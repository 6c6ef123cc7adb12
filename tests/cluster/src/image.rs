//! Container images made from programs of this machine, without a registry.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// The image with a shell and the usual programs that every real node has; pods say `imagePullPolicy: Never`.
pub const BUSYBOX: &str = "ztka.test/busybox:1";

/// An image of one layer: files of this machine, links, and what to run.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    files: Vec<(String, PathBuf)>,
    links: Vec<(String, String)>,
    config: Value,
}

impl Image {
    /// An empty image with a name like `ztka.test/agent:1`.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let config = json!({ "Env": ["PATH=/bin:/usr/bin"] });
        Self { name: name.into(), files: Vec::new(), links: Vec::new(), config }
    }

    /// [`BUSYBOX`]: Debian's static busybox under all its names; runs `sh`.
    ///
    /// # Errors
    /// When busybox is not there or does not list its names.
    pub fn busybox() -> Result<Self> {
        let busybox = Path::new("/bin/busybox");
        let list =
            Command::new(busybox).arg("--list").output().context("cannot run busybox: install busybox-static")?;
        let mut image = Self::new(BUSYBOX).file("bin/busybox", busybox).command(&["/bin/sh"]);
        for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
            image.links.push((format!("bin/{name}"), "busybox".to_owned()));
        }
        Ok(image)
    }

    /// An image that runs one static program, kept as `/<file name>`.
    #[must_use]
    pub fn of_program(name: impl Into<String>, program: &Path) -> Self {
        let file = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self::new(name).file(&file, program).entrypoint(&[&format!("/{file}")])
    }

    /// Puts a file of this machine, with its mode, at `path` in the image.
    #[must_use]
    pub fn file(mut self, path: &str, source: &Path) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), source.to_owned()));
        self
    }

    /// Sets the entrypoint.
    #[must_use]
    pub fn entrypoint(self, args: &[&str]) -> Self {
        self.set("Entrypoint", json!(args))
    }

    /// Sets the default arguments.
    #[must_use]
    pub fn command(self, args: &[&str]) -> Self {
        self.set("Cmd", json!(args))
    }

    /// Sets the numeric user the image runs as.
    #[must_use]
    pub fn user(self, user: u32) -> Self {
        self.set("User", json!(user.to_string()))
    }

    fn set(mut self, key: &str, value: Value) -> Self {
        if let Some(config) = self.config.as_object_mut() {
            config.insert(key.to_owned(), value);
        }
        self
    }

    /// The name that pods use.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes the image as a docker-archive tar (`manifest.json`, configuration, one layer).
    ///
    /// # Errors
    /// When a source cannot be read or the archive cannot be written.
    pub fn write(&self, archive: &Path) -> Result<()> {
        let layer = self.layer()?;
        let config = serde_json::to_vec(&json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))] },
        }))?;
        let name = format!("{}.json", hex(&config));
        let manifest = json!([{ "Config": name, "RepoTags": [self.name], "Layers": ["layer.tar"] }]);
        let file = fs::File::create(archive).with_context(|| format!("cannot write {}", archive.display()))?;
        let mut tar = Builder::new(file);
        entry(&mut tar, &name, 0o644, &config)?;
        entry(&mut tar, "layer.tar", 0o644, &layer)?;
        entry(&mut tar, "manifest.json", 0o644, &serde_json::to_vec(&manifest)?)?;
        tar.into_inner()?.flush()?;
        Ok(())
    }

    fn layer(&self) -> Result<Vec<u8>> {
        use std::os::unix::fs::PermissionsExt as _;
        let mut tar = Builder::new(Vec::new());
        for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("var/", 0o755)] {
            let mut header = header(EntryType::Directory, mode, 0);
            tar.append_data(&mut header, folder, std::io::empty())?;
        }
        let accounts = "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
        entry(&mut tar, "etc/passwd", 0o644, accounts.as_bytes())?;
        for (path, source) in &self.files {
            let bytes = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
            entry(&mut tar, path, fs::metadata(source)?.permissions().mode() & 0o7777, &bytes)?;
        }
        for (path, target) in &self.links {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, path, target)?;
        }
        Ok(tar.into_inner()?)
    }
}

fn entry<W: Write>(tar: &mut Builder<W>, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, bytes.len() as u64);
    Ok(tar.append_data(&mut header, path, bytes)?)
}

fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
