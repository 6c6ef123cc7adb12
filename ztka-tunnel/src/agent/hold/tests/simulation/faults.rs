//! What goes wrong.

use std::collections::BTreeSet;

use super::world::{Happening, SECOND, World};

/// A proxy that is to stop lets its streams go on for so long.
const GRACE: u64 = 20 * SECOND;

impl World {
    /// From now on, and for so long, something goes wrong every few seconds.
    pub(super) fn faults(&mut self, time: u64) {
        self.faults_until = self.now() + time;
        self.after(20 * SECOND, Happening::Fault);
    }

    /// A proxy is killed, and comes back after `away`.
    pub(super) fn kill(&mut self, proxy: usize, away: u64) {
        self.process_ends(proxy, false);
        self.after(away, Happening::Start(proxy));
    }

    /// A proxy asks everybody to leave, stops, and comes back.
    pub(super) fn drain(&mut self, proxy: usize) {
        let state = &mut self.proxies[proxy];
        (state.draining, state.seen) = (true, 0);
        self.announce();
        for key in self.links_to(proxy) {
            self.after(SECOND / 100, Happening::Asked(key));
        }
        self.after(GRACE, Happening::Stop(proxy));
    }

    pub(super) fn fault(&mut self, happening: Happening) {
        match happening {
            Happening::Fault if self.now() < self.faults_until => {
                self.goes_wrong();
                let next = self.within(15 * SECOND);
                self.after(next, Happening::Fault);
            }
            Happening::Heal(cut) => drop(self.cuts.remove(&cut)),
            Happening::Start(proxy) => {
                self.proxies[proxy].up = true;
                self.proxies[proxy].busy = self.now();
                self.announce();
            }
            Happening::Stop(proxy) if self.proxies[proxy].draining => self.kill(proxy, 5 * SECOND),
            Happening::StartAgent(agent) if self.agents[agent].holder.is_none() => self.start_agent(agent),
            Happening::Controller => self.controller_away = false,
            _ => {}
        }
    }

    fn goes_wrong(&mut self) {
        let proxy = self.pick(self.proxies.len());
        let is_up = self.proxies[proxy].up && !self.proxies[proxy].draining;
        // A rolling restart is not begun with too few; what is killed does not ask.
        let up = self.proxies.iter().filter(|proxy| proxy.up && !proxy.draining).count();
        let away = SECOND + self.within(60 * SECOND);
        match self.pick(8) {
            0 if is_up => self.kill(proxy, away),
            1 if is_up => {
                self.process_ends(proxy, true);
                self.after(away, Happening::Start(proxy));
            }
            2 | 3 if is_up && up > 2 => self.drain(proxy),
            4 => {
                let zone = self.pick(self.extent.zones);
                let agents = (0..self.agents.len()).filter(|agent| self.agents[*agent].zone == zone).collect();
                self.cut(agents, BTreeSet::from([proxy]), away);
            }
            5 => {
                let zone = self.pick(self.extent.zones);
                let proxies = (0..self.proxies.len()).filter(|proxy| self.proxies[*proxy].zone == zone).collect();
                let agents = (0..self.agents.len() / 3).map(|_| self.pick(self.agents.len())).collect();
                self.cut(agents, proxies, 2 * away);
            }
            6 => {
                // All of the network of some agents.
                let agents = (0..self.agents.len() / 20 + 1).map(|_| self.pick(self.agents.len())).collect();
                let proxies = (0..self.proxies.len()).collect();
                self.cut(agents, proxies, away);
            }
            _ => {
                let agents: Vec<usize> =
                    (0..self.agents.len() / 50 + 1).map(|_| self.pick(self.agents.len())).collect();
                for agent in agents {
                    self.restart_agent(agent);
                }
                self.controller_away = true;
                self.after(away, Happening::Controller);
            }
        }
    }

    fn cut(&mut self, agents: BTreeSet<usize>, proxies: BTreeSet<usize>, time: u64) {
        self.cut_count += 1;
        let number = self.cut_count;
        self.cuts.insert(number, (self.now(), agents, proxies));
        self.falls_silent();
        self.after(time, Happening::Heal(number));
    }

    fn restart_agent(&mut self, agent: usize) {
        let state = &mut self.agents[agent];
        state.holder = None;
        let links = std::mem::take(&mut state.links);
        let starts = state.starts;
        for (tunnel, link) in links {
            self.forget(link.proxy, (agent, starts, tunnel), "the agent was restarted");
        }
        let away = self.within(10 * SECOND);
        self.after(away, Happening::StartAgent(agent));
    }
}
