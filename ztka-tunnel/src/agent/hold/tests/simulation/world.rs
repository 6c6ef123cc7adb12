//! The world: agents with holders, proxies with registries, and what is checked of them.
//!
//! 1. A live agent is reachable within a bound: [`BOUND`] if nothing but proxies stand in its way, [`BOUND_CUT`] if at
//!    least half of the proxies that are up can be reached from where it is.
//! 2. No request reaches another cluster than it was for, nor an agent that has not begun to serve the tunnel.
//! 3. No stream is lost without a reason: never by the agent, but where it says why; and each that was begun goes on, has
//!    ended by itself, or ended with a tunnel whose end has a reason.
//! 4. A renewed credential is shown on every tunnel within [`BOUND`]: the old one may expire soon.
//! 5. No tunnel is let go before another is ready, and in calm every agent has as many as it wants, each to another proxy
//!    and, where the directory has addresses, in another zone.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::{Duration, Instant},
};

use super::super::{Action, Event, Holder, KnownProxy, TunnelId, pace::Jitter};
use crate::{DialSettings, ProxyAddress, Settings};

pub(super) const SECOND: u64 = 1_000_000_000;
/// A connection attempt that hangs, a wait at its cap, and the handshakes of the others.
const BOUND: u64 = 40 * SECOND;
/// The same for who may have to try several proxies.
const BOUND_CUT: u64 = 240 * SECOND;

/// How large a world is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) agents: usize,
    pub(super) proxies: usize,
    pub(super) zones: usize,
    /// Tunnels that each agent wants.
    pub(super) tunnels: usize,
    /// Two agents of one cluster in a row.
    pub(super) replicas: usize,
    /// Proxies have addresses of their own.
    pub(super) own_addresses: bool,
}

impl Default for Extent {
    fn default() -> Self {
        Self { agents: 100, proxies: 3, zones: 3, tunnels: 2, replicas: 2, own_addresses: true }
    }
}

/// One connection: agent, how often it has been started, and its number there.
pub(super) type Key = (usize, u32, TunnelId);

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Stage {
    Dialling,
    Connected,
    Begun,
    Ready,
    Leaving,
}

/// What the agent's end knows of a tunnel.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) proxy: usize,
    /// Of the proxy's process.
    pub(super) process: u32,
    pub(super) stage: Stage,
    /// When it was dialled.
    pub(super) since: u64,
}

#[derive(Debug)]
pub(super) struct Agent {
    pub(super) holder: Option<Holder>,
    pub(super) starts: u32,
    pub(super) links: BTreeMap<TunnelId, Link>,
    pub(super) cluster: usize,
    pub(super) zone: usize,
    /// Its clock: an origin of its own, and a rate that is not quite right.
    origin: Duration,
    rate: f64,
    woken_at: Option<u64>,
    /// Since when it could have been reached, but was not.
    lost: [Option<u64>; 2],
    /// Since when nothing but proxies has stood in its way.
    free: Option<u64>,
    /// When its credential was renewed.
    pub(super) renewed: u64,
}

/// What the proxy's end knows of a tunnel.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) cluster: usize,
    pub(super) leaving: bool,
    pub(super) streams: u32,
}

#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) zone: usize,
    pub(super) up: bool,
    pub(super) draining: bool,
    pub(super) process: u32,
    pub(super) tunnels: BTreeMap<Key, Entry>,
    /// When its last handshake will be done.
    pub(super) busy: u64,
    /// When it was last heard of by the controller.
    pub(super) seen: u64,
}

#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Happening {
    Wake(usize, u32),
    Connected(Key, usize, u32),
    Ready(Key),
    Refused(Key),
    Ended(Key, &'static str),
    Silent(Key, u64),
    Deserted(Key, u64),
    Asked(Key),
    StreamEnd(Key, usize, u32),
    Directory(usize),
    Request,
    Renew(usize),
    Look,
    Fault,
    Heal(usize),
    Start(usize),
    Stop(usize),
    StartAgent(usize),
    Controller,
}

