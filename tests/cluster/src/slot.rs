//! One of 256 places on this machine that a cluster has for itself: ports, folder, addresses, bridge.

use std::{
    env,
    fs::{self, File, TryLockError},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

const SLOTS: u16 = 256;
const PORTS: u16 = 32;
/// Below the range from which Linux takes ports of outgoing connections (32768).
const FIRST_PORT: u16 = 20_000;

/// The place a cluster runs in. Held by a file lock that survives the test process until all is removed.
#[derive(Debug)]
pub struct Slot {
    number: u8,
    folder: PathBuf,
    lock: File,
}

impl Slot {
    /// Takes the first place that nobody holds and whose ports are free.
    pub(crate) fn claim() -> Result<Self> {
        let base = env::temp_dir().join(format!("ztka-clusters-{}", user()?));
        fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        for number in 0..SLOTS {
            let path = base.join(format!("{number}.lock"));
            let lock = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
            }
            if !(0..PORTS).all(|n| is_free(FIRST_PORT + number * PORTS + n)) {
                continue;
            }
            let folder = base.join(number.to_string());
            if folder.exists() {
                fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove what an earlier run left in {}", folder.display()))?;
            }
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
            return Ok(Self { number: u8::try_from(number)?, folder, lock });
        }
        bail!("all {SLOTS} cluster slots under {} are taken; end some test runs", base.display())
    }

    /// The folder that holds everything of the cluster.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One of 16 TCP ports (`0..16`) that belong to the test using this cluster.
    ///
    /// # Panics
    /// When `n` is 16 or more.
    #[must_use]
    pub fn port(&self, n: u16) -> u16 {
        assert!(n < 16, "a slot has 16 ports for its test");
        self.kit_port(16 + n)
    }

    /// One of the 16 ports (`0..16`) of the cluster's own processes.
    pub(crate) fn kit_port(&self, n: u16) -> u16 {
        FIRST_PORT + u16::from(self.number) * PORTS + n
    }

    /// The file lock, to be handed to the process that outlives the test.
    pub(crate) fn lock(&self) -> &File {
        &self.lock
    }

    /// Name of the bridge and of the network.
    pub(crate) fn name(&self) -> String {
        format!("ztka{}", self.number)
    }

    /// The host's address on the bridge; pods have addresses of the same /24.
    pub(crate) fn bridge_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 201, self.number, 1)
    }

    /// The /24 of pods.
    pub(crate) fn pod_cidr(&self) -> String {
        format!("10.201.{}.0/24", self.number)
    }

    /// The first address of the Services' range: the one the `kubernetes` Service gets.
    pub(crate) fn service_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 202, self.number, 1)
    }

    /// The /24 of Services.
    pub(crate) fn service_cidr(&self) -> String {
        format!("10.202.{}.0/24", self.number)
    }
}

/// The numeric user id of this process.
pub(crate) fn user() -> Result<u32> {
    Ok(fs::metadata("/proc/self").context("cannot read /proc/self; the test clusters need Linux")?.uid())
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
