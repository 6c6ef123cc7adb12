//! Single decisions of the holder, each from a situation made by hand.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::{collections::BTreeMap, time::Duration};

mod simulation;

use super::*;

fn address(host: &str) -> ProxyAddress {
    ProxyAddress::new(host, 443).unwrap()
}

fn id(text: &str) -> ProxyId {
    text.parse().unwrap()
}

fn known(text: &str, zone: &str, own: bool) -> KnownProxy {
    KnownProxy { id: id(text), zone: Some(zone.into()), address: own.then(|| address(&format!("{text}.own"))) }
}

/// A holder, what it has asked for and not been answered, and its time.
struct Table {
    holder: Holder,
    now: Instant,
    dials: Vec<(TunnelId, String)>,
    others: Vec<Action>,
}

impl Table {
    fn new(shared: &[&str], directory: &[KnownProxy]) -> Self {
        Self::with(shared, directory, DialSettings::default())
    }

    fn with(shared: &[&str], directory: &[KnownProxy], dial: DialSettings) -> Self {
        let now = Instant::now();
        let shared = shared.iter().map(|host| address(host));
        let holder = Holder::new(shared, dial, Settings::default(), 1, now);
        let mut table = Self { holder, now, dials: Vec::new(), others: Vec::new() };
        table.handle(Event::Learnt(directory.into()));
        table
    }