pub(super) struct World {
    seed: u64,
    pub(super) extent: Extent,
    now: u64,
    base: Instant,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    order: u64,
    pub(super) random: Jitter,
    pub(super) agents: Vec<Agent>,
    pub(super) proxies: Vec<Proxy>,
    /// Who cannot reach what, by number, and since when.
    pub(super) cuts: BTreeMap<usize, (u64, BTreeSet<usize>, BTreeSet<usize>)>,
    pub(super) cut_count: usize,
    pub(super) controller_away: bool,
    pub(super) faults_until: u64,
    pub(super) never_unreachable: bool,
    pub(super) longest_queue: u64,
    pub(super) delivered: u64,
    /// Streams that have ended by themselves, and what has ended the others.
    pub(super) ended: u64,
    pub(super) fates: BTreeMap<&'static str, u64>,
    /// As it was last sent, and of whom.
    directory: (Vec<usize>, Arc<[KnownProxy]>),
}

impl World {
    pub(super) fn new(seed: u64, extent: Extent) -> Self {
        let mut world = Self {
            seed,
            extent,
            now: 0,
            base: Instant::now(),
            queue: BinaryHeap::new(),
            order: 0,
            random: Jitter::new(seed),
            agents: Vec::new(),
            proxies: Vec::new(),
            cuts: BTreeMap::new(),
            cut_count: 0,
            controller_away: false,
            faults_until: 0,
            never_unreachable: false,
            longest_queue: 0,
            delivered: 0,
            ended: 0,
            fates: BTreeMap::new(),
            directory: (Vec::new(), Arc::default()),
        };
        for number in 0..extent.proxies {
            let (zone, tunnels) = (number % extent.zones, BTreeMap::new());
            world.proxies.push(Proxy { zone, up: true, draining: false, process: 0, tunnels, busy: 0, seen: 0 });
        }
        for number in 0..extent.agents {
            let origin = world.random.within(Duration::from_secs(100_000));
            // A quarter of a percent is far more than any clock is off by.
            let rate = 0.9975 + 0.005 * (world.pick(1_000_000) as f64 / 1e6);
            world.agents.push(Agent {
                holder: None,
                starts: 0,
                links: BTreeMap::new(),
                cluster: number / extent.replicas,
                zone: number % extent.zones,
                origin,
                rate,
                woken_at: None,
                lost: [None; 2],
                free: None,
                renewed: 0,
            });
            let at = world.within(5 * SECOND);
            world.at(at, Happening::StartAgent(number));
            let at = 30 * SECOND + world.within(600 * SECOND);
            world.at(at, Happening::Renew(number));
        }
        world.after(0, Happening::Look);
        world.after(0, Happening::Request);
        world
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    pub(super) fn longest_queue(&self) -> u64 {
        self.longest_queue
    }

    pub(super) fn pick(&mut self, count: usize) -> usize {
        (self.random.toss() % count.max(1) as u64) as usize
    }

    pub(super) fn within(&mut self, bound: u64) -> u64 {
        self.random.within(Duration::from_nanos(bound)).as_nanos() as u64
    }

    fn at(&mut self, time: u64, happening: Happening) {
        self.order += 1;
        self.queue.push(Reverse((time, self.order, happening)));
    }

    pub(super) fn after(&mut self, time: u64, happening: Happening) {
        self.at(self.now + time, happening);
    }

    pub(super) fn fail(&self, what: impl std::fmt::Display) -> ! {
        panic!("ZTKA_SIMULATION_SEED={} {:?}, at {:.3} s: {what}", self.seed, self.extent, self.now as f64 / 1e9)
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, time: u64) {
        let until = self.now + time;
        while self.queue.peek().is_some_and(|Reverse((at, ..))| *at <= until) {
            let Some(Reverse((at, _, happening))) = self.queue.pop() else { break };
            self.now = self.now.max(at);
            self.happens(happening);
        }
        self.now = until;
    }

    /// Nothing bad happens for so long, and then everybody has what they want.
    pub(super) fn calm(&mut self, time: u64) {
        self.run(time);
        for number in 0..self.agents.len() {
            let Some(holder) = &self.agents[number].holder else { self.fail(format!("agent {number} is not running")) };
            let live = self.live_proxies(number);
            let wanted = self.extent.tunnels.min(self.extent.proxies);
            if live.len() != wanted {
                let states = holder.states();
                self.fail(format!("agent {number} has tunnels to {live:?} after {time} ns of calm: {states:?}"));
            }
            let zones: BTreeSet<_> = live.iter().map(|proxy| self.proxies[*proxy].zone).collect();
            if self.extent.own_addresses && zones.len() != wanted.min(self.extent.zones) {
                self.fail(format!("agent {number} has tunnels to {live:?}, in zones {zones:?} alone"));
            }
        }
        assert!(self.delivered > time / SECOND / 2, "requests were made");
        self.account();
    }

    /// Every stream goes on, has ended by itself, or was ended by something that is known.
    fn account(&self) {
        let open: u64 =
            self.proxies.iter().flat_map(|proxy| proxy.tunnels.values()).map(|entry| u64::from(entry.streams)).sum();
        let lost: u64 = self.fates.values().sum();
        if self.delivered != self.ended + lost + open {
            let (all, ended, fates) = (self.delivered, self.ended, &self.fates);
            self.fail(format!("of {all} streams {ended} have ended and {open} go on, the others by {fates:?}"));
        }
        if self.fates.get("drained").is_some_and(|lost| *lost > 0) {
            self.fail("a tunnel was drained with streams on it");
        }
    }

    /// Local time of an agent.
    fn local(&self, agent: usize) -> Instant {
        let Agent { origin, rate, .. } = &self.agents[agent];
        self.base + *origin + Duration::from_nanos(self.now).mul_f64(*rate)
    }

    /// Tells an agent what has happened, and carries out what it decides.
    pub(super) fn tell(&mut self, agent: usize, event: Option<Event>) {
        let now = self.local(agent);
        let Some(holder) = &mut self.agents[agent].holder else { return };
        match event {
            Some(event) => holder.handle(event, now),
            None => holder.woken(now),
        }
        self.carry_out(agent);
    }

    fn carry_out(&mut self, agent: usize) {
        while let Some(action) = self.agents[agent].holder.as_mut().and_then(Holder::action) {
            self.act(agent, action);
        }
        let (now, starts) = (self.local(agent), self.agents[agent].starts);
        let Some(wake) = self.agents[agent].holder.as_ref().and_then(Holder::wake) else { return };
        let left = wake.saturating_duration_since(now).div_f64(self.agents[agent].rate);
        let at = self.now + left.as_nanos() as u64 + 1_000;
        if self.agents[agent].woken_at.is_none_or(|set| at < set || set <= self.now) {
            self.agents[agent].woken_at = Some(at);
            self.at(at, Happening::Wake(agent, starts));
        }
    }

    pub(super) fn start_agent(&mut self, agent: usize) {
        let seed = self.random.toss();
        let now = self.local(agent);
        let dial = DialSettings { tunnels: self.extent.tunnels, ..DialSettings::default() };
        let holder = Holder::new([shared()], dial, Settings::default(), seed, now);
        let state = &mut self.agents[agent];
        state.starts += 1;
        (state.holder, state.woken_at, state.lost, state.renewed) = (Some(holder), None, [None; 2], 0);
        self.carry_out(agent);
        let delay = self.within(2 * SECOND);
        self.after(delay, Happening::Directory(agent));
    }

    /// What the controller says: who has been heard of in the last half minute.
    pub(super) fn directory(&mut self) -> Arc<[KnownProxy]> {
        let proxies = self.proxies.iter().enumerate();
        let is_known =
            |(_, proxy): &(usize, &Proxy)| (proxy.up && !proxy.draining) || self.now - proxy.seen < 30 * SECOND;
        let known: Vec<usize> = proxies.filter(is_known).map(|(number, _)| number).collect();
        if self.directory.0 != known {
            let entry = |number: &usize| KnownProxy {
                id: id(*number),
                zone: Some(format!("z{}", self.proxies[*number].zone)),
                address: self.extent.own_addresses.then(|| own(*number)),
            };
            self.directory = (known.clone(), known.iter().map(entry).collect());
        }
        self.directory.1.clone()
    }

    fn act(&mut self, agent: usize, action: Action) {
        let starts = self.agents[agent].starts;
        let key = |tunnel| (agent, starts, tunnel);
        match action {
            Action::Dial(tunnel, address) => self.dial(key(tunnel), &address),
            Action::Begin(tunnel) => self.begin(key(tunnel)),
            Action::HangUp(tunnel) => {
                let link = self.agents[agent].links.get(&tunnel);
                if link.is_some_and(|link| link.stage >= Stage::Ready) {
                    self.fail(format!("agent {agent} hangs up on a tunnel that takes requests"));
                }
                self.agent_ends(key(tunnel));
            }
            Action::Drain(tunnel) => {
                let ready = |(other, link): (&TunnelId, &Link)| *other != tunnel && link.stage == Stage::Ready;
                if !self.agents[agent].links.iter().any(ready) {
                    self.fail(format!("agent {agent} lets go of its only tunnel"));
                }
                self.goaway(key(tunnel));
            }
            Action::Cut(tunnel, reason) => {
                if reason.is_empty() {
                    self.fail(format!("agent {agent} cuts streams without a reason"));
                }
                self.agent_ends(key(tunnel));
            }
        }
    }

    /// Proxies by which an agent can be reached now.
    pub(super) fn live_proxies(&self, agent: usize) -> Vec<usize> {
        let is_live = |link: &&Link| {
            let proxy = &self.proxies[link.proxy];
            link.stage == Stage::Ready && proxy.up && proxy.process == link.process && !self.is_cut(agent, link.proxy)
        };
        self.agents[agent].links.values().filter(is_live).map(|link| link.proxy).collect()
    }

    /// How many agents can be reached.
    pub(super) fn reachable(&self) -> usize {
        (0..self.agents.len()).filter(|agent| !self.live_proxies(*agent).is_empty()).count()
    }

    /// Looks at everybody.
    pub(super) fn look(&mut self) {
        let up: Vec<usize> =
            (0..self.proxies.len()).filter(|n| self.proxies[*n].up && !self.proxies[*n].draining).collect();
        for agent in 0..self.agents.len() {
            if self.agents[agent].holder.is_none() {
                continue;
            }
            let near = up.iter().filter(|proxy| !self.is_cut(agent, **proxy)).count();
            let fits = [near == up.len() && near > 0, near > 0 && 2 * near >= up.len()];
            let is_live = !self.live_proxies(agent).is_empty();
            if self.never_unreachable && !is_live {
                self.fail(format!("agent {agent} is without a tunnel"));
            }
            for (index, bound) in [BOUND, BOUND_CUT].into_iter().enumerate() {
                let lost = &mut self.agents[agent].lost[index];
                if is_live || !fits[index] {
                    *lost = None;
                } else if self.now - *lost.get_or_insert(self.now) > bound {
                    let states = self.agents[agent].holder.as_ref().map(Holder::states);
                    self.fail(format!("agent {agent} cannot be reached for {} s: {states:?}", bound / SECOND));
                }
            }
            let (now, state) = (self.now, &mut self.agents[agent]);
            state.free = fits[0].then(|| state.free.unwrap_or(now));
            let state = &self.agents[agent];
            let is_free = state.free.is_some_and(|since| now - since > BOUND);
            let is_old = |link: &Link| link.stage == Stage::Ready && link.since < state.renewed;
            if is_free && now - state.renewed > BOUND && state.links.values().any(is_old) {
                let links: Vec<_> = state.links.values().collect();
                self.fail(format!("agent {agent} still shows a credential from before its renewal: {links:?}"));
            }
            let live: Vec<_> = self.live_proxies(agent);
            if live.len() > self.extent.tunnels + 1 {
                self.fail(format!("agent {agent} holds tunnels to {live:?}"));
            }
        }
    }
}

pub(super) fn shared() -> ProxyAddress {
    ProxyAddress::new("tunnel.example.com", 443).unwrap()
}

pub(super) fn own(proxy: usize) -> ProxyAddress {
    ProxyAddress::new(format!("p{proxy}.tunnel.example.com"), 443).unwrap()
}

pub(super) fn id(proxy: usize) -> ztka_core::ProxyId {
    format!("p{proxy}").parse().unwrap()
}
