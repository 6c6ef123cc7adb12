//! A part of a policy that a version may not understand yet.

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// What is understood, or what is not: then the part of policy around it gives nothing and denies all that it could.
///
/// A document of a newer controller stays readable this way, and nobody gains anything by what an older server does not
/// know. Nobody may *write* what is not understood: [`validate`](crate::PolicyDocument::validate) refuses it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Clause<T> {
    /// It means this.
    Known(T),
    /// Nobody knows what it means.
    Unknown(Value),
}

impl<T: Default> Default for Clause<T> {
    fn default() -> Self {
        Self::Known(T::default())
    }
}

impl<T: Default + PartialEq> Clause<T> {
    /// True if it asks for nothing.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Known(known) if *known == T::default())
    }
}

impl<T: DeserializeOwned> Clause<T> {
    /// What is understood.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Unknown(_) => None,
        }
    }

    /// Why it is not understood.
    pub(crate) fn problem(&self) -> Option<String> {
        match self {
            Self::Known(_) => None,
            Self::Unknown(value) => T::deserialize(value).err().map(|error| error.to_string()),
        }
    }
}

impl<T> From<T> for Clause<T> {
    fn from(known: T) -> Self {
        Self::Known(known)
    }
}
