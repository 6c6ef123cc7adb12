//! Whether a request fulfils a condition, as far as that is known.

use jiff::{Timestamp, civil::Weekday};

use crate::{
    Clause, Cluster, Conditions, Day, Facts, Hours, Labels, Mfa, MfaDemand, Target, Unmet, cedar,
    document::carries,
    matcher::{Asked, Matcher},
    words::Words,
};

/// The answer of a condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Holds<'p> {
    Yes,
    No(Unmet<'p>),
    /// It cannot be known: a binding does not count, a denial does.
    Unknown(Unmet<'p>),
}

impl Holds<'_> {
    fn is(holds: bool) -> impl FnOnce(Unmet<'_>) -> Holds<'_> {
        move |unmet| if holds { Holds::Yes } else { Holds::No(unmet) }
    }
}

/// All that a condition is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) who: &'a ztka_core::Principal,
    pub(crate) action: &'a crate::Action<'a>,
    pub(crate) asked: &'a Asked<'a>,
    pub(crate) cluster: &'a Cluster,
    pub(crate) facts: &'a Facts<'a>,
}

/// When and under which conditions a binding or a denial counts.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) from: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
    pub(crate) when: Clause<Conditions>,
    request: Box<[Matcher]>,
    cedar: Option<cedar::Condition>,
}

impl Terms {
    /// None if it always counts.
    pub(crate) fn new(
        words: &mut Words,
        cedar: &mut cedar::Conditions,
        from: Option<Timestamp>,
        until: Option<Timestamp>,
        when: &Clause<Conditions>,
    ) -> Option<Box<Self>> {
        if from.is_none() && until.is_none() && when.is_empty() {
            return None;
        }
        let rules = when.known().into_iter().flat_map(|when| &when.request);
        let request = rules.map(|rule| Matcher::new(words, rule)).collect();
        let cedar = when.known().and_then(|when| when.cedar.as_deref()).map(|text| cedar.read(text));
        Some(Box::new(Self { from, until, when: when.clone(), request, cedar }))
    }

    /// True if the answer may change while nothing but time passes.
    pub(crate) fn is_timed(&self) -> bool {
        let timed = |when: &Conditions| when.hours.is_some() || when.mfa.is_some() || when.cedar.is_some();
        self.from.is_some() || self.until.is_some() || self.when.known().is_some_and(timed)
    }

    /// True if the answer depends on more than who asks, and in which term.
    pub(crate) fn ask_of_requests(&self) -> bool {
        let of_users = |when: &Conditions| *when == Conditions { user: when.user.clone(), ..Conditions::default() };
        !self.when.known().is_some_and(of_users)
    }

    /// True if the answer may depend on the command of an exec.
    pub(crate) fn looks_at_commands(&self) -> bool {
        self.when.known().is_some_and(|when| !when.commands.is_empty() || when.cedar.is_some())
    }

    /// Asks one after the other, the cheap ones first.
    pub(crate) fn hold(&self, request: &Request<'_>) -> Holds<'_> {
        let mut unknown = Holds::Yes;
        for next in [Self::term, Self::moment, Self::user, Self::place, Self::what] {
            match next(self, request) {
                Holds::Yes => {}
                no @ Holds::No(_) => return no,
                maybe @ Holds::Unknown(_) => unknown = maybe,
            }
        }
        unknown
    }

    /// What is wrong with the time, if it has not begun or is over.
    pub(crate) fn out_of_term(&self, now: Timestamp) -> Option<Unmet<'static>> {
        match (self.from, self.until) {
            (Some(from), _) if now < from => Some(Unmet::NotYet),
            (_, Some(until)) if now >= until => Some(Unmet::Over),
            _ => None,
        }
    }

