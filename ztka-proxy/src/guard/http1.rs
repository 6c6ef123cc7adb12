//! Message framing of HTTP/1.1 (RFC 9112), read more strictly than the RFC asks: one reading or none.

use super::Violation;

/// `http::Uri` holds no more.
const TARGET: usize = 65_534;
/// Request line and header lines together.
const HEAD: usize = 128 * 1024;
const LINES: usize = 500;
/// `http::HeaderName` holds no more.
const NAME: usize = 65_535;
const CHUNK_LINE: usize = 256;
const TRAILERS: usize = 16 * 1024;

/// Follows the framing of the requests on one connection. No I/O: it is shown bytes and says how many may pass.
#[derive(Debug, Default)]
pub(super) struct Http1 {
    state: State,
    head: Head,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// Within a head, which passes whole.
    #[default]
    Head,
    /// This much of a body is still to come.
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// Behind the last chunk; so many bytes of trailers have passed.
    Trailers(usize),
    /// Nothing passes before the answer to a request to upgrade is known.
    Upgrading,
    /// No longer HTTP.
    Switched,
}

impl Http1 {
    /// How many bytes of `pending`, which begins where the last answer ended, may pass now; 0 until there are more.
    pub(super) fn advance(&mut self, pending: &[u8]) -> Result<usize, Violation> {
        match self.state {
            State::Head => self.head(pending),
            State::Length(left) => Ok(self.counted(pending, left, State::Length, State::Head)),
            State::ChunkData(left) => Ok(self.counted(pending, left, State::ChunkData, State::ChunkEnd)),
            State::ChunkSize => self.chunk_size(pending),
            State::ChunkEnd => match pending {
                [b'\r', b'\n', ..] => {
                    self.state = State::ChunkSize;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Violation::Malformed("a chunk is longer than its size")),
            },
            State::Trailers(seen) => self.trailer(pending, seen),
            State::Upgrading => Ok(0),
            State::Switched => Ok(pending.len()),
        }
    }

    /// True between messages, and within a head.
    pub(super) fn at_head(&self) -> bool {
        self.state == State::Head
    }

    /// Bytes of body that may pass without being looked at.
    pub(super) fn free(&self) -> u64 {
        match self.state {
            State::Length(left) | State::ChunkData(left) => left,
            State::Switched => u64::MAX,
            _ => 0,
        }
    }

    pub(super) fn is_upgrading(&self) -> bool {
        self.state == State::Upgrading
    }

    /// The request to upgrade was granted: whatever comes is no longer HTTP.
    pub(super) fn switched(&mut self) {
        self.state = State::Switched;
    }

    fn counted(&mut self, pending: &[u8], left: u64, more: fn(u64) -> State, end: State) -> usize {
        let available = u64::try_from(pending.len()).unwrap_or(u64::MAX);
        let passed = available.min(left);
        self.state = if passed == left { end } else { more(left - passed) };
        usize::try_from(passed).unwrap_or(pending.len())
    }

    fn head(&mut self, pending: &[u8]) -> Result<usize, Violation> {
        loop {
            let unseen = pending.get(self.head.scanned..).unwrap_or_default();
            let Some(found) = memchr::memchr(b'\n', unseen) else {
                self.head.scanned = pending.len();
                return self.head.within_limits(pending.len()).map(|()| 0);
            };
            let end = self.head.scanned + found + 1;
            self.head.within_limits(end)?;
            let line = pending.get(self.head.line..end).and_then(|line| line.strip_suffix(b"\r\n"));
            let line = line.ok_or(Violation::Malformed("a line ends in a bare line feed"))?;
            (self.head.line, self.head.scanned) = (end, end);
            if self.head.line(line)? {
                self.state = std::mem::take(&mut self.head).body()?;
                return Ok(end);
            }
        }
    }

    fn chunk_size(&mut self, pending: &[u8]) -> Result<usize, Violation> {
        let Some(line) = line(pending, CHUNK_LINE)? else { return Ok(0) };
        let (size, extension) = match memchr::memchr(b';', line) {
            Some(at) => line.split_at(at),
            None => (line, &[][..]),
        };
        let digits = (1..=16).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
        if !digits || !extension.iter().all(is_text) {
            return Err(Violation::Malformed("bad size of a chunk"));
        }
        let size = std::str::from_utf8(size).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        self.state = match size.ok_or(Violation::Malformed("bad size of a chunk"))? {
            0 => State::Trailers(0),
            size => State::ChunkData(size),
        };
        Ok(line.len() + 2)
    }

    fn trailer(&mut self, pending: &[u8], seen: usize) -> Result<usize, Violation> {
        let Some(line) = line(pending, TRAILERS - seen)? else { return Ok(0) };
        if line.is_empty() {
            self.state = State::Head;
            return Ok(2);
        }
        let (name, _) = field(line)?;
        if ["content-length", "host", "transfer-encoding"].iter().any(|framing| name.eq_ignore_ascii_case(framing)) {
            return Err(Violation::Malformed("a trailer that frames a message"));
        }
        let passed = line.len() + 2;
        self.state = State::Trailers(seen + passed);
        Ok(passed)
    }
}

