//! What happens on the network: connections, handshakes that queue, requests, and the silence of what is cut.

use super::{
    super::Event,
    world::{Entry, Happening, Key, Link, SECOND, Stage, World, id, shared},
};
use crate::ProxyAddress;

/// One way.
const TRIP: u64 = 5_000_000;
/// A proxy does so many handshakes one after the other: 500 a second.
const HANDSHAKE: u64 = 2_000_000;
/// Of packets that are dropped, also in one direction only, each end hears between these.
const DEAF_AFTER: u64 = 9 * SECOND;
const NOTICED: u64 = 15 * SECOND;
/// A dead peer is noticed after this.
const DEAD_AFTER: u64 = 12 * SECOND;

impl World {
    /// True if nothing gets through between an agent and a proxy.
    pub(super) fn is_cut(&self, agent: usize, proxy: usize) -> bool {
        self.cuts.values().any(|(_, agents, proxies)| agents.contains(&agent) && proxies.contains(&proxy))
    }

    fn cut_since(&self, agent: usize, proxy: usize) -> Option<u64> {
        let cuts =
            self.cuts.values().filter(|(_, agents, proxies)| agents.contains(&agent) && proxies.contains(&proxy));
        cuts.map(|(since, ..)| *since).min()
    }

    /// An agent dials. The shared name is a balancer's, which knows who is up.
    pub(super) fn dial(&mut self, key: Key, address: &ProxyAddress) {
        let takes: Vec<usize> =
            (0..self.proxies.len()).filter(|n| self.proxies[*n].up && !self.proxies[*n].draining).collect();
        let proxy = match *address == shared() {
            true if takes.is_empty() => return self.after(TRIP, Happening::Refused(key)),
            true => takes[self.pick(takes.len())],
            false => address.host().trim_start_matches('p').split('.').next().and_then(|n| n.parse().ok()).unwrap(),
        };
        let (process, since) = (self.proxies[proxy].process, self.now());
        self.agents[key.0].links.insert(key.2, Link { proxy, process, stage: Stage::Dialling, since });
        if self.is_cut(key.0, proxy) {
            return; // packets are dropped, and nobody says so
        }
        if !takes.contains(&proxy) {
            // A machine that is down refuses nothing; a process that is does.
            if process.is_multiple_of(2) {
                self.after(TRIP, Happening::Refused(key));
            }
            return;
        }
        let begin = self.proxies[proxy].busy.max(self.now() + 2 * TRIP);
        self.proxies[proxy].busy = begin + HANDSHAKE;
        self.longest_queue = self.longest_queue.max(begin - self.now());
        self.after(begin + HANDSHAKE - self.now(), Happening::Connected(key, proxy, process));
    }

    pub(super) fn begin(&mut self, key: Key) {
        if let Some(link) = self.agents[key.0].links.get_mut(&key.2) {
            link.stage = Stage::Begun;
        }
        self.after(3 * TRIP, Happening::Ready(key));
    }

    /// The agent says GOAWAY.
    pub(super) fn goaway(&mut self, key: Key) {
        let Some(link) = self.agents[key.0].links.get_mut(&key.2) else { return };
        link.stage = Stage::Leaving;
        let proxy = link.proxy;
        if let Some(entry) = self.proxies[proxy].tunnels.get_mut(&key) {
            entry.leaving = true;
            if entry.streams == 0 {
                self.forget(proxy, key, "drained");
                self.after(TRIP, Happening::Ended(key, "drained"));
            }
        }
    }

    /// The agent closes a connection.
    pub(super) fn agent_ends(&mut self, key: Key) {
        if let Some(link) = self.agents[key.0].links.remove(&key.2) {
            self.forget(link.proxy, key, "the agent has ended the tunnel");
        }
    }

    /// A proxy has a tunnel no more, and this is what becomes of the streams that were on it.
    pub(super) fn forget(&mut self, proxy: usize, key: Key, why: &'static str) {
        if let Some(entry) = self.proxies[proxy].tunnels.remove(&key) {
            *self.fates.entry(why).or_default() += u64::from(entry.streams);
        }
    }

