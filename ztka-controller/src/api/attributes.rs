//! Attributes of users: keys as labels have them, values of which no two look alike.

use std::collections::BTreeMap;

use super::{
    answer::{Answer, ApiError},
    labels,
};

/// Changes in one request.
const MOST: usize = 64;
/// Longest value, in bytes.
const LONGEST: usize = 256;

/// Printable ASCII without spaces around it: policy compares byte by byte, and what looks alike has to be alike.
fn is_value(text: &str) -> bool {
    text.len() <= LONGEST && text.trim() == text && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Whether each of these is one; without a value it is to be removed.
pub(super) fn validate(changes: &BTreeMap<String, Option<String>>) -> Answer<()> {
    if changes.len() > MOST {
        return Err(ApiError::invalid(format!("more than {MOST} attributes are changed at once; change fewer")));
    }
    let shown = |text: &str| text.chars().take(80).collect::<String>();
    for (key, value) in changes {
        if !labels::is_key(key) {
            let text = format!(
                "{:?} is not the key of an attribute; use letters, digits and inner - _ . as keys of labels do",
                shown(key)
            );
            return Err(ApiError::invalid(text));
        }
        if !value.as_deref().is_none_or(is_value) {
            let text = format!(
                "the value of attribute {:?} is not printable ASCII of at most {LONGEST} bytes without spaces around it; \
                 correct it",
                shown(key)
            );
            return Err(ApiError::invalid(text));
        }
    }
    Ok(())
}

/// What is there after these changes.
pub(super) fn changed(
    mut before: BTreeMap<String, String>,
    changes: &BTreeMap<String, Option<String>>,
) -> BTreeMap<String, String> {
    for (key, value) in changes {
        match value {
            Some(value) => drop(before.insert(key.clone(), value.clone())),
            None => drop(before.remove(key)),
        }
    }
    before
}

/// The changes in one line, `team=shop -region`.
pub(super) fn told(changes: &BTreeMap<String, Option<String>>) -> String {
    let each = |(key, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => format!("-{key}"),
    };
    changes.iter().map(each).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_labels_and_values_are_plain_text() {
        let change = |key: &str, value: Option<&str>| BTreeMap::from([(key.to_owned(), value.map(str::to_owned))]);
        let longest = "v".repeat(LONGEST);
        for value in [None, Some(""), Some("shop"), Some("R&D / 42, floor 3"), Some("a@example.com"), Some(&*longest)] {
            assert!(validate(&change("example.com/team", value)).is_ok(), "{value:?}");
        }
        let longer = "v".repeat(LONGEST + 1);
        for value in [" a", "a ", "a\n", "caf\u{e9}", "\u{430}dmin", "a\u{7f}", &*longer] {
            assert!(validate(&change("team", Some(value))).is_err(), "{value:?}");
        }
        let many: BTreeMap<_, _> = (0..=MOST).map(|number| (format!("k{number}"), None)).collect();
        assert!(validate(&many).is_err());
        for key in ["", "-team", "te am", "A.com/team", "a/b/c", "t\u{e9}am"] {
            assert!(validate(&change(key, Some("shop"))).is_err(), "{key:?}");
            assert!(validate(&change(key, None)).is_err(), "{key:?}");
        }
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = BTreeMap::from([("team".to_owned(), "pay".to_owned()), ("site".to_owned(), "a".to_owned())]);
        let changes = BTreeMap::from([("team".to_owned(), Some("shop".to_owned())), ("none".to_owned(), None)]);
        let after = changed(before, &changes);
        let expected = BTreeMap::from([("team".to_owned(), "shop".to_owned()), ("site".to_owned(), "a".to_owned())]);
        assert_eq!(after, expected);
        assert_eq!(told(&changes), "-none team=shop");
    }
}