/// The first line of `pending`, if it is there, without its end.
fn line(pending: &[u8], most: usize) -> Result<Option<&[u8]>, Violation> {
    match memchr::memchr(b'\n', pending) {
        Some(end) if end < most => {
            let line = pending.get(..=end).and_then(|line| line.strip_suffix(b"\r\n"));
            line.map(Some).ok_or(Violation::Malformed("a line ends in a bare line feed"))
        }
        None if pending.len() < most => Ok(None),
        _ => Err(Violation::Malformed("a line of a chunked body is too long")),
    }
}

/// `tchar` of RFC 9110 §5.6.2.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// What may stand in a value.
fn is_text(byte: &u8) -> bool {
    *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)
}

/// Takes off the spaces and tabs around a value (RFC 9110 §5.5), and no other character.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn field(line: &[u8]) -> Result<(&str, &[u8]), Violation> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Violation::Malformed("a folded header line"));
    }
    let colon = memchr::memchr(b':', line).ok_or(Violation::Malformed("a header line without a colon"))?;
    let (name, value) = line.split_at(colon);
    if name.len() > NAME {
        return Err(Violation::HeadTooLarge);
    }
    if name.is_empty() || !name.iter().all(is_token) {
        return Err(Violation::Malformed("a header name that is not a token"));
    }
    let name = std::str::from_utf8(name).map_err(|_| Violation::Malformed("a header name that is not a token"))?;
    let value = trim(value.strip_prefix(b":").unwrap_or_default());
    if !value.iter().all(is_text) {
        return Err(Violation::Malformed("a control character in a header value"));
    }
    Ok((name, value))
}

/// What the head so far says of its framing.
#[derive(Debug, Default)]
struct Head {
    /// Where the current line begins.
    line: usize,
    /// Up to where there is no line feed.
    scanned: usize,
    lines: usize,
    old: bool,
    length: Option<u64>,
    chunked: bool,
    host: bool,
    upgrade: bool,
}

impl Head {
    fn within_limits(&self, length: usize) -> Result<(), Violation> {
        match () {
            // The method, two spaces and the version take at most 44 bytes of the line.
            () if self.lines == 0 && length > TARGET + 44 => Err(Violation::TargetTooLong),
            () if length > HEAD || self.lines > LINES + 1 => Err(Violation::HeadTooLarge),
            () => Ok(()),
        }
    }

    /// True behind the last line.
    fn line(&mut self, line: &[u8]) -> Result<bool, Violation> {
        self.lines += 1;
        if self.lines == 1 {
            return self.request_line(line).map(|()| false);
        }
        if line.is_empty() {
            return Ok(true);
        }
        let (name, value) = field(line)?;
        self.note(name, value)?;
        Ok(false)
    }

    fn request_line(&mut self, line: &[u8]) -> Result<(), Violation> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Violation::Malformed("not a request line"));
        };
        self.old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Violation::Malformed("not HTTP/1.1")),
        };
        if method.is_empty() || method.len() > 32 || !method.iter().all(is_token) {
            return Err(Violation::Malformed("not a method"));
        }
        if method == super::REFUSED.as_bytes() || method == b"CONNECT" {
            return Err(Violation::Malformed("a method that is not served here"));
        }
        if target.len() > TARGET {
            return Err(Violation::TargetTooLong);
        }
        let form = target.starts_with(b"/") || target.starts_with(b"https://") || target.starts_with(b"http://");
        let plain = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
        // What the server could not read it would answer by itself, and nobody would have a record of it.
        if !form || !plain || http::Uri::try_from(target).is_err() {
            return Err(Violation::Malformed("not a request target"));
        }
        Ok(())
    }

    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), Violation> {
        let is = |other| name.eq_ignore_ascii_case(other);
        if is("content-length") {
            let digits = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
            let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse().ok());
            let length = length.ok_or(Violation::Malformed("bad Content-Length"))?;
            if self.length.replace(length).is_some() {
                return Err(Violation::Malformed("more than one Content-Length"));
            }
        } else if is("transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Violation::Malformed("a Transfer-Encoding other than chunked"));
            }
            self.chunked = true;
        } else if is("host") {
            if std::mem::replace(&mut self.host, true) {
                return Err(Violation::Malformed("more than one Host"));
            }
        } else if is("upgrade") {
            self.upgrade = true;
        }
        Ok(())
    }

    /// What follows the head.
    fn body(self) -> Result<State, Violation> {
        match (self.chunked, self.length) {
            (true, Some(_)) => Err(Violation::Malformed("both Content-Length and Transfer-Encoding")),
            (true, None) if self.old => Err(Violation::Malformed("Transfer-Encoding in HTTP/1.0")),
            _ if !self.host && !self.old => Err(Violation::Malformed("no Host")),
            (chunked, length) if self.upgrade => match chunked || length.unwrap_or(0) > 0 {
                true => Err(Violation::Malformed("a request to upgrade that has a body")),
                false => Ok(State::Upgrading),
            },
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::Head),
            (false, Some(length)) => Ok(State::Length(length)),
        }
    }
}

#[cfg(test)]
mod tests;
