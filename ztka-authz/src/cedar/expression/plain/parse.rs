//! From a text that Cedar has read to steps, by Cedar's grammar as far as it is needed.

use super::{Fact, Part, Plain, Step};
use crate::cedar::expression::FACTS;

/// Deeper ones are for Cedar.
const DEEPEST: usize = 32;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Token<'t> {
    Word(&'t str),
    Text(&'t str),
    Long(i64),
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 14] = ["&&", "||", "==", "!=", "<=", ">=", "!", "<", ">", "(", ")", "[", "]", "."];
const COMMA: &str = ",";

fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    // Neither comments nor characters that are written as something else.
    if text.contains("//") || text.contains('\\') {
        return None;
    }
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = || rest.find(|c| !word(c)).unwrap_or(rest.len());
        let (token, after) = match first {
            '"' => {
                let (text, after) = rest.get(1..)?.split_once('"')?;
                (Token::Text(text), after)
            }
            '0'..='9' => (Token::Long(rest.get(..end())?.parse().ok()?), rest.get(end()..)?),
            _ if word(first) => (Token::Word(rest.get(..end())?), rest.get(end()..)?),
            _ => {
                let sign = SIGNS.into_iter().chain([COMMA]).find(|sign| rest.starts_with(sign))?;
                (Token::Sign(sign), rest.get(sign.len()..)?)
            }
        };
        tokens.push(token);
        rest = after.trim_start();
    }
    Some(tokens)
}

#[derive(Default)]
struct Reader<'t> {
    tokens: &'t [Token<'t>],
    depth: usize,
    steps: Vec<Step>,
    members: Vec<Part>,
    texts: String,
}

pub(super) fn read(text: &str) -> Option<Plain> {
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens, ..Reader::default() };
    let first = reader.expression()?;
    let Reader { tokens: [], steps, members, texts, .. } = reader else { return None };
    Some(Plain { steps: steps.into(), members: members.into(), texts: texts.into(), first })
}

fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

