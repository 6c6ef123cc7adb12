//! An enrolment token has one spelling, and tells its secret to nobody.

use ztka_pki::{CaPin, EnrolmentToken, TokenId};

/// Reads the text of a token; true if it is one.
pub(crate) fn enrolment_token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    // Names of tokens come alone as well, from the store and in paths of files.
    if let Ok(id) = text.parse::<TokenId>() {
        assert_eq!(id.as_str(), text);
        assert!(text.len() == 33 && text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
    if let Ok(pin) = text.parse::<CaPin>() {
        assert_eq!(pin.to_string(), text);
    }
    let Ok(token) = text.parse::<EnrolmentToken>() else { return false };
    assert_eq!(*token.to_text(), text.trim(), "another spelling of the same token");
    let parts: Vec<&str> = text.trim().split('.').collect();
    let [version, id, secret, pin] = parts[..] else { panic!("{} parts", parts.len()) };
    assert_eq!((version, id, pin), ("ztka1", token.id().as_str(), token.pin().to_string().as_str()));
    assert_eq!((secret.len(), pin.len()), (43, 43));
    assert!(secret == pin || !format!("{token:?}").contains(secret), "shown");
    true
}
