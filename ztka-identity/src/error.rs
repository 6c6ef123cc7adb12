//! What a store answers when it cannot do as asked.

use ztka_core::BoxError;

/// A change or a question that a store could not carry out. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such thing, or not in this organisation.
    #[error("there is no {what} {name:?}")]
    NotFound {
        /// What was looked for: `"user"`, `"cluster"`.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// The name is taken.
    #[error("there is a {what} {name:?} already; choose another name")]
    Exists {
        /// What was to be made.
        what: &'static str,
        /// Its name or id.
        name: String,
    },
    /// What is stored does not allow it; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// Somebody else has changed it since the caller looked.
    #[error("the {what} {name:?} is at version {version}, not at the expected one; look at it again, then try again")]
    Changed {
        /// What was to be changed.
        what: &'static str,
        /// Its name or id.
        name: String,
        /// The version of its last change.
        version: u64,
    },
    /// Changes after the revision asked for are not kept any more, or never were: it is of another history.
    #[error("the changes after that revision are not kept any more; list again, and go on from there")]
    Compacted,
    /// The store itself failed. An [`Outage`](crate::Outage) among the sources says in which way.
    #[error("the store cannot be used now; look at the controller's log and its disk")]
    Unavailable(#[source] BoxError),
}

impl StoreError {
    /// There is no `what` of this name.
    pub fn not_found(what: &'static str, name: impl ToString) -> Self {
        Self::NotFound { what, name: name.to_string() }
    }

    /// There is a `what` of this name already.
    pub fn exists(what: &'static str, name: impl ToString) -> Self {
        Self::Exists { what, name: name.to_string() }
    }

    /// In which way the store itself failed, if it did and this is known.
    pub fn outage(&self) -> Option<crate::OutageKind> {
        crate::OutageKind::of(self)
    }

    /// The store failed because of `source`.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }
}