impl<'t> Reader<'t> {
    fn is_next(&mut self, token: Token<'_>) -> bool {
        match self.tokens.split_first() {
            Some((next, rest)) if *next == token => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn is_sign(&mut self, sign: &'static str) -> bool {
        self.is_next(Token::Sign(sign))
    }

    fn must_be(&mut self, token: Token<'_>) -> Option<()> {
        self.is_next(token).then_some(())
    }

    fn step(&mut self, step: Step) -> Option<u32> {
        self.steps.push(step);
        Some(number(self.steps.len() - 1))
    }

    fn part(&mut self, text: &str) -> Part {
        let from = number(self.texts.len());
        self.texts.push_str(text);
        Part { from, length: number(text.len()) }
    }

    fn expression(&mut self) -> Option<u32> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let found = match self.is_next(Token::Word("if")) {
            true => {
                let is = self.expression()?;
                self.must_be(Token::Word("then"))?;
                let a = self.expression()?;
                self.must_be(Token::Word("else"))?;
                let b = self.expression()?;
                self.step(Step::If(is, a, b))
            }
            false => self.or(),
        };
        self.depth -= 1;
        found
    }

    fn or(&mut self) -> Option<u32> {
        let mut a = self.and()?;
        while self.is_sign("||") {
            let b = self.and()?;
            a = self.step(Step::Or(a, b))?;
        }
        Some(a)
    }

    fn and(&mut self) -> Option<u32> {
        let mut a = self.relation()?;
        while self.is_sign("&&") {
            let b = self.relation()?;
            a = self.step(Step::And(a, b))?;
        }
        Some(a)
    }

    fn relation(&mut self) -> Option<u32> {
        if let [Token::Word("context"), Token::Word("has"), rest @ ..] = self.tokens {
            let (Token::Word(name) | Token::Text(name), rest) = rest.split_first()? else { return None };
            // What is in a part of the context is in none of ours.
            if rest.first() == Some(&Token::Sign(".")) {
                return None;
            }
            self.tokens = rest;
            return match FACTS.iter().find(|(known, _)| known == name) {
                Some((_, Fact::Now | Fact::Source)) => None,
                Some((_, fact)) => self.step(Step::Has(*fact)),
                None => self.step(Step::Bool(false)),
            };
        }
        let a = self.unary()?;
        if self.is_next(Token::Word("like")) {
            let (Token::Text(pattern), rest) = self.tokens.split_first()? else { return None };
            self.tokens = rest;
            let pattern = self.part(pattern);
            return self.step(Step::Like(a, pattern));
        }
        let Some((Token::Sign(sign), rest)) = self.tokens.split_first() else { return Some(a) };
        if !["==", "!=", "<", "<=", ">", ">="].contains(sign) {
            return Some(a);
        }
        self.tokens = rest;
        let b = self.unary()?;
        match *sign {
            "==" => self.step(Step::Equal(a, b)),
            "!=" => {
                let same = self.step(Step::Equal(a, b))?;
                self.step(Step::Not(same))
            }
            "<" => self.step(Step::Less(a, b)),
            "<=" => self.step(Step::AtMost(a, b)),
            ">" => self.step(Step::Less(b, a)),
            _ => self.step(Step::AtMost(b, a)),
        }
    }

    fn unary(&mut self) -> Option<u32> {
        let mut is_not = 0;
        while self.is_sign("!") {
            is_not += 1;
        }
        let mut a = self.member()?;
        for _ in 0..is_not {
            a = self.step(Step::Not(a))?;
        }
        Some(a)
    }

    fn member(&mut self) -> Option<u32> {
        let mut a = self.primary()?;
        while self.is_sign(".") {
            let (Token::Word(name), rest) = self.tokens.split_first()? else { return None };
            self.tokens = rest;
            self.must_be(Token::Sign("("))?;
            if *name == "isEmpty" {
                a = self.step(Step::IsEmpty(a))?;
            } else {
                let b = self.expression()?;
                a = self.step(match *name {
                    "contains" => Step::Contains(a, b),
                    "containsAll" => Step::ContainsAll(a, b),
                    "containsAny" => Step::ContainsAny(a, b),
                    _ => return None,
                })?;
            }
            self.must_be(Token::Sign(")"))?;
        }
        Some(a)
    }

    fn primary(&mut self) -> Option<u32> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        match *first {
            Token::Long(number) => self.step(Step::Long(number)),
            Token::Text(text) => {
                let part = self.part(text);
                self.step(Step::Text(part))
            }
            Token::Word("true") => self.step(Step::Bool(true)),
            Token::Word("false") => self.step(Step::Bool(false)),
            Token::Word("context") => {
                self.must_be(Token::Sign("."))?;
                let (Token::Word(name), rest) = self.tokens.split_first()? else { return None };
                self.tokens = rest;
                match FACTS.iter().find(|(known, _)| known == name)?.1 {
                    // Values of Cedar's own, or made of several texts.
                    Fact::Now | Fact::Source | Fact::Command => None,
                    fact => self.step(Step::Fact(fact)),
                }
            }
            Token::Sign("(") => {
                let inner = self.expression()?;
                self.must_be(Token::Sign(")"))?;
                Some(inner)
            }
            Token::Sign("[") => self.set(),
            _ => None,
        }
    }

    /// Of texts alone.
    fn set(&mut self) -> Option<u32> {
        let from = number(self.members.len());
        while !self.is_sign("]") {
            if number(self.members.len()) > from {
                self.must_be(Token::Sign(COMMA))?;
            }
            let (Token::Text(text), rest) = self.tokens.split_first()? else { return None };
            self.tokens = rest;
            let part = self.part(text);
            self.members.push(part);
        }
        self.step(Step::Set(Part { from, length: number(self.members.len()) - from }))
    }
}
