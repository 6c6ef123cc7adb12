//! Questions that users ask about themselves, answered by the agent: an account's answer would be about the account.
//!
//! `kubectl auth can-i` asks a SelfSubjectAccessReview: the answer is what policy says *and*, where policy allows, what
//! the apiserver says of the user's account, so it is what the call itself would get. `kubectl auth can-i --list` asks a
//! SelfSubjectRulesReview: the rules that policy gives, called incomplete where conditions, denials or guardrails may take
//! some of it away, or the cluster's own roles, as in the modes that impersonate or are under a ceiling. `kubectl auth whoami` asks a SelfSubjectReview: the user's own name, whatever the account is called.
//! These bodies are the only ones that are read.
mod protobuf;
mod question;
mod service;

pub use self::service::{SelfReview, SelfReviewLayer};
