//! Annotations of an event: a small map that keeps its order.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};

const PREFIX: &str = "ztka.dev/";

/// Annotations by their full name, in the order in which they were set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations(Vec<(Name, String)>);

#[derive(Clone, Debug, PartialEq)]
enum Name {
    Own(Cow<'static, str>),
    Other(String),
}

impl Name {
    fn parse(text: &str) -> Self {
        match text.strip_prefix(PREFIX) {
            Some(own) => Self::Own(own.to_owned().into()),
            None => Self::Other(text.into()),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(name) => write!(f, "{PREFIX}{name}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl Annotations {
    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `ztka.dev/<name>`.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| matches!(own, Name::Own(own) if own == name)).map(|(_, value)| value.as_str())
    }

    /// Sets `ztka.dev/<name>`, in the place of an earlier value.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        let value = value.into();
        match self.0.iter_mut().find(|(own, _)| matches!(own, Name::Own(own) if own == name)) {
            Some((_, held)) => *held = value,
            None => self.0.push((Name::Own(Cow::Borrowed(name)), value)),
        }
    }

    /// Takes `ztka.dev/<name>` away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(own, _)| !matches!(own, Name::Own(own) if own == name));
    }

    /// All, by their full name.
    pub fn iter(&self) -> impl Iterator<Item = (String, &str)> {
        self.0.iter().map(|(name, value)| (name.to_string(), value.as_str()))
    }
}

impl Serialize for Annotations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(&format_args!("{name}"), value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Annotations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;

        impl<'de> Visitor<'de> for Map {
            type Value = Annotations;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of annotations")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Annotations, A::Error> {
                let mut held = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    held.push((Name::parse(&name), value));
                }
                Ok(Annotations(held))
            }
        }

        deserializer.deserialize_map(Map)
    }
}
