//! A question to policy in the words of `kubectl auth can-i`.

use std::str::FromStr;

use crate::{Action, Port, Target};

/// `VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAME] [-n NAMESPACE] [-p PORT] [-- COMMAND…]`, or `VERB /PATH`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Question {
    verb: String,
    path: Option<String>,
    group: String,
    resource: String,
    subresource: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    port: Option<u16>,
    command: Vec<String>,
}

/// A text that is no question.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no question: write VERB RESOURCE[.GROUP][/SUBRESOURCE] [NAME] [-n NAMESPACE] [-p PORT] [-- COMMAND…], \
         or VERB /PATH"
)]
pub struct InvalidQuestion(String);

impl FromStr for Question {
    type Err = InvalidQuestion;

    fn from_str(text: &str) -> Result<Self, InvalidQuestion> {
        let (question, command) = text.split_once(" -- ").unwrap_or((text, ""));
        let command = command.split_whitespace().map(str::to_owned).collect();
        Self::from_words(question.split_whitespace(), command).map_err(|_| InvalidQuestion(text.into()))
    }
}

impl Question {
    /// The same by its words, the command of an exec apart: words of commands may be anything.
    ///
    /// # Errors
    /// [`InvalidQuestion`] if a word is missing or too many.
    pub fn from_words<'w>(
        words: impl IntoIterator<Item = &'w str>,
        command: Vec<String>,
    ) -> Result<Self, InvalidQuestion> {
        let all: Vec<&str> = words.into_iter().collect();
        let invalid = || InvalidQuestion(all.join(" "));
        let mut words = all.iter().copied();
        let (verb, what) = words.next().zip(words.next()).ok_or_else(invalid)?;
        let mut read = Self { verb: verb.into(), command, ..Self::default() };
        match what.starts_with('/') {
            true => read.path = Some(what.into()),
            false => {
                let (of, subresource) = what.split_once('/').map_or((what, None), |(of, sub)| (of, Some(sub.into())));
                let (resource, group) = of.split_once('.').unwrap_or((of, ""));
                (read.resource, read.group, read.subresource) = (resource.into(), group.into(), subresource);
            }
        }
        while let Some(word) = words.next() {
            match word {
                "-n" => read.namespace = Some(words.next().ok_or_else(invalid)?.into()),
                "-p" => read.port = Some(words.next().and_then(|port| port.parse().ok()).ok_or_else(invalid)?),
                name if read.name.is_none() && !name.starts_with('-') => read.name = Some(name.into()),
                _ => return Err(invalid()),
            }
        }
        Ok(read)
    }

    /// The same as it is asked.
    pub fn action(&self) -> Action<'_> {
        let target = match &self.path {
            Some(path) => Target::Path(path),
            None => Target::Resource {
                group: &self.group,
                resource: &self.resource,
                subresource: self.subresource.as_deref(),
                namespace: self.namespace.as_deref(),
                name: self.name.as_deref(),
            },
        };
        Action::new(&self.verb, target).on_port(self.port.map_or(Port::Unknown, Port::Is))
    }

    /// The command of an exec, program first.
    pub fn command(&self) -> Vec<&str> {
        self.command.iter().map(String::as_str).collect()
    }
}
