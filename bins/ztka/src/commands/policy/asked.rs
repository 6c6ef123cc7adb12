//! Who asks for what, where and in which circumstances, as options of commands.

use std::net::IpAddr;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use ztka_authz::{
    Facts, Labels, Mfa, MfaStrength, PolicySet, Supported,
    tools::{InvalidQuestion, Question},
};
use ztka_core::Principal;

use crate::commands::label;

/// What is asked for, as `kubectl auth can-i` has it.
#[derive(Args, Debug)]
pub(crate) struct What {
    /// get, list, create, …
    #[arg(value_name = "VERB")]
    verb: String,
    /// pods, deployments.apps, pods/log, …; or a path such as /metrics
    #[arg(value_name = "RESOURCE[.GROUP][/SUBRESOURCE]")]
    what: String,
    /// Of the object
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// In this namespace; without it outside of namespaces, or across all of them
    #[arg(long, short)]
    namespace: Option<String>,
    /// The port of a port-forward
    #[arg(long)]
    port: Option<u16>,
    /// The command of an exec
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl What {
    pub(crate) fn question(self) -> Result<Question, InvalidQuestion> {
        let port = self.port.map(|port| port.to_string());
        let mut words = vec![self.verb.as_str(), &self.what];
        words.extend(self.name.as_deref());
        words.extend(self.namespace.iter().flat_map(|namespace| ["-n", namespace]));
        words.extend(port.iter().flat_map(|port| ["-p", port]));
        Question::from_words(words, self.command)
    }
}

/// Who asks.
#[derive(Args, Debug)]
pub(crate) struct Who {
    /// The user who asks
    #[arg(long)]
    user: String,
    /// A group of the user's session; groups of the policy itself need not be named (repeatable)
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// An attribute of the user, one value for each key (repeatable); none by default
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = label)]
    attributes: Vec<(String, String)>,
}

impl Who {
    pub(crate) fn principal(&self, policy: &PolicySet) -> anyhow::Result<Principal> {
        let groups: Vec<&str> = self.groups.iter().map(String::as_str).collect();
        let attributes: Labels = self.attributes.iter().cloned().collect();
        policy.somebody_with(&self.user, &groups, &attributes).with_context(|| {
            let names = [&[self.user.as_str()], groups.as_slice()].concat().join(", ");
            format!("one of {names} is not the name of a user or group: lower-case ASCII, no system:")
        })
    }
}

/// What else counts. Obligations are taken for seen to.
#[derive(Args, Debug)]
#[command(next_help_heading = "Circumstances")]
pub(crate) struct Circumstances {
    /// When, as in 2026-01-31T12:00:00Z; now by default
    #[arg(long, value_name = "TIME")]
    at: Option<Timestamp>,
    /// The user's address; not known by default
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// How long ago the user gave a second factor, as in 5m; none by default
    #[arg(long, value_name = "DURATION")]
    mfa_age: Option<SignedDuration>,
    /// How strong the second factor was
    #[arg(long, value_enum, default_value_t, requires = "mfa_age")]
    mfa_strength: Strength,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Strength {
    /// A code, a push notification
    #[default]
    Any,
    /// A passkey, a security key
    PhishingResistant,
}

/// The same with something to borrow from.
#[derive(Debug)]
pub(crate) struct Known {
    now: Timestamp,
    source: Option<IpAddr>,
    mfa: Option<Mfa>,
}

impl Circumstances {
    pub(crate) fn known(self) -> Known {
        let now = self.at.unwrap_or_else(Timestamp::now);
        let strength = match self.mfa_strength {
            Strength::Any => MfaStrength::Any,
            Strength::PhishingResistant => MfaStrength::PhishingResistant,
        };
        let mfa = self.mfa_age.map(|age| Mfa { at: now.saturating_sub(age).unwrap_or(now), strength });
        Known { now, source: self.source, mfa }
    }
}

impl Known {
    pub(crate) fn facts<'a>(&'a self, command: &'a [&'a str]) -> Facts<'a> {
        let facts = Facts::at(self.now).from_source(self.source).with_mfa(self.mfa).supporting(Supported::ALL);
        if command.is_empty() { facts } else { facts.running(command) }
    }
}
