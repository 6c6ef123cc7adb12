//! Where a database is: a file, or a server.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use ztka_core::BoxError;
use ztka_identity::Outage;

use crate::{error::outage, migrate::MigrateError};

/// Where a database is.
#[derive(Clone, Eq, PartialEq)]
pub enum Location {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A database on a PostgreSQL server: `postgres://user@host:5432/name?sslrootcert=/etc/ca.pem`.
    ///
    /// The password comes from `PGPASSWORD` or from the file that `PGPASSFILE` names (default `~/.pgpass`). A server
    /// that is neither on this machine nor given another `sslmode` has to prove its name by TLS (`verify-full`).
    Postgres(String),
}

/// A text is not the location of a database.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadLocation {
    /// Neither of the two.
    #[error("a database is postgres://user@host/name, or sqlite:///path/of/file")]
    Scheme,
    /// A password where others read it.
    #[error(
        "a password does not belong into a configuration file; put it into PGPASSWORD or a file that PGPASSFILE names"
    )]
    Password,
}

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(text: &str) -> Result<Self, BadLocation> {
        if let Some(path) = text.strip_prefix("sqlite://") {
            return if path.starts_with('/') { Ok(Self::Sqlite(path.into())) } else { Err(BadLocation::Scheme) };
        }
        let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let rest = rest.ok_or(BadLocation::Scheme)?;
        let (authority, query) = (rest.split(['/', '?']).next().unwrap_or_default(), rest.split_once('?'));
        let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
        let in_query = query.is_some_and(|(_, query)| query.split('&').any(|pair| pair.starts_with("password=")));
        if user.contains(':') || in_query {
            return Err(BadLocation::Password);
        }
        Ok(Self::Postgres(text.to_owned()))
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Sqlite(path.into())
    }
}

/// Without what might be secret in a URL.
impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => {
                let url = url.split('?').next().unwrap_or_default();
                let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
                write!(f, "{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, rest)| rest))
            }
        }
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({self})")
    }
}

/// Why a server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// It does not answer.
    #[error("the server does not say what it is")]
    Silent(#[source] sqlx::Error),
    /// It does not write to the disk before it answers.
    #[error("the server has {0} = off and may forget what it has confirmed; set it to on")]
    Forgetful(&'static str),
    /// It is too old.
    #[error("the server is PostgreSQL {found}; {needed} or newer is needed")]
    #[expect(missing_docs, reason = "the message says it")]
    Old { found: i64, needed: i64 },
    /// Its texts are not Unicode.
    #[error("the database has the encoding {0}; create it with ENCODING 'UTF8'")]
    Encoding(String),
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It cannot be opened, made or reached.
    #[error("the database {location} cannot be opened; check {}", what_to_check(location))]
    Open {
        /// Which.
        location: Location,
        /// Why; an [`Outage`](ztka_identity::Outage), where it is one.
        #[source]
        source: BoxError,
    },
    /// The server cannot be used.
    #[error("the database {location} cannot be used")]
    Unsuitable {
        /// Which.
        location: Location,
        /// Why, and what to do.
        #[source]
        source: Unsuitable,
    },
    /// Its schema is not one that this version can use.
    #[error("the database {location} cannot be used")]
    Schema {
        /// Which.
        location: Location,
        /// Why, and what to do.
        #[source]
        source: MigrateError,
    },
}

impl OpenError {
    /// The database at `location` cannot be opened, because of this.
    pub(crate) fn open(location: &Location, source: sqlx::Error) -> Self {
        let source = match outage(&source) {
            Some(kind) => Outage::new(kind, source).into(),
            None => source.into(),
        };
        Self::Open { location: location.clone(), source }
    }
}

fn what_to_check(location: &Location) -> &'static str {
    match location {
        Location::Sqlite(_) => "the directory, its owner and the disk",
        Location::Postgres(_) => "the address, the user and the server's log",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_is_a_file_or_a_server_and_has_no_password() {
        let parse = |text: &str| text.parse::<Location>();
        assert_eq!(parse("sqlite:///var/lib/ztka.db").unwrap(), Location::Sqlite("/var/lib/ztka.db".into()));
        let server = parse("postgres://ztka@db.example.com/ztka?sslrootcert=/etc/ca.pem").unwrap();
        assert_eq!(server.to_string(), "postgres://db.example.com/ztka");
        for refused in ["", "ztka.db", "sqlite://ztka.db", "mysql://a/b"] {
            assert_eq!(parse(refused), Err(BadLocation::Scheme), "{refused}");
        }
        for refused in ["postgres://a:b@c/d", "postgresql://a@c/d?sslmode=require&password=b"] {
            assert_eq!(parse(refused), Err(BadLocation::Password), "{refused}");
        }
    }
}
