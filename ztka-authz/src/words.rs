//! The words that occur in a policy, as numbers: a request is translated once and compared by number from then on.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

/// A word's number.
pub(crate) type Word = u32;

/// Every word that the policy does not contain; equal to none that it does.
pub(crate) const UNKNOWN: Word = u32::MAX;

/// Where there is no word at all.
pub(crate) const NONE: Word = u32::MAX - 1;

macro_rules! known {
    ($($name:ident = $text:literal,)*) => {
        /// Words with a fixed number, in order.
        const KNOWN: &[&str] = &[$($text),*];
        known!(@ 0, $($name)*);
    };
    (@ $number:expr, $name:ident $($rest:ident)*) => {
        pub(crate) const $name: Word = $number;
        known!(@ $number + 1, $($rest)*);
    };
    (@ $number:expr,) => {};
}

known! {
    EMPTY = "",
    STAR = "*",
    GET = "get",
    LIST = "list",
    WATCH = "watch",
    CREATE = "create",
    DELETE_COLLECTION = "deletecollection",
    PROXY = "proxy",
    ESCALATE = "escalate",
    BIND = "bind",
    IMPERSONATE = "impersonate",
    APPROVE = "approve",
    SIGN = "sign",
    SECRETS = "secrets",
    PODS = "pods",
    NODES = "nodes",
    SERVICE_ACCOUNTS = "serviceaccounts",
    EXEC = "exec",
    ATTACH = "attach",
    PORT_FORWARD = "portforward",
    EPHEMERAL = "ephemeralcontainers",
    TOKEN = "token",
    LOG = "log",
    STATUS = "status",
    APPROVAL = "approval",
    CSRS = "certificatesigningrequests",
    CERTIFICATES = "certificates.k8s.io",
    ADMISSION = "admissionregistration.k8s.io",
    API_REGISTRATION = "apiregistration.k8s.io",
}

/// The words of a policy, both ways.
#[derive(Debug)]
pub(crate) struct Words {
    numbers: HashMap<Arc<str>, Word, RandomState>,
    texts: Vec<Arc<str>>,
}

impl Default for Words {
    fn default() -> Self {
        let mut words = Self { numbers: HashMap::default(), texts: Vec::new() };
        for word in KNOWN {
            words.add(word);
        }
        words
    }
}

impl Words {
    /// The number of a word of the policy.
    pub(crate) fn add(&mut self, word: &str) -> Word {
        if let Some(number) = self.numbers.get(word) {
            return *number;
        }
        // There are never as many: a policy is a few megabytes.
        let number = Word::try_from(self.texts.len()).unwrap_or(NONE - 1);
        let text: Arc<str> = word.into();
        self.numbers.insert(text.clone(), number);
        self.texts.push(text);
        number
    }

    /// The word with this number, as it is written.
    pub(crate) fn text(&self, number: Word) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }

    /// The number of a word of a request.
    pub(crate) fn find(&self, word: &str) -> Word {
        self.numbers.get(word).copied().unwrap_or(UNKNOWN)
    }
}

/// Any word, or one of some.
#[derive(Debug)]
pub(crate) enum AnyOf {
    Any,
    /// Sorted.
    Of(Box<[Word]>),
}

impl AnyOf {
    pub(crate) fn of(words: &mut Words, texts: &[String], star: bool) -> Self {
        if star && texts.iter().any(|text| text == "*") {
            return Self::Any;
        }
        let numbers = texts.iter().map(|text| words.add(text)).collect();
        Self::Of(sorted(numbers))
    }

    pub(crate) fn has(&self, word: Word) -> bool {
        match self {
            Self::Any => true,
            Self::Of(words) => has(words, word),
        }
    }
}

pub(crate) fn sorted(mut numbers: Vec<u32>) -> Box<[u32]> {
    numbers.sort_unstable();
    numbers.dedup();
    numbers.into()
}

pub(crate) fn has(sorted: &[u32], number: u32) -> bool {
    match sorted.len() {
        0..=8 => sorted.contains(&number),
        _ => sorted.binary_search(&number).is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_words_have_their_numbers() {
        let words = Words::default();
        assert_eq!(words.find(""), EMPTY);
        assert_eq!(words.find("apiregistration.k8s.io"), API_REGISTRATION);
        assert_eq!(words.find("secrets"), SECRETS);
        assert_eq!(words.find("else"), UNKNOWN);
        assert_eq!(KNOWN.len() as Word, API_REGISTRATION + 1);
    }
}
