//! How old what is known of each organisation is: heads, and what they make of the documents held.
//!
//! A view is of the time at which the newest head was signed of which everything that it names is held. A head that names more
//! makes nothing younger, so that whoever passes heads on and keeps documents back gains no more than by silence. Documents
//! themselves tell the time too (the oldest signature among those of an organisation): they are signed again every hour, so a
//! controller that sends no heads, or a start without one, leaves a view that is an hour older at most.

use std::{
    collections::HashMap,
    sync::{MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast;
use ztka_core::{DocumentKind, DocumentSet, Head, OrgId, Rejected, Revision, SeriesKey, SignedDocument, Verified};

use crate::Documents;

/// Nobody is let in by an older view; whoever runs the server may set less.
pub(crate) const MAX_STALENESS: SignedDuration = SignedDuration::from_hours(24);
/// Heads that may wait to be handed on. Whoever is behind by more hears the next ones.
pub(crate) const WAITING: usize = 1024;
/// The age is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// Of each organisation.
pub(crate) type Views = HashMap<OrgId, View>;

/// What is known of one organisation, and as of when.
#[derive(Debug, Default)]
pub(crate) struct View {
    /// The newest head.
    head: Option<(Verified<SignedDocument>, Head)>,
    /// It never goes back.
    as_of: Option<Timestamp>,
}

fn series(kind: DocumentKind, org: Option<&OrgId>) -> SeriesKey {
    SeriesKey { kind, org: org.cloned(), subject: String::new() }
}

impl View {
    /// True if something is named that is not held.
    fn update(&mut self, org: &OrgId, own: Option<&SeriesKey>, held: &DocumentSet) -> bool {
        let needed = [
            series(DocumentKind::Trust, None),
            series(DocumentKind::Revocations, None),
            series(DocumentKind::Revocations, Some(org)),
            series(DocumentKind::Policy, Some(org)),
        ];
        let signed = needed
            .iter()
            .chain(own)
            .filter_map(|series| held.held(series))
            .map(|document| document.header().issued)
            .min();
        let is_new = |series: &SeriesKey, revision: Revision| {
            held.held(series).is_some_and(|held| held.header().revision >= revision)
        };
        let is_held = |newest: &ztka_core::Newest| {
            matches!(newest.kind, DocumentKind::Session | DocumentKind::Head)
                || is_new(&newest.series(), newest.revision)
                // An agent has its part of a policy in place of the whole, at the same version,
                || newest.kind == DocumentKind::Policy && own.is_some_and(|own| is_new(own, newest.revision))
                // and of others nothing.
                || own.is_some_and(|own| newest.series().is_projection() && newest.series() != *own)
        };
        let (behind, told) = match &self.head {
            Some((head, named)) if named.newest.iter().all(is_held) => (false, Some(head.header().issued)),
            Some(_) => (true, None),
            None => (false, None),
        };
        self.as_of = self.as_of.max(signed).max(told);
        behind
    }
}

impl Documents {
    /// Believes a head by the rules of every document, and that its view is as old as it says.
    pub(crate) fn accept_head(&self, document: SignedDocument) -> Result<bool, Rejected> {
        let inner = &self.0;
        let SeriesKey { org: Some(org), subject, .. } = document.header().series.clone() else {
            return Err(Rejected::Unreadable);
        };
        let mut views = self.views();
        let held = views.get(&org).and_then(|view| view.head.as_ref()).map(|(held, _)| held);
        let place = |document: &SignedDocument| (document.header().revision, document.header().issued);
        if held.is_some_and(|held| place(held) == place(&document)) {
            return Ok(false);
        }
        let accepted = document.accept(&*inner.trust.bundle(), held, inner.clock.now())?;
        let head: Head = accepted.body()?;
        let is_foreign = |named: &ztka_core::Newest| named.org.as_ref().is_some_and(|named| *named != org);
        if !subject.is_empty() || head.newest.iter().any(is_foreign) {
            return Err(Rejected::Unreadable);
        }
        let view = views.entry(org.clone()).or_default();
        view.head = Some((accepted.clone(), head));
        self.look_at(&org, view);
        drop(views);
        if let Some(disk) = inner.disk.as_ref().filter(|_| inner.keep_heads.load(Relaxed)) {
            disk.keep_head(&accepted);
        }
        let _ = inner.heads.send(accepted); // nobody hands them on in an agent
        Ok(true)
    }

    /// A document of this series is held from now on.
    pub(crate) fn seen(&self, series: &SeriesKey) {
        let mut views = self.views();
        match &series.org {
            Some(org) => self.look_at(org, views.entry(org.clone()).or_default()),
            None => views.iter_mut().for_each(|(org, view)| self.look_at(org, view)),
        }
    }

    fn look_at(&self, org: &OrgId, view: &mut View) {
        let held = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.0.own.as_ref().map(|own| &own.projection);
        let behind = view.update(org, own.filter(|own| own.org.as_ref() == Some(org)), &held);
        drop(held);
        if let Some(as_of) = view.as_of {
            self.0.engine.known_as_of(org, as_of, behind);
        }
    }

    /// Locked before the documents, where both are.
    fn views(&self) -> MutexGuard<'_, Views> {
        self.0.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets nobody in by a view that is older than `limit`; 24 h if it is not said. If it is less, heads are kept on the disk as
    /// well (not synced: what a power loss takes comes again), so that the age is known after a restart.
    pub fn set_max_staleness(&self, limit: SignedDuration) {
        self.0.engine.set_max_staleness(limit);
        self.0.keep_heads.store(limit < MAX_STALENESS, Relaxed);
    }

    /// Heads from now on as they come, to hand them on: each after every document that it names, if those are held.
    pub fn heads(&self) -> broadcast::Receiver<Verified<SignedDocument>> {
        self.0.heads.subscribe()
    }

    /// Shows how old the oldest view is as the metric `ztka_view_age_seconds`, and says it when nobody is let in for it, until
    /// dropped.
    pub async fn watch_age(self) {
        let mut told = 0;
        loop {
            let (age, stale) = self.engine().staleness();
            metrics::gauge!("ztka_view_age_seconds").set(age.as_secs_f64().max(0.0));
            match (told, stale) {
                (0, 1..) => tracing::error!(
                    %age,
                    organisations = stale,
                    "nobody is let in: what is known is too old; check that a controller can be reached, and the clocks"
                ),
                (1.., 0) => tracing::info!("what is known is new enough again"),
                _ => {}
            }
            told = stale;
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests;
