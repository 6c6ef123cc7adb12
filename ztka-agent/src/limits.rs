//! Limits that the cluster's owner sets: in the agent's configuration, and in a ConfigMap of the cluster. Both hold at once.

use std::{fmt::Write as _, time::Duration};

use http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::time::{MissedTickBehavior, interval, sleep};
use ztka_authz::{Engine, InvalidPolicy, Limits, LocalLimits};

use crate::accounts::{Client, client::CallError};

/// The ConfigMap, in the agent's namespace.
pub const LIMITS_CONFIG_MAP: &str = "ztka-agent-limits";

/// What its owner writes.
const WRITTEN: &str = "limits.toml";
/// What the agent says in it.
const IN_FORCE: &str = "in-force";
/// A change is in force after this long at the latest.
const LOOK: Duration = Duration::from_secs(5);
/// When the cluster could not be asked.
const AGAIN: Duration = Duration::from_secs(2);

/// Limits that cannot be used; nobody is let in without them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// Those of the configuration mean nothing definite.
    #[error("the limits in the agent's configuration cannot be used; correct the table [limits]")]
    Configured(#[source] InvalidPolicy),
    /// Those of the ConfigMap.
    #[error("the limits in ConfigMap {LIMITS_CONFIG_MAP} cannot be used; correct {WRITTEN} in it")]
    Written(#[source] Unusable),
    /// The ConfigMap may not be read.
    #[error(
        "the agent may not read ConfigMap {LIMITS_CONFIG_MAP}: apply the agent's manifest again, or set limits_config_map = false"
    )]
    Forbidden,
}

