//! What must hold for any configuration file of a server: shared by the replay of the corpus and the fuzz target.
//!
//! And what the servers make of one.

#![allow(dead_code, unreachable_pub, reason = "each test binary and fuzz target uses its part")]

use std::{fmt::Debug, io::Write as _};

use jiff::SignedDuration;
use toml::{Table, Value};
use ztka_agent_server as agent;
use ztka_controller_server as controller;
use ztka_proxy_server as proxy;
use ztka_runtime::{Common, Configuration, load};

const RUNTIME: &[&str] = &["log", "log_format", "health"];

/// The first byte says whose file it is; true if the server would start with it.
pub(crate) fn server_config(data: &[u8]) -> bool {
    let Some((whose, text)) = data.split_first() else { return false };
    let Ok(text) = std::str::from_utf8(text) else { return false };
    match whose {
        b'a' => agent(text),
        b'c' => controller(text),
        b'p' => proxy(text),
        _ => false,
    }
}

/// Reads the file; nothing in it is passed over.
fn parsed<C: Configuration + Debug>(text: &str, top: &[&str], tables: &[(&str, &[&str])]) -> Option<(C, Table)> {
    let config: C = toml::from_str(text).ok()?;
    // A number beyond 63 bits is read into a field, and has no place in a table.
    let Ok(table) = text.parse::<Table>() else { return None };
    for (key, value) in &table {
        let inner = tables.iter().find(|(name, _)| name == key).map(|(_, inner)| *inner);
        match (inner, value) {
            (Some(known), Value::Table(inner)) => {
                assert!(inner.keys().all(|key| known.contains(&key.as_str())), "{key}: {inner:?}");
            }
            _ => assert!(top.contains(&key.as_str()), "{key} is passed over"),
        }
    }
    // A key that is misspelt is told, in every table.
    assert!(toml::from_str::<C>(&format!("misspelt = 1\n{text}")).is_err());
    for (name, _) in tables {
        let mut more = table.clone();
        let inner = more.entry(*name).or_insert_with(|| Table::new().into());
        if let Value::Table(inner) = inner {
            inner.insert("misspelt".into(), 1.into());
            assert!(more.try_into::<C>().is_err(), "a misspelt key of {name}");
        }
    }
    // Nor does it matter how it is written.
    let again: C = table.clone().try_into().expect("the same, spelt otherwise");
    assert_eq!(format!("{again:?}"), format!("{config:?}"));
    Some((config, table))
}

/// As the process does it. Files that are named are not opened: a fuzzer would name devices.
fn starts<C: Configuration>(text: &str, table: &Table) -> bool {
    let files = ["token_file", "ca_file"];
    if files.iter().any(|key| table.contains_key(*key)) {
        return false;
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let loaded = load::<C>(file.path());
    if let Err(error) = &loaded {
        assert!(!format!("{error:#}").is_empty());
    }
    loaded.is_ok_and(|config| {
        let Common { health, .. } = config.common();
        assert!(health.is_none_or(|address| address.ip().is_loopback()), "health is never public");
        true
    })
}

fn text<'a>(table: &'a Table, key: &str) -> &'a str {
    table[key].as_str().unwrap()
}

fn agent(text_of: &str) -> bool {
    let top = ["domain", "front", "proxies", "state_dir", "credential", "token_file"];
    let tables = [("apiserver", &["url", "ca_file", "token_file"][..]), ("runtime", RUNTIME)];
    let Some((config, table)) = parsed::<agent::Config>(text_of, &top, &tables) else { return false };
    assert_eq!((config.domain.as_str(), config.front.as_str()), (text(&table, "domain"), text(&table, "front")));
    // Its own check reads files of a pod.
    let Ok(name) = config.server_name("tunnel") else { return false };
    assert_eq!(name.to_str(), format!("tunnel.{}", config.domain));
    let Ok(addresses) = config.addresses() else { return false };
    let proxies = if config.proxies.is_empty() { std::slice::from_ref(&config.front) } else { &config.proxies };
    assert_eq!(addresses.len(), proxies.len());
    for (address, written) in addresses.iter().zip(proxies) {
        let (host, port) = written.rsplit_once(':').unwrap();
        assert_eq!(
            (address.port().to_string().as_str(), address.port()),
            (port.trim_start_matches(['0', '+']), address.port())
        );
        assert!(!host.trim_matches(['[', ']']).is_empty(), "{written}");
    }
    if config.apiserver.url.is_some() {
        let Ok(url) = config.apiserver.url() else { return false };
        assert!(url.scheme_str() == Some("https") && url.host().is_some(), "tokens go to nothing else: {url}");
    }
    true
}

fn controller(text_of: &str) -> bool {
    let top = ["domain", "data_dir", "front", "tunnels", "listen", "listen_passed"];
    let tables = [("certificates", &["agent", "proxy"][..]), ("runtime", RUNTIME)];
    let Some((config, table)) = parsed::<controller::Config>(text_of, &top, &tables) else { return false };
    assert_eq!(config.listen.to_string().parse(), Ok(config.listen));
    if !starts::<controller::Config>(text_of, &table) {
        return false;
    }
    let settings = config.settings();
    assert_eq!(settings.front, text(&table, "front"));
    assert!(!settings.tunnels_at.is_empty());
    let least = SignedDuration::from_secs(10);
    assert!(settings.lifetimes.agent >= least && settings.lifetimes.proxy >= least);
    true
}

fn proxy(text_of: &str) -> bool {
    let top = ["domain", "listen", "fronts", "state_dir", "token_file", "controller", "pass_to", "login", "grace"];
    let limits = [
        "connections",
        "handshakes",
        "new_connections_burst",
        "new_connections_per_second",
        "requests",
        "user_connections",
        "user_requests",
        "user_streams",
    ];
    let tables = [
        ("proxy_protocol", &["trusted"][..]),
        ("audit", &["quota_mib", "file", "policy", "levels", "spool"]),
        ("limits", &limits),
        ("runtime", RUNTIME),
    ];
    let Some((config, table)) = parsed::<proxy::Config>(text_of, &top, &tables) else { return false };
    if !starts::<proxy::Config>(text_of, &table) {
        return false;
    }
    let trusted = config.balancers().unwrap();
    assert_eq!(trusted.len(), config.proxy_protocol.trusted.len());
    for (range, written) in trusted.iter().zip(&config.proxy_protocol.trusted) {
        let (address, _) = written.split_once('/').unwrap_or((written, ""));
        assert!(range.contains(address.parse().unwrap()), "{written} is not in itself");
    }
    if let Some(mib) = config.audit.quota_mib {
        assert!(
            mib.checked_mul(2 << 20).is_some_and(|bytes| bytes > 0),
            "a quota of nothing, or that overflows: {mib}"
        );
    }
    assert!(!config.grace.is_negative());
    // Whatever the limits are, there is a proxy with them.
    let _ = ztka_proxy::ShedLayer::new(&config.limits);
    true
}