    pub(super) fn is_current(&self, (agent, starts, tunnel): Key) -> bool {
        let agent = &self.agents[agent];
        agent.holder.is_some() && agent.starts == starts && agent.links.contains_key(&tunnel)
    }

    /// Everything that a proxy's process had is gone; its machine may be as well.
    pub(super) fn process_ends(&mut self, proxy: usize, quietly: bool) {
        let now = self.now();
        let state = &mut self.proxies[proxy];
        (state.up, state.draining) = (false, false);
        state.process += if quietly == state.process.is_multiple_of(2) { 1 } else { 2 };
        state.seen = now;
        let why = if quietly { "the proxy's machine is gone" } else { "the proxy was killed" };
        for key in self.proxies[proxy].tunnels.keys().copied().collect::<Vec<_>>() {
            self.forget(proxy, key, why);
        }
        for key in self.links_to(proxy) {
            match quietly {
                true => self.after(DEAD_AFTER, Happening::Ended(key, "the peer has sent nothing for 12s")),
                false => self.after(TRIP, Happening::Ended(key, "the connection was reset")),
            }
        }
        self.announce();
    }

    pub(super) fn links_to(&self, proxy: usize) -> Vec<Key> {
        let links = |(number, agent): (usize, &super::world::Agent)| {
            let starts = agent.starts;
            let of = agent.links.iter().filter(move |(_, link)| link.proxy == proxy);
            of.map(move |(tunnel, _)| (number, starts, *tunnel)).collect::<Vec<_>>()
        };
        self.agents.iter().enumerate().flat_map(links).collect()
    }

    /// Established connections notice a cut when it has lasted.
    pub(super) fn falls_silent(&mut self) {
        let since = self.now();
        for proxy in 0..self.proxies.len() {
            for key in self.links_to(proxy) {
                if self.is_cut(key.0, proxy) {
                    // One end may notice before the other: packets may be dropped in one direction first.
                    let (one, other) = (self.within(NOTICED - DEAF_AFTER), self.within(NOTICED - DEAF_AFTER));
                    self.after(DEAF_AFTER + one, Happening::Silent(key, since));
                    self.after(DEAF_AFTER + other, Happening::Deserted(key, since));
                }
            }
        }
    }

    /// The directory has changed, and everybody is told.
    pub(super) fn announce(&mut self) {
        for agent in 0..self.agents.len() {
            let delay = self.within(2 * SECOND);
            self.after(delay, Happening::Directory(agent));
            self.after(31 * SECOND + delay, Happening::Directory(agent));
        }
    }