    fn term(&self, request: &Request<'_>) -> Holds<'_> {
        if let Some(unmet) = self.out_of_term(request.facts.now) {
            return Holds::No(unmet);
        }
        match self.when {
            Clause::Known(_) => Holds::Yes,
            Clause::Unknown(_) => Holds::Unknown(Unmet::NotUnderstood),
        }
    }

    fn moment(&self, request: &Request<'_>) -> Holds<'_> {
        let Some(Conditions { hours, networks, .. }) = self.when.known() else { return Holds::Yes };
        if hours.as_ref().is_some_and(|hours| !hours.contain(request.facts.now)) {
            return Holds::No(Unmet::Hours);
        }
        match request.facts.source {
            _ if networks.is_empty() => Holds::Yes,
            None => Holds::Unknown(Unmet::Network),
            Some(source) => Holds::is(networks.iter().any(|network| network.contains(source)))(Unmet::Network),
        }
    }

    fn user(&self, request: &Request<'_>) -> Holds<'_> {
        let Some(Conditions { mfa, user, .. }) = self.when.known() else { return Holds::Yes };
        match (mfa, request.facts.mfa) {
            (Some(_), None) => return Holds::Unknown(Unmet::Mfa),
            (Some(demand), Some(given)) if !demand.is_met(given, request.facts.now) => return Holds::No(Unmet::Mfa),
            _ => {}
        }
        let known = request.who.attributes();
        match user.iter().find(|(key, wanted)| !is_one_of(known, key, wanted)) {
            Some((key, _)) => Holds::No(Unmet::User(key)),
            None => Holds::Yes,
        }
    }

    fn place(&self, request: &Request<'_>) -> Holds<'_> {
        let Some(Conditions { cluster_labels, namespace_labels, .. }) = self.when.known() else { return Holds::Yes };
        if !carries(&request.cluster.labels, cluster_labels) {
            return Holds::No(Unmet::ClusterLabels);
        }
        if namespace_labels.is_empty() {
            return Holds::Yes;
        }
        let known: Option<&Labels> =
            request.action.namespace().and_then(|namespace| request.cluster.namespaces.get(namespace));
        match known {
            Some(labels) => Holds::is(carries(labels, namespace_labels))(Unmet::NamespaceLabels),
            None => Holds::Unknown(Unmet::NamespaceLabels),
        }
    }

    fn what(&self, request: &Request<'_>) -> Holds<'_> {
        let Some(Conditions { commands, request: rules, .. }) = self.when.known() else { return Holds::Yes };
        if !rules.is_empty() {
            let covers = self.request.iter().any(|matcher| matcher.covers(request.asked));
            if !covers && self.request.iter().any(|matcher| matcher.touches(request.asked)) {
                return Holds::Unknown(Unmet::Request);
            }
            if !covers {
                return Holds::No(Unmet::Request);
            }
        }
        if !commands.is_empty() {
            match request.facts.command {
                _ if !request.asked.is_exec() => return Holds::No(Unmet::Command),
                None => return Holds::Unknown(Unmet::Command),
                Some(command) if !commands.iter().any(|pattern| pattern.matches(command)) => {
                    return Holds::No(Unmet::Command);
                }
                Some(_) => {}
            }
        }
        self.cedar.as_ref().map_or(Holds::Yes, |condition| condition.hold(request))
    }
}

fn is_one_of(known: &Labels, key: &str, wanted: &[String]) -> bool {
    known.get(key).is_some_and(|value| wanted.contains(value))
}

impl Conditions {
    /// True if somebody with these attributes is meant, as far as they are asked for by `user`.
    pub fn is_for(&self, attributes: &Labels) -> bool {
        self.user.iter().all(|(key, wanted)| is_one_of(attributes, key, wanted))
    }
}

impl Hours {
    /// True if `now` is within.
    pub fn contain(&self, now: Timestamp) -> bool {
        let local = self.utc_offset.offset().to_datetime(now);
        let today = match local.date().weekday() {
            Weekday::Monday => Day::Mon,
            Weekday::Tuesday => Day::Tue,
            Weekday::Wednesday => Day::Wed,
            Weekday::Thursday => Day::Thu,
            Weekday::Friday => Day::Fri,
            Weekday::Saturday => Day::Sat,
            Weekday::Sunday => Day::Sun,
        };
        (self.days.is_empty() || self.days.contains(&today)) && self.from <= local.time() && local.time() < self.until
    }
}

impl MfaDemand {
    fn is_met(&self, given: Mfa, now: Timestamp) -> bool {
        let age = now.duration_since(given.at);
        // One from the future was not given yet.
        given.strength >= self.strength && !age.is_negative() && self.max_age.is_none_or(|limit| age <= limit)
    }
}

/// True for a question about the command of an exec in the core group.
pub(crate) fn has_command(target: &Target<'_>) -> bool {
    matches!(target, Target::Resource { group: "", resource: "pods", subresource: Some("exec"), .. })
}
