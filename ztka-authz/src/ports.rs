//! Ports of a pod: what a rule about port-forwarding names, and what a question knows of them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A port of a pod, `8080`, or a range of them, `9000-9100` (both ends belong to it).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A text that names no ports.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a port: write one from 1 to 65535 as 8080, or a range as 9000-9100")]
pub struct InvalidPorts;

impl Ports {
    /// True if `port` is meant.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// True if every port of `other` is meant.
    pub fn covers(self, other: Self) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl FromStr for Ports {
    type Err = InvalidPorts;

    fn from_str(text: &str) -> Result<Self, InvalidPorts> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        // One spelling only: neither a sign nor zeros in front.
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 && port.to_string() == text => Ok(port),
            _ => Err(InvalidPorts),
        };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(InvalidPorts);
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port as 8080, or a range as 9000-9100")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
                port.to_string().parse().map_err(E::custom)
            }
        }

        from.deserialize_any(Visitor)
    }
}

/// What a question knows of the port that it is about.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Port {
    /// Nothing, and nobody will look: what is allowed for some ports only is not allowed.
    #[default]
    Unknown,
    /// It will be asked again for each port as it is named, and none is reached before: allowed if some port may be.
    Later,
    /// This one.
    Is(u16),
}

impl Port {
    /// True if `allowed` (none of them: every port) lets this through.
    pub(crate) fn is_within(self, allowed: &[Ports]) -> bool {
        match self {
            _ if allowed.is_empty() => true,
            Self::Unknown => false,
            Self::Later => true,
            Self::Is(port) => allowed.iter().any(|ports| ports.contains(port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_one_spelling() {
        for (text, first, last) in
            [("1", 1, 1), ("8080", 8080, 8080), ("9000-9100", 9000, 9100), ("65535", 65535, 65535)]
        {
            assert_eq!(text.parse(), Ok(Ports { first, last }));
            assert_eq!(Ports { first, last }.to_string(), text);
        }
        for bad in ["", "0", "080", "+80", "-80", "80-", "-", "90-80", "65536", "http", "80,90", "1-2-3", " 80"] {
            assert_eq!(bad.parse::<Ports>(), Err(InvalidPorts), "{bad}");
        }
        assert_eq!(serde_json::from_str::<Vec<Ports>>("[80, \"90-91\"]").unwrap().len(), 2);
        for bad in ["[0]", "[70000]", "[-1]", "[8.5]", "[null]", "[true]"] {
            assert!(serde_json::from_str::<Vec<Ports>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_for_some_ports_covers_no_port_that_nobody_will_look_at() {
        let some = ["80".parse().unwrap(), "9000-9001".parse().unwrap()];
        let answers = [Port::Unknown, Port::Later, Port::Is(80), Port::Is(9001), Port::Is(9002)]
            .map(|port| port.is_within(&some));
        assert_eq!(answers, [false, true, true, true, false]);
        assert!([Port::Unknown, Port::Later, Port::Is(1)].iter().all(|port| port.is_within(&[])));
    }
}
