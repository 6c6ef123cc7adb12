//! Ten years of an installation whose certificates live for hours to days: every authority is replaced, some twice; one is
//! in wrong hands; the keys' module is away for a while; agents sleep for months and come back. Each day everybody who
//! should be let in is, and nobody else.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]
mod support;
#[path = "support/world.rs"]
mod world;

use std::{collections::VecDeque, sync::atomic::Ordering::SeqCst};

use support::{Installation, id, key};
use world::{Kubeconfig, World, days};
use ztka_core::{Clock as _, Subject};
use ztka_pki::{CaPin, Credential, Lifetimes, Peer, PeerError, PeerVerifier, Purpose, RotationError, TrustSource};

const YEARS: i64 = 10;
/// Real handshakes each so many days, and on the days around everything that happens.
const HANDSHAKES: i64 = 14;
/// Outsiders that are tried each day.
const TRIED: usize = 6;

fn agent(org: &str, instance: &str) -> Subject {
    Subject::Agent { org: id(org), cluster: id(&format!("c-{org}")), instance: id(instance) }
}

fn proxy(name: &str) -> Subject {
    Subject::Proxy(id(name))
}

/// Somebody who is not to be let in, and why.
struct Outsider {
    purpose: Purpose,
    credential: Credential,
    why: String,
}

struct Decade {
    world: World,
    day: i64,
    outsiders: VecDeque<Outsider>,
    foreign: Vec<(Purpose, Credential)>,
    server: Credential,
    own: Credential,
    handshakes: usize,
    refusals: usize,
    acceptances: usize,
    /// A day of something: handshakes are made.
    busy: bool,
}

impl Decade {
    async fn new() -> Self {
        let world = World::empty(Lifetimes::default()).await;
        for (org, instance) in [("acme", "i1"), ("acme", "i2"), ("evil", "i3")] {
            world.join(agent(org, instance)).await;
        }
        for name in ["p1", "p2"] {
            world.join(proxy(name)).await;
        }
        world.folk.0.lock().unwrap().documents.push(world.clock.now());
        let elsewhere = Installation::new().await;
        let mut foreign = Vec::new();
        for purpose in [Purpose::Agents, Purpose::Users, Purpose::Proxies, Purpose::Controllers] {
            foreign.push((purpose, elsewhere.credential(purpose).await));
        }
        let (server, own) = (world.server().await, world.issue(&Subject::Controller(id("t1")), &key()).await);
        let (day, outsiders) = (0, VecDeque::new());
        Self { world, day, outsiders, foreign, server, own, handshakes: 0, refusals: 0, acceptances: 0, busy: true }
    }

    async fn rotate(&mut self, name: &str) {
        self.world.process.rotator.publish(&name.parse().unwrap(), true).await.unwrap();
        self.busy = true;
    }

    fn remember(&mut self, purpose: Purpose, credential: &Credential, why: &str) {
        let why = format!("{why}, since day {}", self.day);
        self.outsiders.push_back(Outsider { purpose, credential: credential.clone(), why });
    }

    fn current(&self, subject: &Subject) -> Credential {
        let people = self.world.folk.0.lock().unwrap();
        let member = people.members.iter().find(|member| member.subject == *subject).unwrap();
        (*member.credential.current()).clone()
    }

    fn awake(&self) -> Vec<Subject> {
        let people = self.world.folk.0.lock().unwrap();
        people.members.iter().filter(|member| !member.asleep).map(|member| member.subject.clone()).collect()
    }

    fn sleep(&self, subject: &Subject, asleep: bool) {
        let mut people = self.world.folk.0.lock().unwrap();
        people.members.iter_mut().find(|member| member.subject == *subject).unwrap().asleep = asleep;
    }

    /// A new token: believed by its pin, and the same names as before.
    async fn enrol(&mut self, subject: &Subject) {
        let pin = self.world.process.hierarchy.pin();
        assert!(self.world.pinned(pin, &self.server).await, "day {}: first contact of {subject}", self.day);
        self.handshakes += 1;
        self.world.join(subject.clone()).await;
    }

    async fn next_day(&mut self) {
        self.day += 1;
        self.world.advance(days(1));
        let before: Vec<_> = self.awake().iter().map(|subject| (subject.clone(), self.current(subject))).collect();
        let away = self.world.away.load(SeqCst);
        match self.world.process.rotator.advance().await {
            Ok(taken) => self.busy |= !taken.is_empty(),
            Err(error) => assert!(away, "day {}: {error:?}", self.day),
        }
        self.world.hear().await;
        self.world.renew().await;
        let hierarchy = &self.world.process.hierarchy;
        let old = |credential: &Credential| credential.not_after().duration_since(self.world.clock.now()) < days(10);
        if !away && (hierarchy.has_moved_on(Purpose::Servers, &self.server) || old(&self.server)) {
            self.server = self.world.server().await;
        }
        let old = |credential: &Credential| credential.not_after().duration_since(self.world.clock.now()) < days(1);
        if !away && (hierarchy.has_moved_on(Purpose::Controllers, &self.own) || old(&self.own)) {
            self.own = self.world.issue(&Subject::Controller(id("t1")), &key()).await;
        }
        for (subject, credential) in before {
            // What was replaced will be over before long.
            if self.day % 50 == 0 && self.current(&subject).serial() != credential.serial() {
                let purpose = if matches!(subject, Subject::Proxy(_)) { Purpose::Proxies } else { Purpose::Agents };
                self.remember(purpose, &credential, "replaced");
            }
        }
        if !away && self.day % 25 == 0 {
            self.world.kubeconfig(days(30)).await;
        }
        if !away && self.day % 365 == 1 {
            self.world.kubeconfig(days(365)).await;
        }
        self.check().await;
    }

