//! How a document says whether sessions are recorded: `off`, `on`, `required`; `true` and `false` are older.

use std::fmt;

use serde::{Deserializer, Serializer, de};
use ztka_core::Recording;

pub(super) fn is_off(recording: &Recording) -> bool {
    *recording == Recording::Off
}

/// What is required is `true`, as servers know it that know nothing else; they refuse `on` as what they do not understand.
pub(super) fn serialize<S: Serializer>(recording: &Recording, serializer: S) -> Result<S::Ok, S::Error> {
    match recording {
        Recording::Off => serializer.serialize_bool(false),
        Recording::On => serializer.serialize_str("on"),
        Recording::Required => serializer.serialize_bool(true),
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Recording, D::Error> {
    deserializer.deserialize_any(Word)
}

struct Word;

impl de::Visitor<'_> for Word {
    type Value = Recording;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("off, on, required, true or false")
    }

    fn visit_bool<E: de::Error>(self, required: bool) -> Result<Recording, E> {
        Ok(if required { Recording::Required } else { Recording::Off })
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<Recording, E> {
        match word {
            "off" => Ok(Recording::Off),
            "on" => Ok(Recording::On),
            "required" => Ok(Recording::Required),
            _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
        }
    }
}
