//! What a key is kept under.

use std::{fmt, str::FromStr};

use super::KeyError;

/// What a key is kept under: 1 to 100 of `a-z`, `0-9`, `.` and `-`, first a letter or digit. Fits a file name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct KeyName(String);

impl KeyName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyName {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = (1..=100).contains(&text.len())
            && text.bytes().all(|byte| alphanumeric(byte) || b".-".contains(&byte))
            && text.bytes().next().is_some_and(alphanumeric);
        if fits { Ok(Self(text.into())) } else { Err(KeyError::Name) }
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
