//! The one-time token that an agent or a proxy enrols with.

use std::{fmt, str::FromStr};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::store::{Enrollee, TokenRecord};
use crate::{key::hex, tls::CaPin};

/// Names a token without giving it away: `e` and 32 hexadecimal digits.
#[derive(Clone, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(String);

impl TokenId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TokenId {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let digits = text.strip_prefix('e').ok_or(InvalidToken)?;
        if digits.len() == 32 && digits.bytes().all(hex) { Ok(Self(text.into())) } else { Err(InvalidToken) }
    }
}

impl TryFrom<String> for TokenId {
    type Error = InvalidToken;

    fn try_from(text: String) -> Result<Self, InvalidToken> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that is not a token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not an enrolment token: copy the whole text, ztka1.<id>.<secret>.<pin>, and nothing around it")]
pub struct InvalidToken;

/// `ztka1.<id>.<secret>.<pin>`: 256 random bits, with the pin of the CA that the first contact is verified by.
///
/// Neither `Debug` nor an error shows the secret; it is wiped when the token is dropped.
#[derive(Clone)]
pub struct EnrolmentToken {
    id: TokenId,
    secret: Zeroizing<[u8; 32]>,
    pin: CaPin,
}

impl EnrolmentToken {
    /// Makes a token for `enrollee`, valid for `life` from `now`, and what is stored of it: from anywhere, without
    /// approval, unless the record is given [sources](TokenRecord::sources) or [approval](TokenRecord::approval).
    ///
    /// # Errors
    /// [`InvalidToken`] if the system gives no randomness.
    pub fn generate(
        enrollee: Enrollee,
        pin: CaPin,
        now: Timestamp,
        life: SignedDuration,
    ) -> Result<(Self, TokenRecord), InvalidToken> {
        let (random, mut id, mut secret) = (SystemRandom::new(), [0; 16], Zeroizing::new([0; 32]));
        random.fill(&mut id).and_then(|()| random.fill(secret.as_mut())).map_err(|_| InvalidToken)?;
        let token = Self { id: TokenId(format!("e{}", hex(&id))), secret, pin };
        let record = TokenRecord {
            id: token.id.clone(),
            secret_hash: token.hash(),
            enrollee,
            created: now,
            expires: now.checked_add(life).unwrap_or(Timestamp::MAX),
            sources: Vec::new(),
            approval: false,
            verdict: None,
            revoked: None,
            spent: None,
        };
        Ok((token, record))
    }

    /// Names the token.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// The root that the first server has to lead up to.
    pub fn pin(&self) -> CaPin {
        self.pin
    }

    /// The token in the form that [`FromStr`] reads: whoever has it can enrol.
    pub fn to_text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.encode(self.secret.as_ref()));
        Zeroizing::new(format!("ztka1.{}.{}.{}", self.id, *secret, self.pin))
    }

    /// SHA-256 of the secret. It is random and long, so that nothing slower is needed.
    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret.as_ref()).into()
    }

    /// True if this is the token of `record`; takes the same time whichever byte differs.
    pub(super) fn is_of(&self, record: &TokenRecord) -> bool {
        let differing = self.hash().iter().zip(record.secret_hash).fold(0, |differing, (a, b)| differing | (a ^ b));
        differing == 0 && self.id == record.id
    }
}

impl FromStr for EnrolmentToken {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let ["ztka1", id, secret, pin] = *parts.as_slice() else { return Err(InvalidToken) };
        let decoded = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(secret).map_err(|_| InvalidToken)?);
        let secret: [u8; 32] = decoded.as_slice().try_into().map_err(|_| InvalidToken)?;
        Ok(Self { id: id.parse()?, secret: Zeroizing::new(secret), pin: pin.parse().map_err(|_| InvalidToken)? })
    }
}

impl fmt::Debug for EnrolmentToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolmentToken").field("id", &self.id).field("pin", &self.pin).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> (EnrolmentToken, TokenRecord) {
        let enrollee = Enrollee::Proxy { proxy: "p1".parse().unwrap() };
        let pin = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        EnrolmentToken::generate(enrollee, pin, Timestamp::UNIX_EPOCH, SignedDuration::from_mins(1)).unwrap()
    }

    #[test]
    fn is_read_as_written_and_matches_its_own_record_only() {
        let ((token, record), (_, other)) = (token(), token());
        let again: EnrolmentToken = token.to_text().parse().unwrap();
        assert!(again.is_of(&record) && !again.is_of(&other));
        assert!(!again.is_of(&TokenRecord { id: other.id, ..record.clone() }));
        assert!(!again.is_of(&TokenRecord { secret_hash: other.secret_hash, ..record }));
    }

    #[test]
    fn shows_its_secret_to_nobody() {
        let (token, record) = token();
        let text = token.to_text();
        let secret = text.split('.').nth(2).unwrap();
        assert!(!format!("{token:?} {record:?}").contains(secret));
    }

    #[test]
    fn anything_else_is_no_token() {
        let text = token().0.to_text();
        for bad in [
            "",
            "ztka1",
            "ztka1...",
            &text[..text.len() - 1],
            &text.replacen("ztka1", "ztka2", 1),
            &format!("{}.x", *text),
        ] {
            assert_eq!(bad.parse::<EnrolmentToken>().err(), Some(InvalidToken), "{bad}");
        }
    }
}
