//! The keys that what is stored is sealed under. None of these says anything of what a key is.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A data key, which seals what an organisation has.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DataKey {
    /// When it was made.
    pub created: Timestamp,
    /// The id of the master key that wraps it.
    pub master: String,
}

/// The data keys of an organisation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct DataKeys {
    /// Newest first, which is the one that seals. The others go when nothing is under them any more, some minutes after
    /// everything was sealed anew.
    pub keys: Vec<DataKey>,
    /// What is under others is being sealed anew; none if there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealing: Option<Progress>,
}

/// A master key, which wraps data keys and is never stored.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MasterKey {
    /// What it is called in the database and in errors.
    pub id: String,
    /// True if the controller that answers wraps with it.
    pub current: bool,
    /// True if the controller that answers has it.
    pub configured: bool,
    /// How many data keys are wrapped by it; 0: it can be taken out of every configuration.
    pub data_keys: u64,
}

/// The master keys of the installation.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct MasterKeys {
    /// In the order of their ids.
    pub keys: Vec<MasterKey>,
    /// Data keys are being wrapped anew; none if there is nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrapping: Option<Progress>,
}

/// How far something is that is done in the background.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Progress {
    /// When it was asked for.
    pub since: Timestamp,
    /// How much is done.
    pub done: u64,
    /// Why it could not go on the last time, if it could not; it is tried again by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}