    pub(super) fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Wake(agent, starts) => {
                if self.agents[agent].starts == starts {
                    self.tell(agent, None);
                }
            }
            Happening::Connected(key, proxy, process) => {
                let there = self.proxies[proxy].up && self.proxies[proxy].process == process;
                if !self.is_current(key) || !there || self.is_cut(key.0, proxy) {
                    return;
                }
                if let Some(link) = self.agents[key.0].links.get_mut(&key.2) {
                    link.stage = Stage::Connected;
                }
                self.tell(key.0, Some(Event::Connected(key.2, id(proxy))));
            }
            Happening::Ready(key) => self.set_up(key),
            Happening::Refused(key) => {
                self.agents[key.0].links.remove(&key.2);
                self.tell_current(key, Event::Ended(key.2, Some("connection refused".into())));
            }
            Happening::Ended(key, reason) => self.ends(key, reason),
            Happening::Silent(key, since) => {
                let Some(proxy) = self.agents[key.0].links.get(&key.2).map(|link| link.proxy) else { return };
                if self.is_current(key) && self.cut_since(key.0, proxy).is_some_and(|cut| cut <= since) {
                    self.ends(key, "the peer has sent nothing for 12s");
                }
            }
            Happening::Deserted(key, since) => {
                let holds = |proxy: &usize| self.proxies[*proxy].tunnels.contains_key(&key);
                let Some(proxy) = (0..self.proxies.len()).find(holds) else { return };
                if self.cut_since(key.0, proxy).is_some_and(|cut| cut <= since) {
                    self.forget(proxy, key, "the agent has sent nothing, or not answered a PING");
                    // The agent hears of it if there is a way, and by its own patience otherwise.
                    if !self.is_cut(key.0, proxy) {
                        self.after(TRIP, Happening::Ended(key, "the proxy has closed the connection"));
                    }
                }
            }
            Happening::Asked(key) => self.tell_current(key, Event::Draining(key.2)),
            Happening::StreamEnd(key, proxy, process) => {
                let state = &mut self.proxies[proxy];
                if state.process == process
                    && let Some(entry) = state.tunnels.get_mut(&key)
                {
                    entry.streams -= 1;
                    let is_last = entry.streams == 0 && entry.leaving;
                    self.ended += 1;
                    if is_last {
                        self.forget(proxy, key, "drained");
                        self.after(TRIP, Happening::Ended(key, "drained"));
                    }
                }
            }
            Happening::Directory(agent) => {
                if self.controller_away {
                    return self.after(5 * SECOND, Happening::Directory(agent));
                }
                let known = self.directory();
                self.tell(agent, Some(Event::Learnt(known)));
            }
            Happening::Request => self.request(),
            Happening::Renew(agent) => {
                self.agents[agent].renewed = self.now();
                self.tell(agent, Some(Event::Renewed));
                let again = 200 * SECOND + self.within(200 * SECOND);
                self.after(again, Happening::Renew(agent));
            }
            Happening::Look => {
                self.look();
                self.after(SECOND, Happening::Look);
            }
            other => self.fault(other),
        }
    }

    fn tell_current(&mut self, key: Key, event: Event) {
        if self.agents[key.0].holder.is_some() && self.agents[key.0].starts == key.1 {
            self.tell(key.0, Some(event));
        }
    }

    fn ends(&mut self, key: Key, reason: &'static str) {
        if self.is_current(key) {
            self.agents[key.0].links.remove(&key.2);
            self.tell_current(key, Event::Ended(key.2, Some(reason.into())));
        }
    }

    fn set_up(&mut self, key: Key) {
        if !self.is_current(key) {
            return;
        }
        let (cluster, Some(link)) = (self.agents[key.0].cluster, self.agents[key.0].links.get_mut(&key.2)) else {
            return;
        };
        let (proxy, process) = (link.proxy, link.process);
        if !self.proxies[proxy].up || self.proxies[proxy].process != process || self.is_cut(key.0, proxy) {
            return;
        }
        if let Some(link) = self.agents[key.0].links.get_mut(&key.2) {
            link.stage = Stage::Ready;
        }
        self.proxies[proxy].tunnels.insert(key, Entry { cluster, leaving: false, streams: 0 });
        self.tell(key.0, Some(Event::Ready(key.2)));
        if self.proxies[proxy].draining {
            self.after(TRIP, Happening::Asked(key));
        }
    }

    /// Somebody asks for a cluster, by way of any proxy that has a tunnel of it.
    fn request(&mut self) {
        let again = self.within(SECOND / 5);
        self.after(again, Happening::Request);
        let cluster = self.pick(self.extent.agents.div_ceil(self.extent.replicas));
        let first = self.pick(self.proxies.len());
        for offset in 0..self.proxies.len() {
            let proxy = (first + offset) % self.proxies.len();
            let takes = |(_, entry): &(&Key, &Entry)| entry.cluster == cluster && !entry.leaving;
            let Some(key) = self.proxies[proxy].tunnels.iter().find(takes).map(|(key, _)| *key) else { continue };
            if self.is_cut(key.0, proxy) {
                continue;
            }
            let agent = &self.agents[key.0];
            let served = agent.links.get(&key.2).filter(|_| agent.starts == key.1 && agent.holder.is_some());
            if served.is_none_or(|link| link.stage < Stage::Begun) {
                continue; // the agent is gone, and its proxy does not know yet
            }
            if agent.cluster != cluster || served.is_some_and(|link| link.proxy != proxy) {
                self.fail(format!("a request for cluster {cluster} came to agent {} of {}", key.0, agent.cluster));
            }
            self.delivered += 1;
            let life = self.within(120 * SECOND);
            let process = self.proxies[proxy].process;
            if let Some(entry) = self.proxies[proxy].tunnels.get_mut(&key) {
                entry.streams += 1;
            }
            return self.after(life, Happening::StreamEnd(key, proxy, process));
        }
    }
}