/// What is wrong with a ConfigMap.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unusable {
    /// It is not TOML of the form of [`LocalLimits`].
    #[error(transparent)]
    Form(#[from] toml::de::Error),
    /// It means nothing definite.
    #[error(transparent)]
    Meaning(#[from] InvalidPolicy),
    /// There is something in it that nobody reads, and that may have been meant for limits.
    #[error("{0:?} is no key of it: the only one that is read is {WRITTEN}")]
    Key(String),
    /// There is something in it that is no text, as whatever `kubectl create --from-file` does not find to be UTF-8.
    #[error("{0:?} stands in its binaryData, and limits are text: write them in UTF-8 as {WRITTEN}")]
    Binary(String),
}

/// Keeps the limits of one cluster in force.
#[derive(Debug)]
pub struct OwnerLimits {
    engine: Engine,
    configured: LocalLimits,
    cluster: Option<(Client, String)>,
    /// What the ConfigMap said last that could be used.
    written: LocalLimits,
    /// What it says that cannot be.
    problem: Option<String>,
    told: Option<String>,
}

impl OwnerLimits {
    /// Those of the configuration, for `engine`.
    pub fn new(engine: Engine, configured: LocalLimits) -> Self {
        let (written, problem, told) = (LocalLimits::default(), None, None);
        Self { engine, configured, cluster: None, written, problem, told }
    }

    /// Beside them those of the ConfigMap [`LIMITS_CONFIG_MAP`] in `namespace`, by `client`.
    #[must_use]
    pub fn with_config_map(mut self, client: Client, namespace: impl Into<String>) -> Self {
        self.cluster = Some((client, namespace.into()));
        self
    }

    /// Puts in force what there is; waits for a cluster that cannot be asked. Before it returns nobody is to be let in.
    ///
    /// # Errors
    /// [`LimitsError`]: the owner has to see to it.
    pub async fn begin(&mut self) -> Result<(), LimitsError> {
        self.configured.clone().compile().map_err(LimitsError::Configured)?;
        loop {
            match self.read().await {
                Ok(found) => {
                    self.written = parse(found.as_ref()).map_err(LimitsError::Written)?;
                    break;
                }
                Err(CallError::Refused { code: StatusCode::FORBIDDEN, .. }) => return Err(LimitsError::Forbidden),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "waiting for the limits of the cluster's owner"
                    );
                    sleep(AGAIN).await;
                }
            }
        }
        self.put_in_force();
        self.tell().await;
        Ok(())
    }

    /// Follows the ConfigMap until dropped. What cannot be used leaves the limits as they are, and is told.
    pub async fn follow(mut self) {
        if self.cluster.is_none() {
            return;
        }
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            match self.read().await {
                Ok(found) => self.take(found.as_ref()),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "limits are not looked for; those in force stay"
                    );
                }
            }
            self.tell().await;
        }
    }

    fn take(&mut self, found: Option<&Value>) {
        match parse(found) {
            Ok(written) => {
                self.problem = None;
                if written != self.written {
                    self.written = written;
                    self.put_in_force();
                }
            }
            Err(error) => {
                let problem = error.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    tracing::error!(
                        problem,
                        "ConfigMap {LIMITS_CONFIG_MAP} cannot be used; the limits before it stay in force"
                    );
                    self.problem = Some(problem);
                }
            }
        }
    }

    fn put_in_force(&self) {
        let both = [&self.configured, &self.written].into_iter().filter(|limits| !limits.is_none());
        // They were compiled before, each where it came from.
        let compiled = both.map(|limits| limits.clone().compile()).collect::<Result<Vec<Limits>, _>>();
        match compiled {
            Ok(limits) => self.engine.limit(limits),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "limits cannot be used; those in force stay");
                return;
            }
        }
        tracing::info!(configured = %shown(&self.configured), config_map = %shown(&self.written), "limits of the cluster's owner are in force");
    }

    /// What `kubectl describe` is to show.
    fn said(&self) -> String {
        let mut said = match (self.configured.is_none(), self.written.is_none()) {
            (true, true) => "No limits are in force.\n".to_owned(),
            _ => String::new(),
        };
        for (from, limits) in [("the agent's configuration", &self.configured), (WRITTEN, &self.written)] {
            if !limits.is_none() {
                let _ = write!(said, "# in force, from {from}\n{}", text(limits));
            }
        }
        if let Some(problem) = &self.problem {
            let problem = problem.trim_end().replace('\n', "\n# ");
            let _ = writeln!(said, "# NOT in force: {WRITTEN} as it is now cannot be used: {problem}");
        }
        said
    }

    async fn tell(&mut self) {
        let said = self.said();
        let Some((client, namespace)) = self.cluster.as_ref().filter(|_| self.told.as_ref() != Some(&said)) else {
            return;
        };
        let path = path(namespace);
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": LIMITS_CONFIG_MAP, "namespace": namespace},
            "data": {IN_FORCE: said},
        });
        let answer =
            client.apply(&path, &object).await.and_then(|answer| answer.accepted("saying which limits are in force"));
        match answer {
            Ok(_) => self.told = Some(said),
            Err(error) => {
                // They are in force all the same, and in the log.
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "the ConfigMap does not show the limits in force yet"
                );
            }
        }
    }

    /// The ConfigMap, if there is one.
    async fn read(&self) -> Result<Option<Value>, CallError> {
        let Some((client, namespace)) = &self.cluster else { return Ok(None) };
        match client.get(&path(namespace)).await?.accepted("reading the limits of the cluster's owner") {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{LIMITS_CONFIG_MAP}")
}

/// What a ConfigMap says; without one there are no limits.
fn parse(config_map: Option<&Value>) -> Result<LocalLimits, Unusable> {
    let Some(config_map) = config_map else { return Ok(LocalLimits::default()) };
    let part = |name: &str| config_map.get(name).and_then(Value::as_object);
    if let Some(unread) = part("binaryData").and_then(|binary| binary.keys().next()) {
        return Err(Unusable::Binary(unread.clone()));
    }
    let data = part("data");
    let mut keys = data.into_iter().flat_map(Map::keys);
    if let Some(unread) = keys.find(|key| ![WRITTEN, IN_FORCE].contains(&key.as_str())) {
        return Err(Unusable::Key(unread.clone()));
    }
    let text = data.and_then(|data| data.get(WRITTEN)).and_then(Value::as_str).unwrap_or_default();
    let limits: LocalLimits = toml::from_str(text)?;
    limits.clone().compile()?;
    Ok(limits)
}

fn text(limits: &LocalLimits) -> String {
    toml::to_string(limits).unwrap_or_else(|_| format!("{limits:?}\n"))
}

/// In one line.
fn shown(limits: &LocalLimits) -> String {
    serde_json::to_string(limits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use ztka_core::ManualClock;

    use super::*;

    fn data(text: &str) -> Value {
        json!({"data": {WRITTEN: text}})
    }

    #[test]
    fn what_cannot_be_used_leaves_the_limits_as_they_are_and_is_told() {
        let engine = Engine::new(Arc::new(ManualClock::at(Timestamp::UNIX_EPOCH)));
        let configured = LocalLimits { no_exec: true, ..LocalLimits::default() };
        let mut limits = OwnerLimits::new(engine.clone(), configured);
        limits.take(Some(&data("namespaces = ['shop']\n")));
        assert_eq!(engine.limits().len(), 2);
        for (bad, why) in
            [("namespaces = [", "TOML"), ("namespace = ['a']", "unknown field"), ("namespaces = []", "empty")]
        {
            limits.take(Some(&data(bad)));
            assert_eq!(engine.limits().len(), 2, "{bad}");
            let said = limits.said();
            assert!(said.contains("NOT in force") && said.contains(why), "{said}");
            assert!(said.contains("noExec = true") && said.contains("namespaces = [\"shop\"]"), "{said}");
        }
        let elsewhere = json!({"data": {WRITTEN: "", "limits.yaml": "noExec: true"}});
        limits.take(Some(&elsewhere));
        assert!(limits.said().contains("\"limits.yaml\" is no key of it"), "{}", limits.said());
        // A file that is not UTF-8 lands beside `data`, whatever it was meant to say.
        for binary in [
            json!({"data": {IN_FORCE: "…"}, "binaryData": {WRITTEN: "bm9FeGVjID0gdHJ1ZSAjIP8K"}}),
            json!({"binaryData": {"limits.bak": "/w=="}, "data": {WRITTEN: ""}}),
        ] {
            limits.take(Some(&binary));
            assert_eq!(engine.limits().len(), 2, "{binary}");
            assert!(limits.said().contains("stands in its binaryData"), "{}", limits.said());
            assert!(parse(Some(&binary)).is_err(), "nor does an agent start with it");
        }
        limits.take(None);
        assert_eq!(engine.limits().len(), 1, "those of the configuration stay");
        assert!(!limits.said().contains("NOT in force"));
    }

    #[test]
    fn the_owners_text_may_say_all_that_there_is() {
        let text = r#"
            namespaces = ["shop"]
            noExec = true
            hours = { days = ["mon"], from = "09:00", until = "17:00", utcOffset = "+01:00" }
            [[deny]]
            name = "keep-secrets"
            rules = [{ verbs = ["*"], apiGroups = [""], resources = ["secrets"] }]
            namespaces = ["pay"]
            except = [{ user = "paula" }]
            when = { networks = ["192.0.2.0/24"] }
            reason = "ask the payment team"
        "#;
        let limits = parse(Some(&data(text))).unwrap();
        assert_eq!(
            toml::from_str::<LocalLimits>(&self::text(&limits)).unwrap(),
            limits,
            "it is told as it was written"
        );
    }
}
