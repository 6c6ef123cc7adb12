//! The preset dictionary of SPDY/3 (draft-mbelshe-httpbis-spdy-00 §2.6.10.1): words with their lengths, then plain text.

use std::sync::LazyLock;

/// Adler-32 of the dictionary, by which a zlib stream names it.
pub(in crate::stream) const ID: u32 = 0xe3c6_a7c2;

pub(in crate::stream) static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let length = u32::try_from(word.len()).unwrap_or_default();
        dictionary.extend_from_slice(&length.to_be_bytes());
        // The one word with a space in it.
        dictionary.extend(word.bytes().map(|byte| if byte == b'_' { b' ' } else { byte }));
    }
    dictionary.extend_from_slice(TEXT.as_bytes());
    dictionary
});

const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
content-length content-location content-md5 content-range content-type date etag expect expires from host if-match \
if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent \
vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8\
charset=iso-8859-1,utf-,*,enq=0.";
