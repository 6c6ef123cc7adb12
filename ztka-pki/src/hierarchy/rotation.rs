//! Where the rotation of an authority is, and what each step makes of what is stored. No I/O, no clock.
//!
//! ```text
//!            request (root's key elsewhere)
//!           ┌──────────► requested ─┐ certificate
//! (nothing) ┤                       ▼            activate              retire
//!           └─────────────────► published ─────────────────► activated ──────► (nothing)
//!               publish             │ roll back                │   ▲
//!                                   ▼                          └───┘ roll back: the other one signs again
//!                               (nothing)
//! ```

use std::{collections::BTreeMap, fmt, mem};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Announcer, AuthorityName, HierarchyState, StoredAuthority, Withdrawn};
use crate::{Purpose, authority::IssueError};

/// How far a rotation is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The new key is made; its certificate is awaited from whoever holds the root.
    Requested,
    /// The new one is believed, the old one signs.
    Published,
    /// The new one signs, the old one is believed.
    Activated,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requested => "requested",
            Self::Published => "published",
            Self::Activated => "activated",
        })
    }
}

/// When an authority has signed.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Signed {
    /// From when on, if it is not the oldest.
    pub from: Option<Timestamp>,
    /// Until when.
    pub until: Timestamp,
}

/// What a new root brings with it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RootChange {
    /// The new root's key, certified by the old root, in PEM: for whoever knows the old one only.
    pub cross: String,
    /// The purposes' keys, certified by the root that is not in use.
    pub purposes: BTreeMap<Purpose, StoredAuthority>,
}

/// A rotation under way.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Rotation {
    /// How far it is.
    pub phase: Phase,
    /// Since when.
    pub since: Timestamp,
    /// When the new one was published.
    pub published: Timestamp,
    /// The one that does not sign: the new one at first, the old one once the new one is activated.
    pub standby: StoredAuthority,
    /// The one that signs, of an organisation's authority; others are where they always are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<StoredAuthority>,
    /// When `standby` has signed, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<Signed>,
    /// When the new one was activated first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<Timestamp>,
    /// It was rolled back after it was activated: the old one signs again, and the new one is on its way out.
    #[serde(default)]
    pub reversed: bool,
    /// Each step is taken as soon as nobody has to be waited for any more.
    #[serde(default)]
    pub automatic: bool,
    /// No step is taken.
    #[serde(default)]
    pub paused: bool,
    /// Of the root's rotation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootChange>,
}

/// A new authority on its way in.
#[derive(Clone, Debug)]
pub(super) struct Incoming {
    pub(super) authority: StoredAuthority,
    /// The one that signs now, of an organisation's authority.
    pub(super) signer: Option<StoredAuthority>,
    pub(super) root: Option<RootChange>,
}

