//! What must hold for any kubeconfig: shared by the replay of the corpus and the fuzz target.
//!
//! The reader is included as it is; a program has no library to ask.

#![allow(dead_code, unreachable_pub, reason = "each test binary and fuzz target uses its part")]

#[path = "../../src/kubeconfig.rs"]
mod reader;

use serde_json::{Map, Value, json};

use self::reader::{ClusterEntry, Contents, ContextEntry, UserEntry};

/// Reads a kubeconfig; true if there is a certificate with its key in it.
pub(crate) fn read(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let contents = match Contents::read(text) {
        Ok(contents) => contents,
        Err(error) => {
            assert!(!format!("{error:#}").is_empty());
            return false;
        }
    };
    let values = values(&contents);
    if !text.trim_start().starts_with('{') {
        // Certificates are renewed where they stand, so what was read stands there; and nothing is read twice.
        assert!(values.iter().all(|value| text.contains(value)), "{values:?}");
        let entries = contents.clusters.len() + contents.contexts.len() + contents.users.len();
        assert!(entries <= text.lines().count(), "{entries} entries");
    }
    for user in &contents.users {
        if let Some(key) =
            user.key.as_ref().filter(|key| !key.is_empty() && !"UserEntry { name: , .. }".contains(key.as_str()))
        {
            assert!(user.name.contains(key.as_str()) || !format!("{user:?}").contains(key.as_str()), "shown");
        }
    }
    // The same in JSON is the same.
    assert_eq!(Contents::read(&as_json(&contents).to_string()).expect("JSON of ours"), contents);
    contents.users.iter().any(|user| user.certificate.is_some() && user.key.is_some())
}

fn values(contents: &Contents) -> Vec<&str> {
    let Contents { clusters, contexts, users } = contents;
    let mut values: Vec<Option<&str>> = Vec::new();
    for ClusterEntry { name, server, tls_server_name, authority } in clusters {
        values.extend([Some(name.as_str()), server.as_deref(), tls_server_name.as_deref(), authority.as_deref()]);
    }
    for ContextEntry { name, cluster, user } in contexts {
        values.extend([Some(name.as_str()), Some(cluster), Some(user)]);
    }
    for UserEntry { name, certificate, key } in users {
        values.extend([Some(name.as_str()), certificate.as_deref(), key.as_deref().map(String::as_str)]);
    }
    values.into_iter().flatten().collect()
}

fn as_json(contents: &Contents) -> Value {
    let fields = |some: &[(&str, Option<&str>)]| -> Value {
        let some = some.iter().filter_map(|(name, value)| Some(((*name).to_owned(), json!((*value)?))));
        Value::Object(some.collect::<Map<_, _>>())
    };
    let cluster = |one: &ClusterEntry| {
        let said = fields(&[
            ("server", one.server.as_deref()),
            ("tls-server-name", one.tls_server_name.as_deref()),
            ("certificate-authority-data", one.authority.as_deref()),
        ]);
        json!({"name": one.name, "cluster": said})
    };
    let context = |one: &ContextEntry| json!({"name": one.name, "context": {"cluster": one.cluster, "user": one.user}});
    let user = |one: &UserEntry| {
        let key = one.key.as_ref().map(|key| key.as_str());
        let said = fields(&[("client-certificate-data", one.certificate.as_deref()), ("client-key-data", key)]);
        json!({"name": one.name, "user": said})
    };
    json!({
        "clusters": contents.clusters.iter().map(cluster).collect::<Vec<_>>(),
        "contexts": contents.contexts.iter().map(context).collect::<Vec<_>>(),
        "users": contents.users.iter().map(user).collect::<Vec<_>>(),
    })
}
