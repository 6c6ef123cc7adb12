//! Which hosts are reached without the egress proxy: `NO_PROXY`, by curl's rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Hosts that are reached directly, as `NO_PROXY` names them; there is no standard, so curl's rules (7.86 and later):
///
/// - `*` alone names every host; within a list it names none.
/// - Entries are separated by commas or, as older ones have it, by blanks.
/// - `example.com` and `.example.com` name that host and all below it, in any case, with or without a final dot.
/// - `192.0.2.7`, `10.0.0.0/8`, `2001:db8::/32` name addresses, and only hosts written as addresses: names are not looked
///   up for it. A prefix of 0 bits means the one address, as none does.
/// - No entry has a port: one with a port names nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NoProxy {
    all: bool,
    entries: Vec<String>,
}

impl NoProxy {
    /// Reads a list; nothing in it is refused, what makes no sense names no host.
    pub fn new(list: &str) -> Self {
        let entries = list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty());
        Self { all: list == "*", entries: entries.map(str::to_owned).collect() }
    }

    /// Whether `host` is reached directly. An IPv6 address may be in brackets.
    pub fn matches(&self, host: &str) -> bool {
        if self.all {
            return true;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        match bare.parse() {
            Ok(address) => self.entries.iter().any(|entry| holds(entry, address)),
            Err(_) => {
                let host = bare.strip_suffix('.').unwrap_or(bare);
                self.entries.iter().any(|entry| is_within(host, entry))
            }
        }
    }
}

fn is_within(host: &str, entry: &str) -> bool {
    let domain = entry.strip_suffix('.').unwrap_or(entry);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let Some(at) = host.len().checked_sub(domain.len()).filter(|_| !domain.is_empty()) else { return false };
    let (above, tail) = host.as_bytes().split_at(at);
    tail.eq_ignore_ascii_case(domain.as_bytes()) && (above.is_empty() || above.ends_with(b"."))
}

fn holds(entry: &str, address: IpAddr) -> bool {
    let (network, bits) = match entry.split_once('/') {
        // As C reads a number: the digits it begins with.
        Some((network, bits)) => {
            let digits = bits.find(|c: char| !c.is_ascii_digit()).unwrap_or(bits.len());
            (network, bits.get(..digits).and_then(|bits| bits.parse().ok()).unwrap_or(0_u32))
        }
        None => (entry, 0),
    };
    match (network.parse(), address) {
        (Ok(IpAddr::V4(network)), IpAddr::V4(address)) => {
            let bits = if bits == 0 { 32 } else { bits };
            let Some(ignored) = 32_u32.checked_sub(bits) else { return false };
            let cut = |of: Ipv4Addr| u32::from(of) >> ignored;
            cut(network) == cut(address)
        }
        (Ok(IpAddr::V6(network)), IpAddr::V6(address)) => {
            let bits = if bits == 0 { 128 } else { bits };
            let Some(ignored) = 128_u32.checked_sub(bits) else { return false };
            let cut = |of: Ipv6Addr| u128::from(of) >> ignored;
            cut(network) == cut(address)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What versions of curl differ in; the rest is held against curl itself in `tests/egress.rs`.
    #[test]
    fn blanks_separate_and_ipv6_networks_hold_addresses() {
        assert!(NoProxy::new("other example.com").matches("www.example.com"));
        for (list, inside) in [
            ("2001:db8::/32", true),
            ("2001:DB8:0::1", true),
            ("2001:db8::1/128", true),
            ("2001:db8::1/129", false),
            ("2001:db9::/32", false),
            ("2001:db8::/0", false),
            ("::/0", false),
            ("32.1.0.0/8", false),
        ] {
            assert_eq!(NoProxy::new(list).matches("2001:db8::1"), inside, "{list}");
            assert_eq!(NoProxy::new(list).matches("[2001:db8::1]"), inside, "{list}");
        }
    }
}
