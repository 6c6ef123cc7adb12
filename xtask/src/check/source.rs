//! Rust source with everything taken out that is not production code: comments, strings, tests.

/// The code of a file, line by line as it was, with comments, literals and `#[cfg(test)]` items blanked.
pub(crate) fn production(text: &str) -> String {
    without_tests(&code(text))
}

/// Blanks comments and the contents of string and character literals; keeps line breaks.
pub(crate) fn code(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let blanked = comment(rest).or_else(|| literal(rest, out.chars().next_back()));
        let (length, blank) = match blanked {
            Some(length) => (length, true),
            None => (first.len_utf8(), false),
        };
        let (token, after) = rest.split_at(length);
        if blank {
            out.extend(token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            out.push_str(token);
        }
        rest = after;
    }
    out
}

/// The length of the comment that starts here.
fn comment(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(tail) = rest.get(at..).filter(|tail| !tail.is_empty()) {
        if tail.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if tail.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += tail.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(rest.len())
}

/// The length of the string or character literal that starts here; `before` is the character before it.
fn literal(rest: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let prefix = if in_word { 0 } else { rest.find(|c: char| !matches!(c, 'b' | 'c' | 'r'))? };
    let tail = rest.get(prefix..)?;
    let raw = rest.get(..prefix)?.contains('r');
    if raw && tail.starts_with(['#', '"']) {
        let hashes = tail.find(|c| c != '#')?;
        let open = tail.get(hashes..)?;
        if !open.starts_with('"') {
            return None;
        }
        let close = format!("\"{}", "#".repeat(hashes));
        let body = open.get(1..)?;
        return Some(prefix + hashes + 1 + body.find(&close).map_or(body.len(), |at| at + close.len()));
    }
    let quote = tail.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let body = tail.get(1..)?;
    if quote == '\'' {
        // A lifetime is not a literal: 'a, but not 'a'.
        let mut chars = body.chars();
        let first = chars.next()?;
        if first != '\\' && chars.next() != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(prefix + 1 + at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// Blanks every item under `#[cfg(test)]` in code without comments and literals.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        let (item, after) = item.split_at(item_length(item));
        out.push_str(before);
        out.extend(item.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = after;
    }
    out + rest
}

/// An item ends with the brace that closes its first one, or with a semicolon before any.
fn item_length(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blank_and_lines_stay() {
        let text = "let a = \"x.unwrap()\"; // .unwrap()\n/* a /* b */\npanic!( */ let c = '\"'; let d: &'a str = r#\"\"panic!(\"#;\n";
        let code = code(text);
        assert!(!code.contains("unwrap") && !code.contains("panic"), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
        assert!(code.contains("let d: &'a str ="), "{code}");
    }

    #[test]
    fn escapes_do_not_end_a_literal() {
        assert_eq!(code(r#"f("a\"b", '\'', b"\\") + x"#).replace(' ', ""), "f(,,)+x");
    }

    #[test]
    fn a_raw_identifier_and_a_word_ending_in_r_are_code() {
        assert_eq!(code("r#type(for_\"x\")"), "r#type(for_   )");
    }

    #[test]
    fn tests_are_left_out() {
        let text = "fn a() { b.unwrap() }\n#[cfg(test)]\nmod tests {\n    fn c() { d.unwrap() }\n}\n#[cfg(test)]\nmod more;\nfn e() {}\n";
        let left = production(text);
        assert_eq!(left.matches("unwrap").count(), 1);
        assert!(left.contains("fn e()") && !left.contains("mod more"));
    }
}
