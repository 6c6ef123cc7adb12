//! `NO_PROXY` held against curl itself: the same list and host, and where each of them connects.
//!
//! Not in the list is what versions of curl differ in: blanks as separators, and IPv6 networks, which 7.88 takes for text.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{
    io::Write as _,
    net::TcpListener,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use ztka_tunnel::NoProxy;

const LISTS: &[&str] = &[
    "",
    "*",
    "*,x",
    " *",
    "example.com",
    ".example.com",
    "example.com.",
    "..example.com",
    "EXAMPLE.com",
    "*.example.com",
    "ample.com",
    "example.com:443",
    "other, example.com",
    "other ,example.com",
    ",,example.com,",
    "other,\texample.com",
    ".",
    "com",
    "10.1.2.3",
    "10.0.0.0/8",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "10.1.2.4/31",
    "10.1.2.3/0",
    "0.0.0.0/0",
    "10.1.2.3/33",
    "10.1.2.3/8x",
    "10.1.2.3/x",
    "10.1.2",
    "2001:db8::1",
    "[2001:db8::1]",
];

const HOSTS: &[&str] = &[
    "example.com",
    "example.com.",
    "www.example.com",
    "WWW.Example.COM",
    "notexample.com",
    "com",
    "10.1.2.3",
    "10.1.2.5",
    "11.1.2.3",
    "2001:db8::1",
    "2001:db8:1::5",
    "2001:db9::1",
];

/// Notes its name for every connection, and closes it.
fn listen(name: &'static str, seen: &Arc<Mutex<Vec<&'static str>>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = seen.clone();
    thread::spawn(move || {
        for connection in listener.incoming() {
            seen.lock().unwrap().push(name);
            drop(connection);
        }
    });
    port
}

fn is_modern_curl() -> Result<(), String> {
    let version = Command::new("curl").arg("--version").output().map_err(|_| "curl is not installed".to_owned())?;
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    let number = text.split(' ').nth(1).unwrap_or_default();
    let mut parts = number.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < (7, 86) { Err(format!("curl {number} is older than these rules")) } else { Ok(()) }
}

#[test]
fn lists_mean_what_they_mean_to_curl() {
    if let Err(why) = is_modern_curl() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{why}; run apt-get install curl");
        return writeln!(std::io::stderr(), "SKIPPED: {why}").unwrap();
    }
    let seen = Arc::default();
    let (proxy, direct) = (listen("proxy", &seen), listen("direct", &seen));
    let mut differ = Vec::new();
    for list in LISTS {
        for host in HOSTS {
            seen.lock().unwrap().clear();
            let url = if host.contains(':') { format!("https://[{host}]/") } else { format!("https://{host}/") };
            let mut curl = Command::new("curl");
            for variable in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"] {
                curl.env_remove(variable);
            }
            curl.args(["-q", "-s", "--max-time", "20", "--connect-to", &format!("::127.0.0.1:{direct}"), &url]);
            curl.env("https_proxy", format!("http://127.0.0.1:{proxy}")).env("no_proxy", list);
            curl.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
            let is_direct = seen.lock().unwrap().last() == Some(&"direct");
            if NoProxy::new(list).matches(host) != is_direct {
                differ.push(format!("{list:?} {host}: curl goes {}", if is_direct { "directly" } else { "by proxy" }));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
