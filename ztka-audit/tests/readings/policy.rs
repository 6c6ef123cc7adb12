//! An audit policy as an administrator writes it.

use http::{Method, Uri};
use ztka_audit::{Levels, Policy, Scope};

/// Reads a policy; true if it is one. What was read is written as JSON and read as the same; a problem has a line that is there.
pub(crate) fn audit_policy(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match Policy::from_yaml(text) {
        Err(error) => {
            assert!((1..=text.lines().count().max(1) + 1).contains(&error.line()), "{error}");
            assert!(!error.problem().is_empty());
            false
        }
        Ok(policy) => {
            let written = serde_json::to_string(&policy).unwrap();
            assert_eq!(Policy::from_yaml(&written).unwrap(), policy, "{written}");
            assert!(!policy.rules.is_empty());
            // It can be asked about anything.
            let levels = Levels::new().policy(Scope::All, policy);
            for target in ["/api/v1/namespaces/a/pods/b/log", "/apis/apps/v1/deployments", "/healthz", "/"] {
                let events = super::body::through(&levels, &Method::GET, &Uri::try_from(target).unwrap(), b"", b"");
                assert!(events.len() >= 2, "{target} is not on record");
            }
            true
        }
    }
}
