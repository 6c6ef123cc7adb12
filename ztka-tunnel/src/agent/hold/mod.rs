//! Which tunnels an agent is to hold: a state machine without sockets or clocks of its own.
//!
//! Time and events go in, actions come out. `dialer.rs` is the shell that carries the actions out, `tests/simulation` another one
//! in which a deterministic world does.
//!
//! ```text
//!              Dial                     Begin                Ready
//!   vacant ─────────► being dialled ───────────► set up ───────────► held ──► lost: vacant, and dialled elsewhere
//!                        │ of no use                                  │
//!                        ▼                                            ▼ outdated or draining
//!                     HangUp                         held, and another is dialled; when it is ready:
//!                                                    Drain ──► retired ──► ended, or Cut when it takes too long
//! ```
mod pace;
mod target;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Instant};

use ztka_core::ProxyId;

use self::{
    pace::{Jitter, Pace},
    target::{Holding, Need, Next, Targets},
};
use crate::{ConnectError, DialSettings, ProxyAddress, Settings, TunnelError, TunnelState};

/// So many old tunnels may still have streams.
const MAX_RETIRED: usize = 32;

/// A proxy as a directory knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownProxy {
    /// Its id, which its certificate has to prove.
    pub id: ProxyId,
    /// Where it is; tunnels are held to different zones if that can be.
    pub zone: Option<String>,
    /// An address that leads to this proxy and no other, if it has one.
    pub address: Option<ProxyAddress>,
}

/// One tunnel, from the moment that it is dialled; none has the number of another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct TunnelId(u64);

/// What has happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A dialled connection is there, and this proxy is at its end.
    Connected(TunnelId, ProxyId),
    /// The proxy sends requests from now on.
    Ready(TunnelId),
    /// The proxy is about to stop.
    Draining(TunnelId),
    /// There is no connection (any more), and why if that is known. Of every tunnel the last event.
    Ended(TunnelId, Option<String>),
    /// The credential has changed.
    Renewed,
    /// The directory is now this.
    Learnt(Arc<[KnownProxy]>),
    /// No tunnels are wanted any more.
    Stopped,
}

/// What is to be done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Connect.
    Dial(TunnelId, ProxyAddress),
    /// Serve what was connected.
    Begin(TunnelId),
    /// Drop a tunnel that is not ready; nothing was sent on it.
    HangUp(TunnelId),
    /// Take no new streams (GOAWAY); those that there are go on.
    Drain(TunnelId),
    /// End it with its streams, for this reason.
    Cut(TunnelId, &'static str),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Worth {
    /// It takes requests, and will.
    Good,
    /// Its credential is not the newest.
    Outdated,
    /// Its proxy wants to be rid of it.
    Draining,
}

/// A tunnel that takes requests.
#[derive(Debug)]
struct Held {
    tunnel: TunnelId,
    proxy: ProxyId,
    from: Origin,
    since: Instant,
    worth: Worth,
}

/// How a tunnel came to be.
#[derive(Clone, Debug)]
struct Origin {
    address: ProxyAddress,
    /// The proxy whose own address it is.
    of: Option<ProxyId>,
}

/// A tunnel that is to be.
#[derive(Debug)]
struct Dial {
    tunnel: TunnelId,
    from: Origin,
    /// Who is at the other end, once that is known.
    proxy: Option<ProxyId>,
    deadline: Instant,
    /// The credential has changed since.
    outdated: bool,
    /// In the place of a good one, for the sake of its zone.
    improve: bool,
}

/// One of the tunnels that are wanted.
#[derive(Debug)]
struct Lane {
    held: Option<Held>,
    dial: Option<Dial>,
    pace: Pace,
    error: Option<String>,
}

impl Lane {
    fn wants(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.worth != Worth::Good)
    }
}

/// Decides which tunnels there are.
#[derive(Debug)]
pub(crate) struct Holder {
    dial: DialSettings,
    settings: Settings,
    lanes: Vec<Lane>,
    targets: Targets,
    retired: VecDeque<(TunnelId, Instant)>,
    improve_at: Instant,
    jitter: Jitter,
    next: u64,
    stopped: bool,
    actions: VecDeque<Action>,
    wake: Option<Instant>,
}