/// Why a step of a rotation is not taken; nothing has changed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// There is none.
    #[error("no rotation of {0} is under way; begin with publish")]
    NotRotating(AuthorityName),
    /// There is one.
    #[error("a rotation of {name} is under way already ({phase}); finish it or roll it back first")]
    UnderWay {
        /// The authority.
        name: AuthorityName,
        /// How far it is.
        phase: Phase,
    },
    /// Another step is next.
    #[error("the rotation of {name} is {phase}; {next} comes next")]
    Phase {
        /// The authority.
        name: AuthorityName,
        /// How far it is.
        phase: Phase,
        /// What may be done.
        next: &'static str,
    },
    /// It is paused.
    #[error("the rotation of {0} is paused; resume it first")]
    Paused(AuthorityName),
    /// Another rotation is in the way.
    #[error("{name} cannot be rotated while {other} is being rotated; finish that, or roll it back first")]
    InTheWay {
        /// The authority.
        name: AuthorityName,
        /// The other one.
        other: AuthorityName,
    },
    /// It cannot be undone.
    #[error("the root cannot be rolled back: {0} has been replaced under the new root since; go on with retire")]
    Replaced(Purpose),
    /// Somebody has to be waited for.
    #[error("{} still to be waited for; see the list, or take the step without them", .0.len())]
    Waiting(Vec<super::Straggler>),
    /// The root's key is not here.
    #[error("the root's key is not kept here; request a certificate, and have it signed by the root")]
    RootElsewhere,
    /// Somebody else has changed the hierarchy at the same moment.
    #[error("the certificate authorities were changed by somebody else at the same moment; look, and try again")]
    Conflict,
    /// The certificate brought is refused.
    #[error(transparent)]
    Import(#[from] super::ImportError),
    /// The new authority cannot be made.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// The store cannot be used.
    #[error("the certificate authorities cannot be stored or read")]
    Store(#[source] ztka_core::BoxError),
}

impl Rotation {
    fn new(phase: Phase, incoming: Incoming, at: Timestamp) -> Self {
        Self {
            phase,
            since: at,
            published: at,
            standby: incoming.authority,
            signer: incoming.signer,
            signed: None,
            activated: None,
            reversed: false,
            automatic: false,
            paused: false,
            root: incoming.root,
        }
    }
}

type Next = Result<HierarchyState, RotationError>;

impl HierarchyState {
    fn next(&self) -> Self {
        Self { generation: self.generation + 1, ..self.clone() }
    }

    /// The rotation of `name`, if it may go on.
    pub(super) fn rotation(&self, name: &AuthorityName) -> Result<&Rotation, RotationError> {
        let rotation = self.rotations.get(name).ok_or_else(|| RotationError::NotRotating(name.clone()))?;
        if rotation.paused { Err(RotationError::Paused(name.clone())) } else { Ok(rotation) }
    }

    pub(super) fn in_phase(&self, name: &AuthorityName, phase: Phase) -> Result<&Rotation, RotationError> {
        let rotation = self.rotation(name)?;
        if rotation.phase == phase {
            return Ok(rotation);
        }
        let next = match rotation.phase {
            Phase::Requested => "its certificate, or rollback,",
            Phase::Published => "activate or rollback",
            Phase::Activated => "retire or rollback",
        };
        Err(RotationError::Phase { name: name.clone(), phase: rotation.phase, next })
    }

    /// Whether a rotation of `name` may begin.
    pub(super) fn may_begin(&self, name: &AuthorityName) -> Result<(), RotationError> {
        if let Some(rotation) = self.rotations.get(name) {
            return Err(RotationError::UnderWay { name: name.clone(), phase: rotation.phase });
        }
        let in_the_way = |other: &AuthorityName, rotation: &Rotation| match (name, other) {
            // The new root certifies the purposes' keys of the moment.
            (AuthorityName::Root, AuthorityName::Purpose(_)) => true,
            (AuthorityName::Purpose(_), AuthorityName::Root) => rotation.phase != Phase::Activated || rotation.reversed,
            _ => false,
        };
        match self.rotations.iter().find(|(other, rotation)| in_the_way(other, rotation)) {
            Some((other, _)) => Err(RotationError::InTheWay { name: name.clone(), other: other.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn requested(&self, name: &AuthorityName, key: String, at: Timestamp) -> Next {
        self.may_begin(name)?;
        let authority = StoredAuthority { key, ..StoredAuthority::default() };
        let incoming = Incoming { authority, signer: None, root: None };
        let mut next = self.next();
        next.rotations.insert(name.clone(), Rotation::new(Phase::Requested, incoming, at));
        Ok(next)
    }

    pub(super) fn published(&self, name: &AuthorityName, incoming: Incoming, automatic: bool, at: Timestamp) -> Next {
        if self.rotations.get(name).is_none_or(|rotation| rotation.phase != Phase::Requested) {
            self.may_begin(name)?;
        }
        let mut next = self.next();
        let rotation = Rotation { automatic, ..Rotation::new(Phase::Published, incoming, at) };
        next.rotations.insert(name.clone(), rotation);
        Ok(next)
    }

    pub(super) fn activated(&self, name: &AuthorityName, at: Timestamp) -> Next {
        self.in_phase(name, Phase::Published)?;
        self.activated_anyway(name, at)
    }

    /// As [`Self::activated`], also of a rotation that is paused.
    pub(super) fn activated_anyway(&self, name: &AuthorityName, at: Timestamp) -> Next {
        let mut next = self.next();
        next.swap(name, at)?;
        Ok(next)
    }

    /// What has lived for two thirds of its life and may be rotated, the root first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<AuthorityName> {
        let root = std::iter::once((AuthorityName::Root, &self.root));
        let purposes = self.purposes.iter().map(|(purpose, stored)| (AuthorityName::Purpose(*purpose), stored));
        let old = |stored: &StoredAuthority| {
            let Some((from, until)) = stored.validity() else { return false };
            now.duration_since(from) > until.duration_since(from) / 3 * 2 && now < until
        };
        let due = root.chain(purposes).filter(|(name, stored)| old(stored) && self.may_begin(name).is_ok());
        let due: Vec<_> = due.map(|(name, _)| name).collect();
        // What is below would be certified once more a moment later.
        if due.contains(&AuthorityName::Root) { vec![AuthorityName::Root] } else { due }
    }

    /// Nothing was signed by what was only published: it goes. What has signed is believed until it is retired.
    pub(super) fn rolled_back(&self, name: &AuthorityName, at: Timestamp) -> Next {
        let rotation = self.rotation(name)?;
        let mut next = self.next();
        if rotation.phase != Phase::Activated {
            next.rotations.remove(name);
            next.discarded.extend(Some(rotation.standby.key.clone()).filter(|key| !key.is_empty()));
            return Ok(next);
        }
        next.swap(name, at)?;
        if let Some(rotation) = next.rotations.get_mut(name) {
            rotation.reversed = !rotation.reversed;
        }
        Ok(next)
    }

    /// Lets the other one sign.
    fn swap(&mut self, name: &AuthorityName, at: Timestamp) -> Result<(), RotationError> {
        let unknown = || RotationError::NotRotating(name.clone());
        let rotation = self.rotations.get_mut(name).ok_or_else(unknown)?;
        let signer = match name {
            AuthorityName::Root => &mut self.root,
            AuthorityName::Purpose(purpose) => self.purposes.get_mut(purpose).ok_or_else(unknown)?,
            AuthorityName::Org(..) => rotation.signer.as_mut().ok_or_else(unknown)?,
        };
        // Back and forth, each of them has signed since it did so first.
        let begun = rotation.activated.or(rotation.signed.map(|signed| signed.until));
        let new_goes = rotation.phase == Phase::Activated && !rotation.reversed;
        let from = if new_goes { begun } else { None };
        rotation.activated = begun.or(Some(at));
        mem::swap(signer, &mut rotation.standby);
        rotation.signed = Some(Signed { from, until: at });
        rotation.since = at;
        rotation.phase = Phase::Activated;
        if let Some(change) = &mut rotation.root {
            for (purpose, other) in &mut change.purposes {
                let current = self.purposes.get_mut(purpose).ok_or_else(unknown)?;
                if current.key != other.key {
                    return Err(RotationError::Replaced(*purpose));
                }
                mem::swap(current, other);
            }
        }
        Ok(())
    }

    pub(super) fn retired(&self, name: &AuthorityName, at: Timestamp) -> Next {
        self.in_phase(name, Phase::Activated)?;
        self.without_standby(name, false, at)
    }

    /// The one that is on its way out, or (without a rotation that is so far) the one that signs, is not believed from
    /// now on. Needs a successor that is published.
    pub(super) fn cut_off(&self, name: &AuthorityName, at: Timestamp) -> Next {
        let rotation = self.rotations.get(name).ok_or_else(|| RotationError::NotRotating(name.clone()))?;
        let mut state = self.clone();
        match rotation.phase {
            Phase::Requested => drop(self.in_phase(name, Phase::Published)?),
            Phase::Published => state.swap(name, at)?,
            Phase::Activated => {}
        }
        state.without_standby(name, true, at)
    }

    fn without_standby(&self, name: &AuthorityName, revoked: bool, at: Timestamp) -> Next {
        let mut next = self.next();
        let unknown = || RotationError::NotRotating(name.clone());
        let rotation = next.rotations.remove(name).ok_or_else(unknown)?;
        let outgoing = rotation.standby;
        // Of a purpose that goes by the rules the anchor is gone, which is enough.
        let below = matches!(name, AuthorityName::Org(..));
        let in_mesh = !matches!(name, AuthorityName::Root | AuthorityName::Purpose(Purpose::Signing));
        if in_mesh && (below || revoked) {
            let facts = outgoing.facts()?;
            let key = crate::key::key_id(&facts.spki);
            // An organisation's key may have been certified again since, for no longer than what is above it lasts.
            let above = match name {
                AuthorityName::Org(purpose, _) => next.purposes.get(purpose).and_then(StoredAuthority::validity),
                _ => None,
            };
            let until = above.map_or(facts.not_after, |(_, until)| until.max(facts.not_after));
            next.withdrawn.push(Withdrawn { key, revoked, until });
        }
        if revoked && *name == AuthorityName::Purpose(Purpose::Signing) {
            next.discarded.extend(next.announcer.take().map(|before| before.authority.key));
            next.announcer = Some(Announcer { authority: outgoing, since: at });
        } else if !outgoing.key.is_empty() {
            next.discarded.push(outgoing.key);
        }
        Ok(next)
    }

    pub(super) fn paused(&self, name: &AuthorityName, paused: bool) -> Next {
        let mut next = self.next();
        let rotation = next.rotations.get_mut(name).ok_or_else(|| RotationError::NotRotating(name.clone()))?;
        rotation.paused = paused;
        Ok(next)
    }

    /// What was waited for is done: keys that are destroyed, what has expired, what all have heard.
    pub(super) fn settled(&self, destroyed: &[String], announced: bool, now: Timestamp) -> Option<Self> {
        let mut next = self.next();
        next.discarded.retain(|key| !destroyed.contains(key));
        next.withdrawn.retain(|withdrawn| withdrawn.until > now);
        if announced {
            next.discarded.extend(next.announcer.take().map(|announcer| announcer.authority.key));
        }
        let same = Self { generation: self.generation, ..next.clone() } == *self;
        (!same).then_some(next)
    }
}
