//! `ztka backup` and `ztka restore`: on a machine that reaches the controller's database, without the controller.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use jiff::Timestamp;
use serde::Serialize;
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncWriteExt as _, BufReader, BufWriter},
};
use zeroize::Zeroizing;
use ztka_store::{BackupKey, Contents, Location, MasterKey, Masters, Plan};

use crate::output::Output;

/// Which database, and as whom: for the account that the controller runs under.
#[derive(Args, Debug)]
struct Database {
    /// The controller's data_dir
    #[arg(long, env = "ZTKA_DATA", value_name = "DIR", default_value = "ztka-data")]
    data: PathBuf,
    /// The controller's database, if it is not in its data_dir; the password comes from PGPASSWORD or PGPASSFILE
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

impl Database {
    fn location(&self) -> anyhow::Result<Location> {
        match &self.database {
            None => Ok(Location::Sqlite(self.data.join("ztka.db"))),
            Some(database) => database.parse().context("--database"),
        }
    }
}

/// What encrypts a backup.
#[derive(Args, Debug)]
struct Key {
    /// Private file (0600) with a passphrase of twelve characters at least
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Private file (0600) with a key: 64 hexadecimal digits, as `openssl rand -hex 32` writes them
    #[arg(long, value_name = "FILE", conflicts_with = "passphrase_file")]
    key_file: Option<PathBuf>,
}

impl Key {
    fn open(&self) -> anyhow::Result<BackupKey> {
        match (&self.passphrase_file, &self.key_file) {
            (Some(file), _) => Ok(BackupKey::passphrase_file(file)?),
            (None, Some(file)) => Ok(BackupKey::key_file(file)?),
            (None, None) => bail!("say what encrypts the backup: --passphrase-file or --key-file"),
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct Backup {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    key: Key,
    /// Where to; it must not be there yet
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Read it again when it is written: decrypted, complete, checksum and counts
    #[arg(long)]
    verify: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Restore {
    #[command(flatten)]
    database: Database,
    #[command(flatten)]
    key: Key,
    /// The backup
    #[arg(long, value_name = "FILE", required_unless_present = "new_history")]
    file: Option<PathBuf>,
    /// Only read it to its end and say what is in it
    #[arg(long, conflicts_with_all = ["force", "new_history"])]
    check: bool,
    /// Replace what the database holds
    #[arg(long, conflicts_with = "new_history")]
    force: bool,
    /// Master key of that time (a private file), to see before anything is written that it opens what is encrypted; may be
    /// repeated. By default master.key in --data, if it is there
    #[arg(long, value_name = "FILE", conflicts_with = "new_history")]
    master_key_file: Vec<PathBuf>,
    /// The same in a variable of the environment; may be repeated
    #[arg(long, value_name = "VARIABLE", conflicts_with = "new_history")]
    master_key_env: Vec<String>,
    /// Do not look at a master key: it is in a token, or comes later
    #[arg(long, conflicts_with_all = ["master_key_file", "master_key_env"])]
    no_master_key: bool,
    /// Restore nothing: the database was put back by other means (a snapshot of its disk, a recovery to a point in time, a
    /// standby that had not everything), and only a new history begins
    #[arg(long, conflicts_with = "file")]
    new_history: bool,
}

/// As it is printed.
#[derive(Serialize)]
struct Shown<'a> {
    schema: i64,
    created: Timestamp,
    program: &'a str,
    rows: &'a std::collections::BTreeMap<String, u64>,
    epoch: u64,
}

fn show(output: Output, what: &str, contents: &Contents, epoch: u64) -> anyhow::Result<()> {
    let Contents { schema, created, program, rows, .. } = contents;
    let shown = Shown { schema: *schema, created: *created, program, rows, epoch };
    output.one(&shown, || {
        let (total, tables) = (contents.total(), rows.len());
        let of = |table: &str| rows.get(table).copied().unwrap_or_default();
        format!(
            "{what}: {total} rows of {tables} tables as of {created} (epoch {epoch}, schema {schema}): {} organisations, \
             {} users, {} clusters, {} events",
            of("orgs"),
            of("users"),
            of("clusters"),
            of("events")
        )
    })
}

async fn check(file: &Path, key: &BackupKey) -> anyhow::Result<Contents> {
    let input = File::open(file).await.with_context(|| format!("{} cannot be read", file.display()))?;
    Ok(ztka_store::check(BufReader::new(input), key).await?)
}

impl Backup {
    pub(crate) async fn run(self, output: Output) -> anyhow::Result<()> {
        let (location, key) = (self.database.location()?, self.key.open()?);
        ensure!(
            !self.file.exists(),
            "{} is there already, and was left as it is; choose another name",
            self.file.display()
        );
        // What has the name of a backup is a whole one.
        let mut name = self.file.file_name().context("--file is a directory")?.to_owned();
        name.push(".part");
        let part = self.file.with_file_name(name);
        let written = write(&part, &location, &key).await;
        let contents = match written {
            Ok(contents) => contents,
            Err(error) => {
                let _ = fs::remove_file(&part).await;
                return Err(error);
            }
        };
        if self.verify {
            let read = check(&part, &key).await.context("what was written cannot be read again")?;
            ensure!(read == contents, "what was written does not say what the database has said; check the disk");
        }
        fs::rename(&part, &self.file).await.with_context(|| format!("{} cannot be named", self.file.display()))?;
        let directory = self.file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).await?.sync_all().await?;
        show(output, if self.verify { "backed up and verified" } else { "backed up" }, &contents, contents.epoch)
    }
}

async fn write(part: &Path, location: &Location, key: &BackupKey) -> anyhow::Result<Contents> {
    // Of one that was killed.
    match fs::remove_file(part).await {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("{} cannot be replaced", part.display()));
        }
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).await;
    let file = file.with_context(|| format!("{} cannot be written", part.display()))?;
    let (contents, mut out) = ztka_store::back_up(location, key, Timestamp::now(), BufWriter::new(file)).await?;
    out.flush().await?;
    out.into_inner().sync_all().await?;
    Ok(contents)
}

impl Restore {
    /// The master keys that are at hand; none if there is none to look at.
    fn masters(&self) -> anyhow::Result<Option<Masters>> {
        let beside = self.database.data.join("master.key");
        let mut files: Vec<&Path> = self.master_key_file.iter().map(PathBuf::as_path).collect();
        if files.is_empty() && self.master_key_env.is_empty() {
            if self.no_master_key || !beside.exists() {
                return Ok(None);
            }
            files.push(&beside);
        }
        let of_files = files.into_iter().map(|file| MasterKey::load(file).map_err(anyhow::Error::from));
        let of_environment = self.master_key_env.iter().map(|name| {
            let text = std::env::var(name).map(Zeroizing::new);
            let text = text.with_context(|| format!("the environment variable {name} is not set, or not text"))?;
            MasterKey::parse(&text).with_context(|| format!("the environment variable {name}"))
        });
        let mut all = of_files.chain(of_environment).collect::<anyhow::Result<Vec<_>>>()?.into_iter();
        let first = all.next().map(Masters::of);
        Ok(first.map(|first| all.fold(first, Masters::and)))
    }

