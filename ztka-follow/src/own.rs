//! Whose policy is put in force: agents have the projection to their own cluster, and nothing of any other.

use std::sync::PoisonError;

use ztka_core::{ClusterId, DocumentHeader, DocumentKind, DocumentSet, OrgId, Revision, SeriesKey};

use crate::Documents;

/// The cluster of an agent, by what its policy is called.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    org: OrgId,
    pub(crate) projection: SeriesKey,
    whole: SeriesKey,
}

/// What is to be done with a document, if it is signed and not over.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Standing {
    /// What is done with every document.
    Regular,
    /// Nothing: what it is needed for is held already, and newer ones come.
    Replaced,
    /// It is older than the whole that is gone by.
    Behind,
    /// It is not for us.
    Foreign,
}

impl Own {
    pub(crate) fn new(org: OrgId, cluster: &ClusterId) -> Self {
        let (projection, whole) = (SeriesKey::projection(org.clone(), cluster), SeriesKey::policy(org.clone()));
        Self { org, projection, whole }
    }

    fn standing(&self, held: &DocumentSet, header: &DocumentHeader) -> Standing {
        let series = &header.series;
        if series.org.as_ref().is_some_and(|org| *org != self.org) {
            return Standing::Foreign;
        }
        match series.kind {
            DocumentKind::Policy if *series == self.projection => {
                let whole = held.held(&self.whole).map(|whole| whole.header().revision);
                if whole > Some(header.revision) { Standing::Behind } else { Standing::Regular }
            }
            DocumentKind::Policy if *series != self.whole => Standing::Foreign,
            DocumentKind::Policy if held.held(&self.projection).is_some() => Standing::Replaced,
            _ => Standing::Regular,
        }
    }
}

impl Documents {
    /// What is to be done with a document of which this is the header.
    pub(crate) fn standing(&self, held: &DocumentSet, header: &DocumentHeader) -> Standing {
        self.0.own.as_ref().map_or(Standing::Regular, |own| own.standing(held, header))
    }

    /// True for what is of no use to an agent, whatever is in it.
    pub(crate) fn is_needless(&self, header: &DocumentHeader) -> bool {
        let held = self.0.set.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(self.standing(&held, header), Standing::Replaced | Standing::Foreign)
    }

    /// Forgets what a document that has just come into force makes needless: the whole that an agent has gone by until its
    /// projection came, and the projections to clusters that are gone, of who hands them on. Returns of what series, since what is
    /// kept of them is removed when what has come is.
    pub(crate) fn replace(&self, held: &mut DocumentSet, header: &DocumentHeader) -> Vec<SeriesKey> {
        let series = &header.series;
        match &self.0.own {
            Some(own) if *series == own.projection && held.remove(&own.whole) => {
                tracing::info!("the policy is that of this cluster alone from now on");
                vec![own.whole.clone()]
            }
            None if series.kind == DocumentKind::Policy && !series.is_projection() => {
                let Some(org) = &series.org else { return Vec::new() };
                // One that is not in force tells nothing.
                let Ok(policy) = self.engine().policy(org) else { return Vec::new() };
                let is_gone = |series: &SeriesKey| {
                    let cluster = series.subject.parse::<ClusterId>();
                    series.is_projection()
                        && series.org.as_ref() == Some(org)
                        && cluster.is_ok_and(|cluster| policy.cluster(&cluster).is_none())
                };
                let all = held.iter().map(|document| &document.header().series);
                let gone: Vec<_> = all.filter(|series| is_gone(series)).cloned().collect();
                for series in &gone {
                    held.remove(series);
                    self.handed_on(series, None);
                }
                gone
            }
            _ => Vec::new(),
        }
    }

    /// The newest projection of this series is of this revision.
    pub(crate) fn handed_on(&self, series: &SeriesKey, revision: Option<Revision>) {
        if let (Some(org), Ok(cluster)) = (&series.org, series.subject.parse()) {
            self.engine().hands_on(org, &cluster, revision);
        }
    }
}
