//! The two databases, empty.
#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    clippy::unwrap_used,
    reason = "these are tests, each file uses a part"
)]

use tempfile::TempDir;
use ztka_store::{Location, MasterKey, Masters, Store};
use ztka_test_postgres::Server;

/// Where an empty database is; gone when this is dropped.
pub(crate) struct Place {
    pub(crate) location: Location,
    directory: Option<TempDir>,
}

impl Place {
    pub(crate) fn sqlite() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::Sqlite(directory.path().join("ztka.db"));
        Some(Self { location, directory: Some(directory) })
    }

    /// `None` where there is no PostgreSQL, which was said loudly then.
    pub(crate) fn postgres() -> Option<Self> {
        let server = Server::shared_or_skip().unwrap()?;
        Some(Self { location: Location::Postgres(server.database().unwrap()), directory: None })
    }

    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.location).await.unwrap()
    }

    /// As a controller has it: what is secret or personal is sealed.
    pub(crate) async fn unlocked(&self) -> Store {
        self.open().await.unlock(masters(1)).await.unwrap()
    }
}

/// A master key of this byte.
pub(crate) fn masters(byte: u8) -> Masters {
    Masters::of(MasterKey::new(&[byte; 32]).unwrap())
}

/// Makes of `async fn name(place: &Place)` a test for each database.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&crate::kit::Place::sqlite().unwrap()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = crate::kit::Place::postgres() {
                    super::$name(&place).await;
                }
            })+
        }
    };
}

pub(crate) use on_both;
