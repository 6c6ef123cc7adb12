//! Certificate, and in it TBSCertificate (RFC 5280 §4.1), read in one pass over the bytes, for every handshake does so.

use jiff::{Timestamp, civil::DateTime, tz::Offset};
use x509_cert::{
    der::oid::{
        AssociatedOid as _,
        db::rfc5280::{ID_KP_CLIENT_AUTH, ID_KP_SERVER_AUTH},
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName},
};

use super::Facts;
use crate::key::hex;

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0] EXPLICIT Version`
const VERSION: u8 = 0xa0;
/// `[1] IMPLICIT UniqueIdentifier`, of issuer and subject.
const UNIQUE_IDS: [u8; 2] = [0x81, 0x82];
/// `[3] EXPLICIT Extensions`
const EXTENSIONS: u8 = 0xa3;
/// `[2] IMPLICIT IA5String` of GeneralName
const DNS_NAME: u8 = 0x82;
/// `[6] IMPLICIT IA5String` of GeneralName
const URI: u8 = 0x86;
/// Of a serial number: 20 octets (RFC 5280 §4.1.2.2), and a zero for the sign.
const MAX_SERIAL: usize = 21;

/// What is left to read: DER (X.690 §10), with tags of one byte and at most 64 KiB in each element.
#[derive(Clone, Copy)]
struct Input<'a>(&'a [u8]);

struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

impl<'a> Input<'a> {
    fn next(&mut self) -> Option<Element<'a>> {
        let (&[tag, length], rest) = self.0.split_first_chunk::<2>()?;
        if tag & 0x1f == 0x1f {
            return None;
        }
        // A length has one form, the shortest.
        let (length, least, rest) = match length {
            ..=0x7f => (usize::from(length), 0, rest),
            0x81 => rest.split_first().map(|(long, rest)| (usize::from(*long), 0x80, rest))?,
            0x82 => {
                rest.split_first_chunk().map(|(long, rest)| (usize::from(u16::from_be_bytes(*long)), 0x100, rest))?
            }
            _ => return None,
        };
        if length < least {
            return None;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - rest.len())?;
        self.0 = rest;
        Some(Element { tag, content, whole })
    }

    /// The element that has to come next.
    fn take(&mut self, tag: u8) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }

    /// What is in the SEQUENCE that has to come next.
    fn sequence(&mut self) -> Option<Self> {
        Some(Input(self.take(SEQUENCE)?.content))
    }

    /// The element that may come next.
    fn optional(&mut self, tag: u8) -> Option<Option<Element<'a>>> {
        if self.0.first() == Some(&tag) { Some(Some(self.next()?)) } else { Some(None) }
    }

    /// Nothing is to come.
    fn finish(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

pub(super) fn read(certificate: &[u8]) -> Option<Facts> {
    let mut outer = Input(certificate);
    let mut content = outer.sequence()?;
    outer.finish()?;
    let mut body = content.sequence()?;
    body.optional(VERSION)?;
    let serial = body.take(INTEGER)?.content;
    body.sequence()?; // the algorithm of the signature
    let issuer = body.take(SEQUENCE)?.whole.to_vec();
    let mut validity = body.sequence()?;
    let (not_before, not_after) = (at(&mut validity)?, at(&mut validity)?);
    validity.finish()?;
    let (subject, spki) = (body.take(SEQUENCE)?.whole.to_vec(), body.take(SEQUENCE)?.whole.to_vec());
    for unique_id in UNIQUE_IDS {
        body.optional(unique_id)?;
    }
    let mut said = Said::default();
    if let Some(extensions) = body.optional(EXTENSIONS)? {
        let mut explicit = Input(extensions.content);
        let mut extensions = explicit.sequence()?;
        explicit.finish()?;
        while !extensions.0.is_empty() {
            said.extension(extensions.sequence()?)?;
        }
    }
    body.finish()?;
    let Said { basic, usage, usages, names } = said;
    let (client, server) = usages.unwrap_or_default();
    let Names { uris, dns, foreign } = names.unwrap_or_default();
    Some(Facts {
        serial: number(serial)?,
        not_before,
        not_after,
        spki,
        subject,
        issuer,
        authority: basic.unwrap_or(false) && usage.unwrap_or(true),
        uris,
        dns,
        foreign,
        client,
        server,
    })
}

/// In hexadecimal, without the zeros in front that DER needs for a high first bit.
fn number(serial: &[u8]) -> Option<String> {
    if serial.is_empty() || serial.len() > MAX_SERIAL {
        return None;
    }
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    serial.get(zeros..).map(hex)
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn at(input: &mut Input<'_>) -> Option<Timestamp> {
    let Element { tag, content, .. } = input.next()?;
    let two = |at: usize| match content.get(at..at + 2)? {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9'] => i8::try_from((tens - b'0') * 10 + (ones - b'0')).ok(),
        _ => None,
    };
    let (year, rest) = match (tag, content.len()) {
        (UTC_TIME, 13) => (i16::from(two(0)?) + if two(0)? < 50 { 2000 } else { 1900 }, 2),
        (GENERALIZED_TIME, 15) => (100 * i16::from(two(0)?) + i16::from(two(2)?), 4),
        _ => return None,
    };
    let part = |number: usize| two(rest + 2 * number);
    let at = DateTime::new(year, part(0)?, part(1)?, part(2)?, part(3)?, part(4)?, 0).ok()?;
    if content.last() == Some(&b'Z') { Offset::UTC.to_timestamp(at).ok() } else { None }
}

#[derive(Default)]
struct Names {
    uris: Vec<String>,
    dns: Vec<String>,
    foreign: bool,
}

/// What the extensions say that we go by; each may be there once (RFC 5280 §4.2).
#[derive(Default)]
struct Said {
    /// It is an authority.
    basic: Option<bool>,
    /// Its key may sign certificates.
    usage: Option<bool>,
    /// For clients, for servers.
    usages: Option<(bool, bool)>,
    names: Option<Names>,
}

impl Said {
    fn extension(&mut self, mut extension: Input<'_>) -> Option<()> {
        let id = extension.take(OBJECT_IDENTIFIER)?.content;
        extension.optional(BOOLEAN)?; // whether it is critical
        let value = extension.take(OCTET_STRING)?.content;
        extension.finish()?;
        if id == BasicConstraints::OID.as_bytes() {
            once(&mut self.basic, is_authority(value)?)
        } else if id == KeyUsage::OID.as_bytes() {
            once(&mut self.usage, signs_certificates(value)?)
        } else if id == ExtendedKeyUsage::OID.as_bytes() {
            once(&mut self.usages, usages(value)?)
        } else if id == SubjectAltName::OID.as_bytes() {
            once(&mut self.names, names(value)?)
        } else {
            Some(())
        }
    }
}

fn once<T>(place: &mut Option<T>, said: T) -> Option<()> {
    place.replace(said).is_none().then_some(())
}

fn inside(value: &[u8]) -> Option<Input<'_>> {
    let mut input = Input(value);
    let inside = input.sequence()?;
    input.finish()?;
    Some(inside)
}

/// `SEQUENCE { cA BOOLEAN DEFAULT FALSE, pathLenConstraint INTEGER OPTIONAL }`
fn is_authority(value: &[u8]) -> Option<bool> {
    let mut basic = inside(value)?;
    let authority = basic.optional(BOOLEAN)?.is_some_and(|authority| authority.content == [0xff]);
    basic.optional(INTEGER)?;
    basic.finish()?;
    Some(authority)
}

/// Whether bit 5, keyCertSign, is set (RFC 5280 §4.2.1.3).
fn signs_certificates(value: &[u8]) -> Option<bool> {
    let mut input = Input(value);
    let bits = input.take(BIT_STRING)?.content;
    input.finish()?;
    let (unused, bits) = bits.split_first()?;
    let Some((last, _)) = bits.split_last() else { return (*unused == 0).then_some(false) };
    // Bits that are not used are zero in DER (X.690 §11.2.1).
    if *unused > 7 || last & ((1_u8 << unused) - 1) != 0 {
        return None;
    }
    Some(bits.first().is_some_and(|first| first & 0x04 != 0))
}

fn usages(value: &[u8]) -> Option<(bool, bool)> {
    let (mut client, mut server) = (false, false);
    let mut list = inside(value)?;
    while !list.0.is_empty() {
        let usage = list.take(OBJECT_IDENTIFIER)?.content;
        client |= usage == ID_KP_CLIENT_AUTH.as_bytes();
        server |= usage == ID_KP_SERVER_AUTH.as_bytes();
    }
    Some((client, server))
}

fn names(value: &[u8]) -> Option<Names> {
    let mut names = Names::default();
    let mut list = inside(value)?;
    let text = |content: &[u8]| str::from_utf8(content).ok().filter(|text| text.is_ascii()).map(str::to_owned);
    while !list.0.is_empty() {
        let Element { tag, content, .. } = list.next()?;
        match tag {
            URI => names.uris.push(text(content)?),
            DNS_NAME => names.dns.push(text(content)?),
            _ => names.foreign = true,
        }
    }
    Some(names)
}

#[cfg(test)]
mod tests;