    pub(crate) async fn run(self, output: Output) -> anyhow::Result<()> {
        let location = self.database.location()?;
        if self.new_history {
            let epoch = ztka_store::new_history(&location, Timestamp::now()).await?;
            println!("a new history has begun: epoch {epoch}; start the controllers");
            return Ok(());
        }
        let masters = self.masters()?;
        let file = self.file.context("--file")?;
        let key = self.key.open()?;
        if let Some(masters) = &masters {
            let input = File::open(&file).await.with_context(|| format!("{} cannot be read", file.display()))?;
            ztka_store::fits(BufReader::new(input), &key, masters).await?;
        }
        if self.check {
            let contents = check(&file, &key).await?;
            return show(output, "whole", &contents, contents.epoch);
        }
        if let Location::Sqlite(path) = &location {
            let directory = path.parent().unwrap_or(Path::new("."));
            ztka_pki::file::private_directory(directory).context("the data directory cannot be used")?;
        }
        let plan = Plan { force: self.force, now: Timestamp::now() };
        let done = ztka_store::restore(&location, &key, &file, plan).await?;
        show(output, "restored", &done.contents, done.epoch)?;
        if matches!(output, Output::Table) {
            println!(
                "{}",
                match masters {
                    Some(_) => "The master key fits. Start the controllers.",
                    None => "Put the master key of that time beside the configuration, then start the controllers.",
                }
            );
        }
        Ok(())
    }
}
