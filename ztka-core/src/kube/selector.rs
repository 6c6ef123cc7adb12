//! Field and label selectors, as far as the name that a request asks for depends on them.
//!
//! Follows `k8s.io/apimachinery/pkg/fields/selector.go`; label selectors (`…/pkg/labels/selector.go`) are only checked.

/// The name that `metadata.name=<name>` in a field selector limits a list to.
///
/// `Ok(None)` if it does not, or to a name that no path could have (the apiserver then sees no name either).
pub(super) fn exact_name(selector: &str) -> Result<Option<String>, &'static str> {
    const FORM: &str = "the field selector cannot be read; write field=value, field==value or field!=value, \
                        separated by commas, with \\ before , = and \\ in values";
    let mut names = Vec::new();
    for term in terms(selector).filter(|term| !term.is_empty()) {
        let operator = term.char_indices().find_map(|(at, _)| {
            let (field, rest) = term.split_at_checked(at)?;
            let value = |operator| rest.strip_prefix(operator);
            let exact = |value| (field, true, value);
            value("!=")
                .map(|value| (field, false, value))
                .or_else(|| value("==").map(exact))
                .or_else(|| value("=").map(exact))
        });
        let (field, exact, value) = operator.ok_or(FORM)?;
        let value = unescape(value).ok_or(FORM)?;
        if exact && field == "metadata.name" {
            names.push(value);
        }
    }
    if names.len() > 1 {
        return Err("the field selector names metadata.name twice; give it once");
    }
    let is_segment = |name: &String| !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '%']);
    Ok(names.pop().filter(is_segment))
}

/// Splits at commas that no backslash precedes.
fn terms(selector: &str) -> impl Iterator<Item = &str> {
    let mut escaped = false;
    selector.split(move |char| {
        let separates = char == ',' && !escaped;
        escaped = char == '\\' && !escaped;
        separates
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut plain = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        plain.push(match char {
            '\\' => chars.next().filter(|char| matches!(char, '\\' | ',' | '='))?,
            ',' | '=' => return None,
            char => char,
        });
    }
    Some(plain)
}

/// True for label selectors that the apiserver can read for sure: every usual form, keys and values checked.
pub(super) fn is_label_selector(selector: &str) -> bool {
    let mut depth = 0_usize;
    let mut requirements = selector.split(|char| {
        match char {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        char == ',' && depth == 0
    });
    requirements.all(|requirement| is_requirement(requirement.trim_matches(' ')))
}

fn is_requirement(text: &str) -> bool {
    if let Some(key) = text.strip_prefix('!') {
        return is_key(key);
    }
    for operator in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(operator) {
            return is_key(key.trim_end_matches(' ')) && is_value(value.trim_start_matches(' '));
        }
    }
    for operator in [" in ", " notin "] {
        if let Some((key, set)) = text.split_once(operator) {
            let set = set.trim_start_matches(' ').strip_prefix('(').and_then(|set| set.strip_suffix(')'));
            let values = set.map(|set| set.split(',').map(|value| value.trim_matches(' ')));
            return is_key(key.trim_end_matches(' '))
                && values.is_some_and(|mut values| values.all(|value| !value.is_empty() && is_value(value)));
        }
    }
    is_key(text)
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_domain = |prefix: &str| {
        let is_label = |label: &str| {
            is_value(label) && !label.is_empty() && label.bytes().all(|byte| !byte.is_ascii_uppercase() && byte != b'_')
        };
        prefix.len() <= 253 && prefix.split('.').all(is_label)
    };
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_domain)
}

/// Label values, and what follows the prefix of a key; `in` and `notin` are also words of the grammar.
fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
        && ends(bytes.first())
        && ends(bytes.last())
        && !matches!(value, "in" | "notin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_name_is_found() {
        let named = |name: &str| Ok(Some(name.to_owned()));
        assert_eq!(exact_name("metadata.name=a"), named("a"));
        assert_eq!(exact_name("metadata.name==a,status.phase!=Running,"), named("a"));
        assert_eq!(exact_name(r"metadata.name=a\,b\=c\\"), named(r"a,b=c\"));
        assert_eq!(exact_name(r"x=\,metadata.name=a"), Err(exact_name("foo").unwrap_err()));
        for none in
            ["", ",", "metadata.name!=a", "metadata.name=", "metadata.name=..", "metadata.name=a/b", " metadata.name=a"]
        {
            assert_eq!(exact_name(none), Ok(None), "{none}");
        }
        for bad in ["foo", "metadata.name=a,foo", r"a=\b", "a=b=c", r"a=b\", "metadata.name=a,metadata.name=b"] {
            assert!(exact_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_selectors_are_checked() {
        let good = [
            "a",
            "!a",
            "a=b",
            "a==b,c!=d",
            "app.kubernetes.io/name=web",
            "a in (b, c),d",
            "a notin (b)",
            "a=",
            "a = b",
        ];
        for good in good {
            assert!(is_label_selector(good), "{good}");
        }
        for bad in ["", "a b", "-a=b", "a=b=c", "a in b", "a in ()", "A.B/c", "a,", "a=(b)", "in=a", "a in (b", "a/b/c"]
        {
            assert!(!is_label_selector(bad), "{bad}");
        }
    }
}
