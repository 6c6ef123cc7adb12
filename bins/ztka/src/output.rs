//! Answers on standard output: tables for people, JSON for scripts.

use clap::ValueEnum;
use serde::Serialize;

/// The answer is no. It has been printed, and only the exit code is left to say so.
#[derive(Debug)]
pub(crate) struct No;

impl std::fmt::Display for No {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no")
    }
}

impl std::error::Error for No {}

/// Nothing can be said, of a question that is answered by yes or no: the exit code is neither's.
#[derive(Debug)]
pub(crate) struct Unjudged;

impl std::fmt::Display for Unjudged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nothing can be said")
    }
}

/// How answers are printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people.
    Table,
    /// JSON, as the API answers.
    Json,
}

impl Output {
    /// Prints one thing: `line` for people.
    pub(crate) fn one(self, thing: &impl Serialize, line: impl FnOnce() -> String) -> anyhow::Result<()> {
        match self {
            Self::Table => println!("{}", line()),
            Self::Json => println!("{}", serde_json::to_string_pretty(thing)?),
        }
        Ok(())
    }

    /// Prints a list: `heads` and one row per thing for people.
    pub(crate) fn list<T: Serialize, const N: usize>(
        self,
        things: &[T],
        heads: [&str; N],
        row: impl Fn(&T) -> [String; N],
    ) -> anyhow::Result<()> {
        self.rows(things, heads, things.iter().map(row))
    }

    /// Prints a list that is part of a `thing`, which JSON shows: `heads` and these rows for people.
    pub(crate) fn rows<const N: usize>(
        self,
        thing: &(impl Serialize + ?Sized),
        heads: [&str; N],
        rows: impl Iterator<Item = [String; N]>,
    ) -> anyhow::Result<()> {
        if self == Self::Json {
            println!("{}", serde_json::to_string_pretty(thing)?);
            return Ok(());
        }
        let rows: Vec<Vec<String>> = std::iter::once(heads.map(String::from)).chain(rows).map(Vec::from).collect();
        print!("{}", columns(&rows));
        Ok(())
    }
}

/// Left-aligned columns, two spaces apart, as kubectl prints them.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            // What others named must not steer the terminal.
            let cell: String = cell.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
            line.push_str(&format!("{cell:<width$}  ", width = width(column).unwrap_or_default()));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cannot_steer_the_terminal() {
        let rows = [["NAME", "ID"], ["a\u{1b}[2J", "1"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(columns(&rows), "NAME   ID\na\u{fffd}[2J  1\n");
    }
}
