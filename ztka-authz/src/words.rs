//! The words that occur in a policy, as numbers: a request is translated once and compared by number from then on.

use crate::names::Names;

/// A word's number.
pub(crate) type Word = u32;

/// Every word that the policy does not contain; equal to none that it does.
pub(crate) const UNKNOWN: Word = u32::MAX;

/// Where there is no word at all.
pub(crate) const NONE: Word = u32::MAX - 1;

/// Numbers above stand for something.
const MOST: Word = u32::MAX - 16;

macro_rules! known {
    ($($name:ident = $text:literal,)*) => {
        /// Words with a fixed number, in order.
        const KNOWN: &[&str] = &[$($text),*];
        known!(@ 0, $($name)*);
    };
    (@ $number:expr, $name:ident $($rest:ident)*) => {
        #[allow(dead_code, reason = "some are there to have a bit")]
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
    UPDATE = "update",
    PATCH = "patch",
    DELETE = "delete",
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
    numbers: Names,
    texts: Vec<Box<str>>,
    /// True if a rule is about objects by name; nobody asks for the number of one otherwise.
    pub(crate) name_objects: bool,
}

impl Default for Words {
    fn default() -> Self {
        let mut words = Self { numbers: Names::default(), texts: Vec::new(), name_objects: false };
        for word in KNOWN {
            words.add(word);
        }
        words
    }
}

impl Words {
    /// The number of a word of the policy.
    pub(crate) fn add(&mut self, word: &str) -> Word {
        let number = self.find(word);
        if number != UNKNOWN {
            return number;
        }
        // There are never as many: a policy is a few megabytes.
        let number = Word::try_from(self.texts.len()).unwrap_or(MOST).min(MOST);
        self.numbers.insert(word, number);
        self.texts.push(word.into());
        number
    }

    /// The word with this number, as it is written.
    pub(crate) fn text(&self, number: Word) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }

    /// The number of a word of a request.
    #[inline]
    pub(crate) fn find(&self, word: &str) -> Word {
        self.numbers.find(word, |number| self.text(number)).map_or(UNKNOWN, |name| name.number)
    }
}

/// Numbers that fit into a [`Bits`] by themselves.
const BITS: u32 = 31;

/// Some words, by a bit for each of the first ones and one for all others.
pub(crate) type Bits = u32;

/// The bit of a word; all others have the last one.
#[inline]
pub(crate) fn bit(word: Word) -> Bits {
    1 << word.min(BITS)
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

    /// The bits of all of them.
    pub(crate) fn bits(&self) -> Bits {
        match self {
            Self::Any => Bits::MAX,
            Self::Of(words) => words.iter().fold(0, |bits, word| bits | bit(*word)),
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
        assert!([DELETE, PATCH, UPDATE, PROXY, SIGN].iter().all(|verb| bit(*verb) != bit(UNKNOWN)));
    }
}