    /// Everybody who should be let in is, and nobody else.
    async fn check(&mut self) {
        let (now, day) = (self.world.clock.now(), self.day);
        let proxies: Vec<TrustSource> = {
            let people = self.world.folk.0.lock().unwrap();
            let proxies = people.members.iter().filter(|member| member.purpose == Purpose::Proxies);
            proxies.map(|member| member.trust.clone()).collect()
        };
        let awake = self.awake();
        for subject in &awake {
            let purpose = if matches!(subject, Subject::Proxy(_)) { Purpose::Proxies } else { Purpose::Agents };
            let chain = self.current(subject);
            for trust in proxies.iter().skip(usize::try_from(day % 2).unwrap()).take(1) {
                let peer = trust.verify(purpose, chain.chain());
                assert!(peer.is_ok_and(|peer| peer.id.subject == *subject), "day {day}: {subject} is let in");
                self.acceptances += 1;
            }
        }
        let mut people = std::mem::take(&mut self.world.folk.0.lock().unwrap().kubeconfigs);
        let (live, over): (Vec<Kubeconfig>, Vec<_>) =
            people.drain(..).partition(|kubeconfig| kubeconfig.credential.not_after() > now);
        self.world.folk.0.lock().unwrap().kubeconfigs = live.clone();
        for kubeconfig in over {
            self.remember(Purpose::Users, &kubeconfig.credential, "expired");
        }
        for kubeconfig in &live {
            assert!(
                self.world.kubectl(kubeconfig, &proxy(if day % 2 == 0 { "p1" } else { "p2" })),
                "day {day}: kubectl"
            );
            self.acceptances += 1;
        }
        if self.busy || day % HANDSHAKES == 0 {
            self.shake_hands(&awake).await;
        }
        self.busy = false;

        // Outsiders: those of before that are over by now, those of elsewhere, and the right ones in the wrong place.
        while self.outsiders.len() > TRIED {
            self.outsiders.pop_front();
        }
        for outsider in &self.outsiders {
            if outsider.why.starts_with("replaced") && outsider.credential.not_after() > now {
                continue;
            }
            for trust in proxies.iter().take(1) {
                let let_in = trust.verify(outsider.purpose, outsider.credential.chain()).is_ok();
                assert!(!let_in, "day {day}: {} is let in: {:?}", outsider.why, outsider.credential);
            }
            self.refusals += 1;
        }
        if day % 7 == 0 {
            for (purpose, credential) in &self.foreign {
                let refused = proxies[0].verify(*purpose, credential.chain()).map(drop);
                assert!(matches!(refused, Err(PeerError::Untrusted | PeerError::Expired)), "day {day}: {refused:?}");
                self.refusals += 1;
            }
            let agents = awake.iter().filter(|subject| matches!(subject, Subject::Agent { .. }));
            for subject in agents.take(1) {
                for wrong in [Purpose::Users, Purpose::Proxies, Purpose::Controllers, Purpose::Servers] {
                    assert!(proxies[0].verify(wrong, self.current(subject).chain()).is_err(), "day {day}: as {wrong}");
                    self.refusals += 1;
                }
            }
        }
    }

    async fn shake_hands(&mut self, awake: &[Subject]) {
        let day = self.day;
        let (agents, proxies): (Vec<_>, Vec<_>) = awake.iter().partition(|one| matches!(one, Subject::Agent { .. }));
        for agent in &agents {
            for proxy in &proxies {
                assert!(self.world.tunnel(agent, proxy).await, "day {day}: the tunnel of {agent} to {proxy}");
                self.handshakes += 1;
            }
        }
        for member in awake {
            let reached = self.world.at_controller(member, &self.server, &self.own).await;
            assert!(reached, "day {day}: {member} at the controller");
            self.handshakes += 1;
        }
    }

    /// Somebody comes back after months: what they have is refused, and a token lets them in again.
    async fn wake(&mut self, subject: &Subject) {
        let stale = self.current(subject);
        self.sleep(subject, false);
        for proxy in [proxy("p1"), proxy("p2")] {
            assert!(!self.world.tunnel(subject, &proxy).await, "day {}: {subject} comes with what it had", self.day);
        }
        assert!(!self.world.at_controller(subject, &self.server, &self.own).await, "and cannot renew");
        self.remember(Purpose::Agents, &stale, "slept");
        let before = stale.id().unwrap();
        self.enrol(subject).await;
        assert_eq!(self.current(subject).id().unwrap(), before, "the same organisation, cluster and name");
        self.busy = true;
    }
}

