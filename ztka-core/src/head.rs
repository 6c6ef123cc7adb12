//! What a `head` document says: which revision of each series its receivers are to have.

use http::HeaderName;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use crate::{DocumentKind, OrgId, Revision, SeriesKey};

/// Header by which a follower asks the controller for heads; the value does not matter. Without it none are sent.
pub static HEADS: HeaderName = HeaderName::from_static("ztka-heads");

/// Header by which a proxy asks the controller for the projections of policies, to hand them on to agents; the value does not
/// matter. Without it none are sent: older proxies would take one for the whole.
pub static PROJECTIONS: HeaderName = HeaderName::from_static("ztka-projections");

/// Body of a `head` document, one for each organisation. It is signed every few seconds, so that whoever follows knows how
/// old its own view is, and whether something is kept from it.
///
/// Entries of kinds that this version does not know are left out when it is read: nobody misses what they cannot hold.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Head {
    /// The newest of each series of the organisation and of the installation. Sessions are not among them, nor projections:
    /// these are at the version of their policy, and who is to have one is behind as long as it is older.
    pub newest: Vec<Newest>,
}

/// The newest document of one series.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Newest {
    /// What it is.
    pub kind: DocumentKind,
    /// Whose; none for the whole installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// Which of several, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Its place in the series.
    #[serde(flatten)]
    pub revision: Revision,
}

impl Newest {
    /// The series.
    pub fn series(&self) -> SeriesKey {
        SeriesKey { kind: self.kind, org: self.org.clone(), subject: self.subject.clone() }
    }
}

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Entries {
            newest: Vec<Value>,
        }
        let is_known = |entry: &Value| entry.get("kind").is_none_or(|kind| DocumentKind::deserialize(kind).is_ok());
        let entries = Entries::deserialize(deserializer)?.newest.into_iter().filter(is_known);
        let newest = entries.map(serde_json::from_value).collect::<Result<_, _>>().map_err(D::Error::custom)?;
        Ok(Self { newest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entry: &str) -> Result<Head, serde_json::Error> {
        serde_json::from_str(&format!(r#"{{"newest":[{entry}]}}"#))
    }

    #[test]
    fn entries_are_read_back_and_those_of_later_versions_left_out() {
        let revision = Revision { epoch: 1, version: 42 };
        let of = |kind, org: Option<&str>| Newest {
            kind,
            org: org.map(|org| org.parse().unwrap()),
            subject: String::new(),
            revision,
        };
        let head = Head { newest: vec![of(DocumentKind::Trust, None), of(DocumentKind::Policy, Some("acme"))] };
        let text = serde_json::to_string(&head).unwrap();
        assert_eq!(serde_json::from_str::<Head>(&text).unwrap(), head);
        assert!(text.contains(r#"{"kind":"policy","org":"acme","epoch":1,"version":42}"#), "{text}");

        assert_eq!(read(r#"{"kind":"weather","outlook":"fair"}"#).unwrap(), Head::default());
        for bad in ["{}", "7", r#"{"kind":"policy"}"#, r#"{"kind":"policy","epoch":1,"version":-1}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Head>("{}").is_err());
    }
}
