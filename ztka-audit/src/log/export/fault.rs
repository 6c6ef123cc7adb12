//! What is wrong with an export.

use std::fmt;

use super::super::TreeHead;

/// Something that is not as it was logged.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// An event is not the one that was logged.
    Changed {
        /// Its leaf.
        leaf: u64,
        /// Its Audit-ID, as it says itself.
        audit_id: Option<String>,
    },
    /// Leaves are not there.
    Removed {
        /// The first.
        first: u64,
        /// The last.
        last: u64,
    },
    /// An event stands in another one's place.
    Moved {
        /// The leaf that it was logged as.
        leaf: u64,
        /// The place at which it stands.
        place: u64,
        /// Its Audit-ID.
        audit_id: Option<String>,
    },
    /// An event was never logged.
    Invented {
        /// The leaf that it claims to be, which another one is, or none.
        leaf: u64,
        /// Its Audit-ID, as it says itself.
        audit_id: Option<String>,
    },
    /// Hashes are not those of the log, so that nothing can be said of their leaves.
    Hashes {
        /// The first leaf.
        first: u64,
        /// The last leaf.
        last: u64,
    },
    /// Events are gone, and no event says that they went by retention or shredding.
    Uncovered {
        /// The first leaf.
        first: u64,
        /// The last leaf.
        last: u64,
    },
    /// The hashes at the edge do not make the root of the signed head.
    Root,
    /// An earlier signed head is of another history.
    Forked {
        /// That head.
        earlier: Box<TreeHead>,
        /// The one of this export.
        head: Box<TreeHead>,
    },
}

fn leaves(first: u64, last: u64) -> String {
    if first == last { format!("leaf {first}") } else { format!("leaves {first} to {last}") }
}

struct Id<'a>(&'a Option<String>);

impl fmt::Display for Id<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => write!(f, "Audit-ID {id}"),
            None => f.write_str("without an Audit-ID"),
        }
    }
}

impl Fault {
    /// A stable word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "changed",
            Self::Removed { .. } => "removed",
            Self::Moved { .. } => "moved",
            Self::Invented { .. } => "invented",
            Self::Hashes { .. } => "hashes",
            Self::Uncovered { .. } => "uncovered",
            Self::Root => "root",
            Self::Forked { .. } => "forked",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { leaf, audit_id } => {
                write!(f, "changed: leaf {leaf} ({}) is not the event that was logged there", Id(audit_id))
            }
            Self::Removed { first, last } => {
                let are = if first == last { "is" } else { "are" };
                write!(f, "removed: {} of the log {are} not in this file", leaves(*first, *last))
            }
            Self::Moved { leaf, place, audit_id } => {
                write!(f, "reordered: the event of leaf {leaf} ({}) stands in the place of leaf {place}", Id(audit_id))
            }
            Self::Invented { leaf, audit_id } => {
                write!(f, "invented: an event ({}) that claims to be leaf {leaf} was never logged", Id(audit_id))
            }
            Self::Hashes { first, last } => write!(
                f,
                "hashes: those of {} do not lead to the signed head, so these events prove nothing",
                leaves(*first, *last)
            ),
            Self::Uncovered { first, last } => write!(
                f,
                "removed: the events of {} are gone, and no event of retention or shredding says so",
                leaves(*first, *last)
            ),
            Self::Root => f.write_str("root: the hashes of this file do not make the root of its signed head"),
            Self::Forked { earlier, head } if head.size < earlier.size => write!(
                f,
                "forked: a head of {} has {} leaves, and this later one of {} has {}: the log was cut{}",
                earlier.time,
                earlier.size,
                head.time,
                head.size,
                restored(earlier, head)
            ),
            Self::Forked { earlier, head } => write!(
                f,
                "forked: the first {} leaves have another root than the head of {} says: this is another history{}",
                earlier.size,
                earlier.time,
                restored(earlier, head)
            ),
        }
    }
}

/// A restore is one explanation, and no excuse.
fn restored(earlier: &TreeHead, head: &TreeHead) -> String {
    if earlier.epoch == head.epoch {
        return String::new();
    }
    let (before, after) = (earlier.epoch, head.epoch);
    format!(" (the database was restored from a backup in between: epoch {before} became {after})")
}

/// Why nothing can be said of a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnExport {
    /// It cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] std::io::Error),
    /// Its first line is not that of an export.
    #[error("the file is not an export of the audit log, or of a version that is not known here")]
    Header,
    /// A line is none of an export.
    #[error("line {line} is not one of an export: the file was cut short or spoilt; export it again")]
    Line {
        /// Its number, from 1.
        line: u64,
    },
    /// Its head, or an earlier one, is not believed.
    #[error("the tree head of {of} is not believed")]
    Head {
        /// Of which file.
        of: &'static str,
        /// Why.
        #[source]
        source: ztka_core::BoxError,
    },
    /// An earlier head is of another organisation.
    #[error("the earlier head is of organisation {0}, and the export of another one")]
    OtherOrg(ztka_core::OrgId),
    /// An earlier head cannot be compared.
    #[error(
        "the earlier head of {size} leaves cannot be held against this file, which has leaves {from} to {to}; export \
         from leaf {size} on, or all of it"
    )]
    NotCompared {
        /// Its size.
        size: u64,
        /// The first leaf of the file.
        from: u64,
        /// The leaf after its last.
        to: u64,
    },
    /// An earlier head is newer than the export.
    #[error("the head to compare with was signed at {0}, after the export's; export again")]
    Newer(jiff::Timestamp),
}
