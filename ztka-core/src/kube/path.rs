//! Reads a path segment by segment, and writes the one form in which it is sent.

use std::borrow::Cow;

use super::{malformed::Flaw, percent};

/// RFC 3986 `pchar` without `;`, which some servers take for the start of parameters.
const KEPT: &[u8] = b"!$&'()*+,=:@";

const EMPTY: &str = "the path has an empty segment; use exactly one / between segments";
const DOTS: &str = "the path has a . or .. segment; write the path that is meant";
const ESCAPE: &str = "the path has a broken percent-encoding; write % and two hexadecimal digits";

/// The decoded segments of a path, in order; what has been read is also written in canonical form.
pub(super) struct Path<'a> {
    rest: &'a str,
    slash: bool,
    canonical: String,
}

impl<'a> Path<'a> {
    pub(super) fn new(path: &'a str) -> Result<Self, Flaw> {
        let rest = path.strip_prefix('/').ok_or("the target is not a path; begin it with /")?;
        Ok(Self { rest, slash: true, canonical: String::with_capacity(path.len() + 16) })
    }

    /// The next segment, decoded; `None` at the end. A single trailing slash makes no segment.
    pub(super) fn next(&mut self) -> Result<Option<Cow<'a, str>>, Flaw> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (segment, rest, slash) = match self.rest.split_once('/') {
            Some((segment, rest)) => (segment, rest, true),
            None => (self.rest, "", false),
        };
        let segment = read(segment)?;
        (self.rest, self.slash) = (rest, slash);
        self.canonical.push('/');
        percent::encode(&mut self.canonical, segment.as_bytes(), KEPT);
        Ok(Some(segment))
    }

    /// Reads the remaining segments; a trailing slash is dropped, as the apiserver does for resources.
    pub(super) fn finish(mut self) -> Result<String, Flaw> {
        while self.next()?.is_some() {}
        Ok(self.canonical)
    }

    /// Reads the remaining segments and keeps a trailing slash: `/version` and `/version/` are two paths to RBAC.
    pub(super) fn finish_with_slash(mut self) -> Result<(String, String), Flaw> {
        let mut decoded = String::new();
        while let Some(segment) = self.next()? {
            decoded.push('/');
            decoded.push_str(&segment);
        }
        if self.slash {
            decoded.push('/');
            self.canonical.push('/');
        }
        Ok((decoded, self.canonical))
    }

    /// Ends the path with what is left as it was received: it belongs to a service behind the apiserver.
    ///
    /// Encoded separators and empty segments are that service's affair; dot segments are refused, because a server in
    /// between might resolve them into a path outside of the service.
    pub(super) fn finish_raw(mut self) -> Result<String, Flaw> {
        let decoded = percent::decode(self.rest, b'+').ok_or(ESCAPE)?;
        let name = |segment: &[u8]| segment.split(|&byte| byte == b';').next().map(<[u8]>::to_vec);
        let mut segments = decoded.split(|byte| b"/\\".contains(byte)).filter_map(name);
        if segments.any(|segment| segment == b"." || segment == b"..") {
            return Err(DOTS.into());
        }
        if self.slash {
            self.canonical.push('/');
            self.canonical.push_str(self.rest);
        }
        Ok(self.canonical)
    }
}

fn read(raw: &str) -> Result<Cow<'_, str>, Flaw> {
    let segment = match percent::decode(raw, b'+').ok_or(ESCAPE)? {
        Cow::Borrowed(_) => Cow::Borrowed(raw),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8(bytes).map_err(|_| "the path is not UTF-8")?),
    };
    match segment.as_ref() {
        "" => return Err(EMPTY.into()),
        "." | ".." => return Err(DOTS.into()),
        _ => {}
    }
    if segment.chars().any(|char| char.is_control() || "/\\%?#;".contains(char)) {
        let reason = "a path segment contains / \\ % ? # ; or a control character, plain or percent-encoded; \
                      use the object's plain name";
        return Err(reason.into());
    }
    Ok(segment)
}
