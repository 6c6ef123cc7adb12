//! What goes wrong with a database, as the traits of the other crates say it.

use ztka_identity::StoreError;

/// A statement was not carried out, or its answer makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failed {
    /// The database says no, or nothing.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// What a column holds is not what was put there.
    #[error("the column {0} of the database holds something that this program has not written")]
    Corrupt(&'static str),
    /// A value cannot be written as JSON.
    #[error("a value cannot be stored")]
    Json(#[source] serde_json::Error),
}

impl From<Failed> for StoreError {
    fn from(failed: Failed) -> Self {
        Self::unavailable(failed)
    }
}

impl From<Failed> for ztka_pki::StoreError {
    fn from(failed: Failed) -> Self {
        Self::new(failed)
    }
}

impl Failed {
    /// A row that has to be unique is there already.
    pub(crate) fn is_duplicate(&self) -> bool {
        matches!(self, Self::Sql(sqlx::Error::Database(error)) if error.is_unique_violation())
    }
}

/// The store failed, unless a unique name was taken.
pub(crate) fn taken(what: &'static str, name: impl ToString) -> impl FnOnce(Failed) -> StoreError {
    move |failed| match failed.is_duplicate() {
        true => StoreError::exists(what, name),
        false => failed.into(),
    }
}
