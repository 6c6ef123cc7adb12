//! Connecting to a PostgreSQL server.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};

use crate::{location::Unsuitable, sql::Pool, store::Patience};

/// The oldest server whose behaviour is known to be what this crate needs, as `server_version_num` says it.
const OLDEST: i64 = 130_000;

/// What a controller's connections are called in the server's list of them.
pub(crate) const CONTROLLER: &str = "ztka-controller";

/// Two pools of one server: writers of one organisation wait for each other, and must not use up what readers need.
pub(crate) struct Opening(PgConnectOptions, Patience);

impl Opening {
    pub(crate) fn of(url: &str, patience: Patience) -> Result<Self, sqlx::Error> {
        let mut options: PgConnectOptions = url.parse()?;
        // `prefer`, the default of all clients, falls back to plain text as soon as somebody in between wishes so.
        if matches!(options.get_ssl_mode(), PgSslMode::Prefer | PgSslMode::Allow) && !is_local(&options) {
            options = options.ssl_mode(PgSslMode::VerifyFull);
        }
        let busy = format!("{}ms", patience.lock.as_millis());
        let options = options.application_name(CONTROLLER).options([
            // One that cannot get its lock says so instead of waiting for ever.
            ("lock_timeout", busy.as_str()),
            // A controller that is cut off in a transaction keeps an organisation locked for this long at most.
            ("idle_in_transaction_session_timeout", "30s"),
        ]);
        Ok(Self(options, patience))
    }

    /// Goes by another name than a controller's.
    pub(crate) fn named(self, name: &str) -> Self {
        Self(self.0.application_name(name), self.1)
    }

    pub(crate) async fn writers(&self) -> Result<Pool, sqlx::Error> {
        let pool = PgPoolOptions::new().max_connections(self.1.connections).acquire_timeout(self.1.connection);
        Ok(Pool::Postgres(pool.connect_with(self.0.clone()).await?))
    }

    pub(crate) async fn readers(self) -> Result<Pool, sqlx::Error> {
        let pool = PgPoolOptions::new().max_connections(self.1.connections).acquire_timeout(self.1.connection);
        let options = self.0.options([("default_transaction_read_only", "on")]);
        Ok(Pool::Postgres(pool.connect_with(options).await?))
    }
}

/// A Unix socket or this machine itself.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host == "localhost"
        || host.starts_with('/')
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Refuses a server that would forget what it has confirmed, or that is too old.
pub(crate) async fn check(pool: &Pool) -> Result<(), Unsuitable> {
    let Pool::Postgres(pool) = pool else { return Ok(()) };
    let sql = "SELECT current_setting('server_version_num')::bigint, current_setting('fsync'), \
               current_setting('synchronous_commit'), getdatabaseencoding()::text";
    let query = sqlx::query_as::<_, (i64, String, String, String)>(sql);
    let (version, fsync, synchronous, encoding) = query.fetch_one(pool).await.map_err(Unsuitable::Silent)?;
    match (fsync.as_str(), synchronous.as_str(), encoding.as_str()) {
        _ if version < OLDEST => Err(Unsuitable::Old { found: version / 10_000, needed: OLDEST / 10_000 }),
        ("off", ..) => Err(Unsuitable::Forgetful("fsync")),
        (_, "off", _) => Err(Unsuitable::Forgetful("synchronous_commit")),
        (.., "UTF8") => Ok(()),
        _ => Err(Unsuitable::Encoding(encoding)),
    }
}