    fn collect(&mut self) {
        while let Some(action) = self.holder.action() {
            match action {
                Action::Dial(tunnel, address) => self.dials.push((tunnel, address.host().to_owned())),
                Action::HangUp(tunnel) => self.dials.retain(|(dialled, _)| *dialled != tunnel),
                Action::Begin(_) => {}
                other => self.others.push(other),
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.holder.handle(event, self.now);
        self.collect();
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(wake) = self.holder.wake().filter(|wake| *wake <= until) {
            self.now = self.now.max(wake);
            self.holder.woken(self.now);
            self.collect();
        }
        self.now = until;
    }

    /// Waits for an attempt.
    fn dialled(&mut self) -> (TunnelId, String) {
        for _ in 0..20_000 {
            if !self.dials.is_empty() {
                return self.dials.remove(0);
            }
            self.pass(Duration::from_millis(100));
        }
        panic!("nothing is dialled")
    }

    /// Answers an attempt as `proxy`; false if that is of no use.
    fn answer(&mut self, tunnel: TunnelId, proxy: &str) -> bool {
        self.dials.push((tunnel, String::new()));
        self.handle(Event::Connected(tunnel, id(proxy)));
        let wanted = self.dials.iter().any(|(dialled, _)| *dialled == tunnel);
        self.dials.retain(|(dialled, _)| *dialled != tunnel);
        if wanted {
            self.handle(Event::Ready(tunnel));
        }
        wanted
    }

    fn held(&self) -> Vec<String> {
        let mut held: Vec<_> =
            self.holder.states().into_iter().filter_map(|state| Some(state.proxy?.to_string())).collect();
        held.sort();
        held
    }
}

#[test]
fn proxies_of_different_zones_are_dialled_by_their_own_addresses() {
    let directory = [known("p1", "a", true), known("p2", "a", true), known("p3", "b", true)];
    for _ in 0..20 {
        let mut table = Table::new(&[], &directory);
        for _ in 0..2 {
            let (tunnel, host) = table.dialled();
            assert!(table.answer(tunnel, host.strip_suffix(".own").unwrap()));
        }
        assert!(table.held().contains(&"p3".into()), "{:?}", table.held());
        assert_eq!((table.held().len(), table.dials.len()), (2, 0));
    }
}

#[test]
fn a_shared_name_is_redialled_until_ids_differ_but_not_without_end() {
    let mut table = Table::new(&["shared"], &[]);
    let (first, _) = table.dialled();
    assert!(table.answer(first, "p1"));
    let begun = table.now;
    let mut tries = 0;
    while table.now - begun < Duration::from_secs(3600) {
        let (tunnel, _) = table.dialled();
        assert!(!table.answer(tunnel, "p1"), "two tunnels to one proxy");
        tries += 1;
    }
    assert!((5..15).contains(&tries), "{tries} in an hour");
    let (tunnel, _) = table.dialled();
    assert!(table.answer(tunnel, "p2"));
    assert_eq!(table.held(), ["p1", "p2"]);
}

#[test]
fn a_proxy_that_comes_back_is_sought_by_the_name_that_led_to_it() {
    let directory = [known("p1", "a", false), known("p2", "b", false), known("p3", "c", false)];
    for failures in 0..4 {
        let dial = DialSettings { tunnels: 3, ..DialSettings::default() };
        let mut table = Table::with(&["p1", "p2", "p3"], &directory, dial);
        let mut tunnels = BTreeMap::new();
        while tunnels.len() < 3 {
            let (tunnel, host) = table.dialled();
            if table.answer(tunnel, &host) {
                tunnels.insert(host, tunnel);
            }
        }
        table.pass(Duration::from_secs(60));
        table.dials.clear();
        table.handle(Event::Ended(tunnels["p2"], None));
        for _ in 0..failures {
            let (tunnel, host) = table.dialled();
            assert_eq!(host, "p2");
            table.handle(Event::Ended(tunnel, Some("refused".into())));
        }
        let (tunnel, host) = table.dialled();
        assert!(host == "p2" && table.answer(tunnel, &host), "{host} after {failures}");
        assert_eq!(table.held(), ["p1", "p2", "p3"]);
    }
}

#[test]
fn nobody_is_sought_where_the_directory_knows_nobody_else() {
    let mut table = Table::new(&["shared"], &[known("p1", "a", false)]);
    let (first, _) = table.dialled();
    assert!(table.answer(first, "p1"));
    table.dials.clear(); // the second attempt was made before anything was known
    table.pass(Duration::from_secs(11));
    table.dials.clear();
    table.pass(Duration::from_secs(3600));
    assert!(table.dials.is_empty());
    table.handle(Event::Learnt([known("p1", "a", false), known("p2", "b", false)].into()));
    let (tunnel, host) = table.dialled();
    assert_eq!(host, "shared");
    assert!(table.answer(tunnel, "p2"));
}

#[test]
fn a_shared_name_that_leads_into_the_same_zone_is_tried_again_a_few_times() {
    let directory = [known("p1", "a", false), known("p2", "a", false), known("p3", "b", false)];
    let mut table = Table::new(&["shared"], &directory);
    let (first, _) = table.dialled();
    assert!(table.answer(first, "p1"));
    for _ in 0..3 {
        let (tunnel, _) = table.dialled();
        assert!(!table.answer(tunnel, "p2"));
    }
    let (tunnel, _) = table.dialled();
    assert!(table.answer(tunnel, "p2"), "better the same zone than no tunnel");
}

#[test]
fn a_tunnel_is_moved_into_a_zone_that_has_come_back() {
    let both = [known("p1", "a", true), known("p2", "a", true)];
    let mut table = Table::new(&[], &both);
    for _ in 0..2 {
        let (tunnel, host) = table.dialled();
        assert!(table.answer(tunnel, host.strip_suffix(".own").unwrap()));
    }
    let back = [known("p1", "a", true), known("p2", "a", true), known("p3", "b", true)];
    table.handle(Event::Learnt(back.into()));
    let (tunnel, host) = table.dialled();
    assert_eq!((host.as_str(), table.held().len()), ("p3.own", 2), "make before break");
    assert!(table.answer(tunnel, "p3"));
    assert!(table.held().contains(&"p3".into()) && table.held().len() == 2);
    assert!(matches!(table.others[..], [Action::Drain(_)]));
}

#[test]
fn a_lost_tunnel_is_replaced_within_the_first_retry_and_elsewhere() {
    let directory = [known("p1", "a", true), known("p2", "b", true), known("p3", "c", true)];
    let mut table = Table::new(&[], &directory);
    let mut tunnels = Vec::new();
    for _ in 0..2 {
        let (tunnel, host) = table.dialled();
        assert!(table.answer(tunnel, host.strip_suffix(".own").unwrap()));
        tunnels.push((tunnel, host));
    }
    table.pass(Duration::from_secs(3600));
    table.handle(Event::Ended(tunnels[0].0, Some("broken".into())));
    table.pass(DialSettings::default().first_retry);
    let (_, host) = table.dials.remove(0);
    assert!(!host.is_empty() && host != tunnels[1].1, "{host}");
}

#[test]
fn an_address_that_leads_to_another_proxy_than_announced_is_not_used() {
    let mut table = Table::new(&[], &[known("p1", "a", true)]);
    let (tunnel, _) = table.dialled();
    assert!(!table.answer(tunnel, "p2"));
    assert!(table.holder.states()[0].error.as_ref().unwrap().contains("p2"));
}

#[test]
fn renewal_replaces_each_tunnel_only_when_another_is_ready() {
    let directory = [known("p1", "a", true), known("p2", "b", true)];
    let mut table = Table::new(&[], &directory);
    for _ in 0..2 {
        let (tunnel, host) = table.dialled();
        assert!(table.answer(tunnel, host.strip_suffix(".own").unwrap()));
    }
    table.handle(Event::Renewed);
    assert!(table.others.is_empty());
    for left in [1, 2] {
        let (tunnel, host) = table.dialled();
        assert_eq!(table.held(), ["p1", "p2"]);
        assert!(table.answer(tunnel, host.strip_suffix(".own").unwrap()));
        assert_eq!((table.others.len(), table.held().len()), (left, 2));
    }
    assert!(table.others.iter().all(|action| matches!(action, Action::Drain(_))), "{:?}", table.others);
}

#[test]
fn who_does_not_answer_is_hung_up_on_and_old_streams_have_an_end() {
    let mut table = Table::with(&["shared"], &[], DialSettings { tunnels: 1, ..DialSettings::default() });
    let (silent, _) = table.dialled();
    table.pass(Duration::from_secs(11));
    assert!(table.holder.states()[0].error.as_ref().unwrap().contains("firewall"));
    let (tunnel, _) = table.dialled();
    assert!(tunnel != silent && table.answer(tunnel, "p1"));
    table.handle(Event::Renewed);
    let (newer, _) = table.dialled();
    assert!(table.answer(newer, "p1"));
    table.pass(Duration::from_secs(25 * 3600));
    assert!(matches!(table.others[..], [Action::Drain(old), Action::Cut(cut, _)] if old == tunnel && cut == tunnel));
    table.handle(Event::Stopped);
    assert!(!table.holder.is_over());
    table.handle(Event::Ended(newer, None));
    assert!(table.holder.is_over());
}