impl Holder {
    /// Wants tunnels as `dial` says, by way of `shared` addresses and those that it learns; jitter comes from `seed`.
    pub(crate) fn new(
        shared: impl IntoIterator<Item = ProxyAddress>,
        dial: DialSettings,
        settings: Settings,
        seed: u64,
        now: Instant,
    ) -> Self {
        let lane = || Lane { held: None, dial: None, pace: Pace::new(now), error: None };
        let mut holder = Self {
            dial,
            settings,
            lanes: (0..dial.tunnels.max(1)).map(|_| lane()).collect(),
            targets: Targets::new(shared, &dial, now),
            retired: VecDeque::new(),
            improve_at: now,
            jitter: Jitter::new(seed),
            next: 0,
            stopped: false,
            actions: VecDeque::new(),
            wake: None,
        };
        holder.plan(now);
        holder
    }

    /// What is to be done next.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Self::woken`] is to be called at the latest.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.wake
    }

    /// Each of the tunnels that are wanted.
    pub(crate) fn states(&self) -> Vec<TunnelState> {
        let state = |lane: &Lane| TunnelState {
            proxy: lane.held.as_ref().map(|held| held.proxy.clone()),
            address: lane.held.as_ref().map(|held| held.from.address.clone()),
            error: lane.error.clone(),
        };
        self.lanes.iter().map(state).collect()
    }

    /// True once it was stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// True once it was stopped and no tunnel is left.
    pub(crate) fn is_over(&self) -> bool {
        self.stopped && self.retired.is_empty()
    }

    /// Time has passed.
    pub(crate) fn woken(&mut self, now: Instant) {
        while let Some((tunnel, _)) = self.retired.front().filter(|(_, deadline)| *deadline <= now) {
            self.actions.push_back(Action::Cut(*tunnel, "its streams have not ended in time"));
            self.retired.pop_front();
        }
        for index in 0..self.lanes.len() {
            let late = self.lanes.get_mut(index).and_then(|lane| lane.dial.take_if(|dial| dial.deadline <= now));
            if let Some(dial) = late {
                let error = match dial.proxy {
                    None => {
                        let address = dial.from.address.to_string();
                        ConnectError::Timeout { address, after: self.dial.connect }.to_string()
                    }
                    Some(_) => TunnelError::SetUp(self.settings.setup).to_string(),
                };
                self.actions.push_back(Action::HangUp(dial.tunnel));
                self.failed(index, &dial, Some(error), now);
            }
        }
        self.plan(now);
    }

    /// Something has happened.
    pub(crate) fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Connected(tunnel, proxy) => self.connected(tunnel, proxy, now),
            Event::Ready(tunnel) => self.ready(tunnel, now),
            Event::Draining(tunnel) => self.draining(tunnel, now),
            Event::Ended(tunnel, error) => self.ended(tunnel, error, now),
            Event::Renewed => self.renewed(now),
            Event::Learnt(proxies) => self.targets.learn(&proxies, now),
            Event::Stopped => self.stop(now),
        }
        self.plan(now);
    }

    fn connected(&mut self, tunnel: TunnelId, proxy: ProxyId, now: Instant) {
        let Some(index) = self.lane_dialling(tunnel) else { return };
        let holding = self.holding(Some(tunnel), None);
        let Some(lane) = self.lanes.get_mut(index) else { return };
        let Some(dial) = &mut lane.dial else { return };
        if dial.from.of.as_ref().is_some_and(|of| *of != proxy) {
            let error =
                format!("{} leads to the proxy {proxy}, which is not the one announced there", dial.from.address);
            self.actions.push_back(Action::HangUp(tunnel));
            if let Some(dial) = lane.dial.take() {
                self.failed(index, &dial, Some(error), now);
            }
            return;
        }
        let is_shared = dial.from.of.is_none();
        let zone = self.targets.zone(&proxy);
        let same_zone = zone.is_some_and(|zone| holding.zones.contains(zone)) && self.targets.has_other_zone(&holding);
        let poor = is_shared && (same_zone || holding.draining.contains(&proxy));
        if holding.taken.contains(&proxy) || (poor && self.targets.is_choosy(&dial.from.address)) {
            let others = self.targets.has_others(&holding);
            self.targets.repeated(&dial.from.address, others, now, &mut self.jitter);
            self.actions.push_back(Action::HangUp(tunnel));
            lane.dial = None;
            lane.pace.failed(now, (self.dial.first_retry, self.dial.max_retry), &mut self.jitter);
            return;
        }
        dial.proxy = Some(proxy);
        dial.deadline = now + self.settings.setup;
        self.actions.push_back(Action::Begin(tunnel));
    }

    fn ready(&mut self, tunnel: TunnelId, now: Instant) {
        let Some(index) = self.lane_dialling(tunnel) else { return };
        let Some(dial) = self.lanes.get_mut(index).and_then(|lane| lane.dial.take()) else { return };
        let Some(proxy) = dial.proxy else { return };
        self.targets.succeeded(&dial.from.address, dial.from.of.as_ref());
        // It takes the place of an older one to the same proxy, wherever that is.
        let is_same = |lane: &Lane| lane.held.as_ref().is_some_and(|held| held.proxy == proxy);
        let home = self.lanes.iter().position(is_same);
        let home = home.or_else(|| self.lanes.get(index).filter(|lane| dial.improve || lane.wants()).map(|_| index));
        let home = home.or_else(|| self.lanes.iter().position(Lane::wants));
        let Some(lane) = home.and_then(|home| self.lanes.get_mut(home)) else { return self.retire(tunnel, now) };
        let worth = if dial.outdated { Worth::Outdated } else { Worth::Good };
        lane.error = None;
        let old = lane.held.replace(Held { tunnel, proxy, from: dial.from, since: now, worth });
        if let Some(old) = old {
            self.retire(old.tunnel, now);
        }
    }

    fn draining(&mut self, tunnel: TunnelId, now: Instant) {
        let bounds = (self.dial.first_retry, self.dial.max_retry);
        let stable = self.dial.stable_after;
        for lane in &mut self.lanes {
            if let Some(held) = lane.held.as_mut().filter(|held| held.tunnel == tunnel && held.worth != Worth::Draining)
            {
                held.worth = Worth::Draining;
                if now.saturating_duration_since(held.since) >= stable {
                    lane.pace.succeeded();
                }
                // All agents of the proxy hear of it at the same moment.
                lane.pace.failed(now, bounds, &mut self.jitter);
            }
        }
        self.targets.forget_repeats(now);
    }

    fn ended(&mut self, tunnel: TunnelId, error: Option<String>, now: Instant) {
        self.retired.retain(|(retired, _)| *retired != tunnel);
        if let Some(index) = self.lane_dialling(tunnel) {
            if let Some(dial) = self.lanes.get_mut(index).and_then(|lane| lane.dial.take()) {
                self.failed(index, &dial, error, now);
            }
            return;
        }
        let bounds = (self.dial.first_retry, self.dial.max_retry);
        for lane in &mut self.lanes {
            let Some(held) = lane.held.take_if(|held| held.tunnel == tunnel) else { continue };
            if now.saturating_duration_since(held.since) >= self.dial.stable_after {
                lane.pace.succeeded();
            } else {
                self.targets.failed(&held.from.address, held.from.of.as_ref(), now, &mut self.jitter);
            }
            // Even a good tunnel's end may be everybody's, so the next attempt is jittered.
            lane.pace.failed(now, bounds, &mut self.jitter);
            lane.error = error;
            self.targets.forget_repeats(now);
            return;
        }
    }

    fn renewed(&mut self, now: Instant) {
        for lane in &mut self.lanes {
            if let Some(held) = lane.held.as_mut().filter(|held| held.worth == Worth::Good) {
                held.worth = Worth::Outdated;
                lane.pace = Pace::new(now);
            }
            if let Some(dial) = &mut lane.dial {
                dial.outdated = true;
            }
        }
    }

    fn stop(&mut self, now: Instant) {
        self.stopped = true;
        let mut live = Vec::new();
        for lane in &mut self.lanes {
            if let Some(dial) = lane.dial.take() {
                self.actions.push_back(Action::HangUp(dial.tunnel));
            }
            live.extend(lane.held.take().map(|held| held.tunnel));
        }
        live.into_iter().for_each(|tunnel| self.retire(tunnel, now));
    }

    fn failed(&mut self, index: usize, dial: &Dial, error: Option<String>, now: Instant) {
        let bounds = (self.dial.first_retry, self.dial.max_retry);
        self.targets.failed(&dial.from.address, dial.from.of.as_ref(), now, &mut self.jitter);
        if let Some(lane) = self.lanes.get_mut(index) {
            lane.pace.failed(now, bounds, &mut self.jitter);
            lane.error = Some(error.unwrap_or_else(|| "the proxy closed the connection; its log says why".into()));
        }
        self.improve_at = self.improve_at.max(now + self.dial.search);
    }

    /// Takes no new streams, and ends with its last one. A proxy that asks for one tunnel after the other, and lets none
    /// end, does not pile them up here.
    fn retire(&mut self, tunnel: TunnelId, now: Instant) {
        self.actions.push_back(Action::Drain(tunnel));
        self.retired.push_back((tunnel, now + self.settings.max_drain));
        if self.retired.len() > MAX_RETIRED
            && let Some((oldest, _)) = self.retired.pop_front()
        {
            self.actions.push_back(Action::Cut(oldest, "too many newer tunnels have streams that do not end"));
        }
    }

    fn lane_dialling(&self, tunnel: TunnelId) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.dial.as_ref().is_some_and(|dial| dial.tunnel == tunnel))
    }

    /// What there is, without one dial and without what one lane holds.
    fn holding(&self, without: Option<TunnelId>, lane: Option<usize>) -> Holding {
        let mut holding = Holding::default();
        for (index, Lane { held, dial, .. }) in self.lanes.iter().enumerate() {
            if let Some(held) = held.as_ref().filter(|_| lane != Some(index)) {
                match held.worth {
                    Worth::Good => {
                        holding.taken.insert(held.proxy.clone());
                        holding.ways.push(held.from.address.clone());
                    }
                    Worth::Draining => _ = holding.draining.insert(held.proxy.clone()),
                    Worth::Outdated => {}
                }
            }
            if let Some(dial) = dial.as_ref().filter(|dial| without != Some(dial.tunnel)) {
                holding.taken.extend(dial.proxy.clone().or_else(|| dial.from.of.clone()));
                holding.ways.push(dial.from.address.clone());
            }
        }
        holding.zones = holding.taken.iter().filter_map(|id| self.targets.zone(id).cloned()).collect();
        holding
    }

    /// Dials what is missing, as far as it is time.
    fn plan(&mut self, now: Instant) {
        let mut wake = self.retired.front().map(|(_, deadline)| *deadline);
        let mut at = |time: Instant| wake = Some(wake.map_or(time, |wake| wake.min(time)));
        if !self.stopped {
            // Whoever has no tunnel at all comes before who has one that is to be replaced.
            let vacant_first = |with: bool| move |(_, lane): &(usize, &Lane)| lane.held.is_some() == with;
            let lanes = || self.lanes.iter().enumerate();
            let wanting = lanes().filter(vacant_first(false)).chain(lanes().filter(vacant_first(true)));
            let wanting = wanting.filter(|(_, lane)| lane.dial.is_none() && lane.wants());
            let wanting: Vec<usize> = wanting.map(|(index, _)| index).collect();
            for index in wanting {
                if let Some(time) = self.try_dial(index, false, now) {
                    at(time);
                }
            }
            if let Some(index) = self.improvable()
                && let Some(time) = match self.improve_at > now {
                    true => Some(self.improve_at),
                    false => self.try_dial(index, true, now),
                }
            {
                at(time);
            }
            self.lanes.iter().filter_map(|lane| lane.dial.as_ref()).for_each(|dial| at(dial.deadline));
        }
        self.wake = wake;
    }

    /// Dials, or says when it could.
    fn try_dial(&mut self, index: usize, improve: bool, now: Instant) -> Option<Instant> {
        let holding = self.holding(None, improve.then_some(index));
        let lane = self.lanes.get_mut(index)?;
        if !improve && lane.pace.not_before > now {
            return Some(lane.pace.not_before);
        }
        let renew = lane.held.as_ref().is_some_and(|held| held.worth == Worth::Outdated);
        let need = Need { failures: lane.pace.failures, improve, renew };
        match self.targets.next(&holding, need, now, &mut self.jitter) {
            Next::Never => None,
            Next::At(time) => Some(time),
            Next::Now(target) => {
                self.targets.dialled(target);
                let target = self.targets.get(target)?;
                let from = Origin { address: target.address.clone(), of: target.of.clone() };
                self.next += 1;
                let (tunnel, deadline) = (TunnelId(self.next), now + self.dial.connect);
                self.actions.push_back(Action::Dial(tunnel, from.address.clone()));
                lane.dial = Some(Dial { tunnel, from, proxy: None, deadline, outdated: false, improve });
                None
            }
        }
    }

    /// A lane that is well, but in a zone that another one is in already, while there is a zone with none.
    fn improvable(&self) -> Option<usize> {
        if self.lanes.iter().any(|lane| lane.dial.is_some() || lane.wants()) {
            return None;
        }
        let holding = self.holding(None, None);
        if !self.targets.has_other_zone(&holding) {
            return None;
        }
        let zone = |lane: &Lane| lane.held.as_ref().and_then(|held| self.targets.zone(&held.proxy));
        let mut lanes = self.lanes.iter().enumerate().rev();
        lanes.find_map(|(index, lane)| {
            let own = zone(lane)?;
            let shared = self.lanes.iter().enumerate().any(|(other, lane)| other != index && zone(lane) == Some(own));
            shared.then_some(index)
        })
    }
}
