//! The change feed of an organisation.

use serde::{Deserialize, Serialize};

/// From where to watch.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChangeQuery {
    /// The revision up to which everything was seen; without it, everything there is gets listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// Everything that an organisation has, as it was at one revision.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Listing {
    /// Watching goes on from here.
    pub revision: String,
    /// By kind and name.
    pub resources: Vec<Resource>,
}

/// A resource and when it was changed last.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Resource {
    /// `user`, `group`, `credential`, `cluster`, `role`, `binding`, or `org` for the organisation itself.
    pub kind: String,
    /// Its id; the name of a group, a role, a binding.
    pub name: String,
    /// The version of the organisation that has changed it last.
    pub version: u64,
}

/// A line of a watch: a change, or a bookmark, which has nothing but its revision.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ChangeLine {
    /// Everything up to this revision was seen.
    pub revision: String,
    /// What has changed; none in a bookmark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its id or name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `created`, `updated` or `deleted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}
