//! The size of a head that came over HTTP/2; the guard measures those of HTTP/1.1 as they come.

use http::{Request, Version};

use crate::Violation;

/// Header list as HTTP/2 counts it (RFC 9113 §6.5.2), the path with it.
pub(crate) const LIST: usize = 128 * 1024;
/// Header lines, as over HTTP/1.1; pseudo-headers do not count.
pub(crate) const LINES: usize = 500;
/// What RFC 9113 §6.5.2 adds for each line.
const EACH: usize = 32;

/// Refuses a head that is larger than over HTTP/1.1.
pub(crate) fn measure<B>(request: &Request<B>) -> Result<(), Violation> {
    if request.version() != Version::HTTP_2 {
        return Ok(());
    }
    let line = |name: &str, value: usize| name.len() + value + EACH;
    let uri = request.uri();
    let pseudo = [
        line(":method", request.method().as_str().len()),
        line(":scheme", uri.scheme_str().map_or(0, str::len)),
        line(":authority", uri.authority().map_or(0, |authority| authority.as_str().len())),
        line(":path", uri.path_and_query().map_or(0, |path| path.as_str().len())),
    ];
    let lines = request.headers().iter().map(|(name, value)| line(name.as_str(), value.len()));
    let list: usize = pseudo.into_iter().chain(lines).sum();
    match list > LIST || request.headers().len() > LINES {
        true => Err(Violation::HeadTooLarge),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_the_rfc_does() {
        // 7+3, 7+5, 10+1, 5+2, and 1 for the name below, with 32 each.
        let rest = LIST - (10 + 12 + 11 + 7 + 1) - 5 * EACH;
        let request = |length: usize, version| {
            let request = Request::get("https://a/b").version(version).header("x", "v".repeat(length));
            request.body(()).unwrap()
        };
        assert_eq!(measure(&request(rest, Version::HTTP_2)), Ok(()));
        assert_eq!(measure(&request(rest + 1, Version::HTTP_2)), Err(Violation::HeadTooLarge));
        assert_eq!(measure(&request(rest + 1, Version::HTTP_11)), Ok(()));
    }
}