fn pin_of(decade: &Decade) -> CaPin {
    decade.world.process.hierarchy.pin()
}

#[tokio::test]
async fn everybody_is_let_in_for_ten_years_and_nobody_else() {
    let mut decade = Decade::new().await;
    let (sleeper, long_sleeper) = (agent("acme", "i2"), agent("evil", "i3"));
    let first_root = pin_of(&decade);
    let mut roots = vec![first_root];
    let mut connected: Option<Peer> = None;
    for _ in 0..YEARS * 365 {
        decade.next_day().await;
        match decade.day {
            // Names of servers first, so that all that follows is done with what came out of it.
            100 => decade.rotate("servers").await,
            200 => decade.rotate("signing").await,
            // An agent that sleeps through the whole change of its authority.
            290 => decade.sleep(&sleeper, true),
            300 => decade.rotate("agents").await,
            // The first root; a kubeconfig of a year keeps the cross-certificate in use for long.
            400 => decade.rotate("root").await,
            480 => decade.wake(&sleeper).await,
            600 => {
                let bundle = decade.world.process.hierarchy.trust_bundle();
                assert_eq!((bundle.roots.len(), bundle.server_chain.len()), (2, 3), "the root is still on its way");
            }
            700 => decade.rotate("agents.acme").await,
            800 => decade.rotate("proxies").await,
            860 => decade.rotate("controllers").await,
            // An emergency: the agents' authority is in wrong hands.
            1000 => {
                let thieves = decade.world.issue(&agent("acme", "thief"), &key()).await;
                let trust = decade
                    .world
                    .folk
                    .0
                    .lock()
                    .unwrap()
                    .members
                    .iter()
                    .find(|one| one.subject == proxy("p1"))
                    .unwrap()
                    .trust
                    .clone();
                connected = Some((*trust.verify(Purpose::Agents, thieves.chain()).unwrap()).clone());
                let lost = decade.world.process.rotator.cut_off(&"agents".parse().unwrap()).await.unwrap();
                decade.world.hear().await;
                assert_eq!(lost.len(), 3, "the agents, and nobody else: {lost:?}");
                assert!(trust.is_revoked(connected.as_ref().unwrap()), "what the thief has open ends");
                decade.remember(Purpose::Agents, &thieves, "stolen");
                for subject in [agent("acme", "i1"), agent("acme", "i2"), agent("evil", "i3")] {
                    assert!(!decade.world.tunnel(&subject, &proxy("p1")).await, "nothing of before is believed");
                    decade.enrol(&subject).await;
                }
                decade.busy = true;
                decade.check().await;
            }
            // The keys' module is away: nothing is issued, nothing is rotated, and nobody is thrown out.
            1300 => {
                decade.world.away.store(true, SeqCst);
                let refused = decade.world.process.rotator.publish(&"signing".parse().unwrap(), false).await;
                assert!(matches!(refused, Err(RotationError::Issue(_))), "{refused:?}");
                assert!(decade.world.states.stored().rotations.is_empty(), "and nothing is left behind");
            }
            1301 => {
                decade.busy = true;
                decade.check().await;
                decade.world.away.store(false, SeqCst);
                decade.world.restart().await;
            }
            1500 => decade.rotate("users").await,
            1600 => decade.sleep(&long_sleeper, true),
            1700 => decade.rotate("servers").await,
            1720 => decade.rotate("proxies").await,
            // The second root, while somebody sleeps.
            2000 => decade.rotate("root").await,
            2300 => decade.wake(&long_sleeper).await,
            // Authorities that have become old since are replaced by themselves, from 2434 on.
            _ => {}
        }
        let pin = pin_of(&decade);
        if roots.last() != Some(&pin) {
            roots.push(pin);
        }
    }
    let state = decade.world.states.stored();
    assert_eq!(roots.len(), 3, "two new roots");
    assert!(!decade.world.pinned(first_root, &decade.server).await, "a token of ten years ago leads nowhere");
    for purpose in Purpose::ALL {
        let (from, until) = state.purposes[&purpose].validity().unwrap();
        assert!(from > support::now() + days(300), "{purpose} is not the first one");
        assert!(until > decade.world.clock.now() + days(365), "{purpose} lasts");
    }
    let verifier =
        PeerVerifier::new(&decade.world.process.hierarchy.trust_bundle(), Purpose::Agents, support::provider());
    assert!(verifier.unwrap().verify(decade.current(&agent("acme", "i1")).chain(), decade.world.clock.now()).is_ok());
    assert!(connected.is_some());
    println!(
        "{} acceptances, {} refusals, {} handshakes, generation {}",
        decade.acceptances, decade.refusals, decade.handshakes, state.generation
    );
}
