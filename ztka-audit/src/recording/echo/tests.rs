//! What is typed where it is not shown is not to be read in a recording.

use super::*;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + millis).unwrap()
}

/// Steps: `>` what is typed, `<` what is shown; then a minute passes.
fn seen(steps: &[&str]) -> String {
    let mut echo = Echo::default();
    let mut now = 0;
    for step in steps {
        now += 10;
        match step.split_at(1) {
            (">", text) => echo.typed(text, at(now)),
            ("<", text) => echo.shown(text, at(now)),
            _ => panic!("{step}"),
        }
    }
    echo.expire(at(now + 60_000));
    echo.take().unwrap_or_default()
}

#[test]
fn what_the_terminal_shows_is_recorded() {
    assert_eq!(seen(&[">l", "<l", ">s", "<s", ">\r", "<\r\nfile\r\n"]), "ls\r");
    assert_eq!(seen(&[">ls -l\r", "<ls -l\r\nfile\r\n"]), "ls -l\r", "pasted at once");
    assert_eq!(seen(&[">ls\r", "<l", "<s\r\n"]), "ls\r", "echoed in pieces");
    assert_eq!(seen(&[">grüße\n", "<grüße\r\n"]), "grüße\n");
    assert_eq!(seen(&[">ls\r", "<\u{1b}[1ml\u{1b}[0ms\r\n"]), "ls\r", "coloured");
    assert_eq!(seen(&[">ls\u{7f}\u{1b}[Acat\r", "<ls\u{8} \u{8}cat\r\n"]), "ls\u{7f}\u{1b}[Acat\r", "keys");
}

#[test]
fn what_is_not_shown_is_hidden_with_the_rest_of_its_line_and_its_length() {
    for password in ["x", "hunter2", "correct horse battery staple", "ab\u{7f}c"] {
        let typed = format!(">{password}\r");
        assert_eq!(seen(&["<Password: ", &typed, "<\r\nSorry, try again.\r\n"]), "***\r", "{password}");
        // Key by key.
        let keys: Vec<_> = password.chars().map(|key| format!(">{key}")).collect();
        let mut steps: Vec<&str> = keys.iter().map(String::as_str).collect();
        steps.extend([">\r", "<\r\nhunter2 is not shown by accident, nor x or correct horse"]);
        assert_eq!(seen(&steps), "***\r", "{password}");
    }
    // The line after it is as good as any.
    assert_eq!(seen(&[">secret\r", "<\r\n$ ", ">ls\r", "<ls\r\n"]), "***\rls\r");
    // A program that shows stars, or nothing at all.
    assert_eq!(seen(&[">secret\r", "<******\r\n"]), "***\r");
    assert_eq!(seen(&[">secret\r"]), "***\r");
}

#[test]
fn output_that_begins_as_the_line_does_shows_no_more_than_that() {
    assert_eq!(seen(&[">s", "<s", ">e", ">cret\r", "<\r\n"]), "s***\r");
    assert_eq!(seen(&[">s", "<xs", ">e", "<\r\n", ">\r", "<\r\n"]), "s***\r");
}

#[test]
fn an_echo_that_is_late_is_none() {
    let mut echo = Echo::default();
    echo.typed("ab", at(0));
    echo.shown("ab", at(1_001));
    assert_eq!(echo.take().as_deref(), Some("***"));
    echo.typed("\r", at(1_002));
    echo.typed("ab", at(1_003));
    echo.shown("\r\nab", at(2_003));
    assert_eq!(echo.take().as_deref(), Some("\rab"));
}

#[test]
fn what_waits_is_bounded() {
    let mut echo = Echo::default();
    for _ in 0..100 {
        echo.typed(&"x".repeat(1000), at(0));
        assert!(echo.waiting.len() <= MOST && echo.take().is_none_or(|text| text.len() <= HIDDEN.len()));
    }
}
