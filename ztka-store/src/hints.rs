//! Hints that something may have changed: in this process, and by `NOTIFY` to and from others.
//!
//! They carry nothing and promise nothing, since a notification is lost with its connection. It is sent behind the
//! commit, by a task of its own, and one for many: in the transaction it would make all commits of the database wait for
//! each other (PostgreSQL orders them by one lock), and a writer wait for it.

use std::{sync::Arc, time::Duration};

use sqlx::postgres::PgListener;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
};

use crate::sql::Pool;

/// What `NOTIFY` and `LISTEN` name.
const CHANNEL: &str = "ztka";
/// Between two attempts to listen.
const AGAIN: Duration = Duration::from_secs(1);

/// Gives hints. Cheap to clone; what listens ends with the last clone.
#[derive(Clone)]
pub(crate) struct Hints {
    count: watch::Sender<u64>,
    tell: Arc<Notify>,
    _tasks: Arc<JoinSet<()>>,
}

impl Hints {
    /// Of what is written through `writers`; from other processes, if it is a server.
    pub(crate) fn new(writers: &Pool, readers: &Pool) -> Self {
        let (count, tell) = (watch::Sender::new(0), Arc::new(Notify::new()));
        let mut tasks = JoinSet::new();
        if let (Pool::Postgres(writers), Pool::Postgres(readers)) = (writers, readers) {
            tasks.spawn(listen(readers.clone(), count.clone()));
            tasks.spawn(notify(writers.clone(), tell.clone()));
        }
        Self { count, tell, _tasks: Arc::new(tasks) }
    }

    /// Something was committed.
    pub(crate) fn give(&self) {
        raise(&self.count);
        self.tell.notify_one();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.count.subscribe()
    }
}

fn raise(count: &watch::Sender<u64>) {
    count.send_modify(|count| *count = count.wrapping_add(1));
}

async fn notify(pool: sqlx::PgPool, tell: Arc<Notify>) {
    while !pool.is_closed() {
        tell.notified().await;
        if let Err(error) = sqlx::query("NOTIFY ztka").execute(&pool).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "other controllers see a change later");
        }
    }
}

async fn listen(pool: sqlx::PgPool, count: watch::Sender<u64>) {
    while !pool.is_closed() {
        if let Err(error) = hear(&pool, &count).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "other controllers' changes are seen later");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn hear(pool: &sqlx::PgPool, count: &watch::Sender<u64>) -> Result<(), sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen(CHANNEL).await?;
    loop {
        // Also at the beginning, and after a connection was lost: nobody knows what was said meanwhile.
        raise(count);
        listener.try_recv().await?;
    }
}
