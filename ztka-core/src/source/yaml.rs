//! YAML as JSON values, with the line of each: one document, no anchors, no tags, no key twice.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};
use serde_json::{Map, Number, Value};

use super::SourceError;

/// Nobody writes deeper ones.
const MAX_DEPTH: usize = 32;

/// A policy of a whole organisation is a few megabytes.
const MAX_LENGTH: usize = 16 << 20;

/// A document and where its parts stand.
#[derive(Debug, Default)]
pub struct Source {
    value: Value,
    /// By JSON pointer.
    lines: HashMap<String, usize>,
}

impl Source {
    /// Reads YAML, of which JSON is a part.
    ///
    /// # Errors
    /// What is not one document of plain values, with its line.
    pub fn read(text: &str) -> Result<Self, SourceError> {
        if text.len() > MAX_LENGTH {
            return Err(SourceError::new(1, "longer than 16 MiB"));
        }
        let mut reader = Reader { parser: Parser::new_from_str(text), lines: HashMap::new() };
        let mut value = Value::Null;
        let mut documents = 0;
        loop {
            let (event, span) = reader.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
                _ if documents == 1 => {
                    return Err(SourceError::new(span.start.line(), "a second document; keep to one"));
                }
                event => {
                    documents += 1;
                    value = reader.value(event, &span, "", 0)?;
                }
            }
        }
        Ok(Self { value, lines: reader.lines })
    }

    /// All of it.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The line of a part, by its JSON pointer, or of what is around it.
    pub fn line(&self, pointer: &str) -> usize {
        let mut pointer = pointer;
        loop {
            if let Some(line) = self.lines.get(pointer) {
                return *line;
            }
            match pointer.rsplit_once('/') {
                Some((around, _)) => pointer = around,
                None => return 1,
            }
        }
    }

    /// The line of a field of the part at `pointer`, if it is there.
    pub fn field(&self, pointer: &str, field: &str) -> Option<usize> {
        self.lines.get(&format!("{pointer}/{field}")).copied()
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    lines: HashMap<String, usize>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), SourceError> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => Err(SourceError::new(error.marker().line(), format!("not YAML: {}", error.info()))),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn value(&mut self, event: Event<'a>, span: &Span, at: &str, depth: usize) -> Result<Value, SourceError> {
        let line = span.start.line();
        let refuse = |problem: &str| Err(SourceError::new(line, problem));
        if depth > MAX_DEPTH {
            return refuse("nested too deeply");
        }
        self.lines.entry(at.to_owned()).or_insert(line);
        match event {
            Event::Alias(_) => refuse("aliases are not supported; write it out"),
            Event::Scalar(_, _, anchor, tag) if anchor > 0 || tag.is_some() => {
                refuse("anchors and tags are not supported")
            }
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) if anchor > 0 || tag.is_some() => {
                refuse("anchors and tags are not supported")
            }
            Event::Scalar(text, style, _, _) => Ok(scalar(&text, style)),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Value::Array(list)),
                        (event, span) => {
                            let at = format!("{at}/{}", list.len());
                            list.push(self.value(event, &span, &at, depth + 1)?);
                        }
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                loop {
                    let (event, span) = self.next()?;
                    let key = match event {
                        Event::MappingEnd => return Ok(Value::Object(map)),
                        Event::Scalar(text, _, 0, None) => text.into_owned(),
                        _ => return Err(SourceError::new(span.start.line(), "a key is a plain text")),
                    };
                    if map.contains_key(&key) {
                        return Err(SourceError::new(span.start.line(), format!("{key:?} is there twice")));
                    }
                    let at = format!("{at}/{key}");
                    self.lines.insert(at.clone(), span.start.line());
                    let (event, span) = self.next()?;
                    map.insert(key, self.value(event, &span, &at, depth + 1)?);
                }
            }
            _ => refuse("not a value"),
        }
    }
}

/// YAML 1.2's core schema, without numbers that have more than one spelling.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ => match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => Value::Number(Number::from(number)),
            _ => Value::String(text.to_owned()),
        },
    }
}
