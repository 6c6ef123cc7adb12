//! Calls about a policy as a whole.

use http::Method;
use serde_json::Value;
use ztka_core::OrgId;

use super::Client;
use crate::{
    AskPolicy, AskWhoCan, ClientError, PolicyAnswer, PolicyChanged, PolicyHistoryQuery, PolicyState, PolicyVersion,
    RollBack, WhoCan,
};

impl Client {
    /// The policy, as it is or as it was at a version.
    pub async fn policy(&self, org: &OrgId, version: Option<u64>) -> Result<PolicyState, ClientError> {
        let query = version.map(|version| format!("?version={version}")).unwrap_or_default();
        self.read(&format!("/orgs/{org}/policy{query}")).await
    }

    /// Puts a policy in place of the one that there is, or says what that would change. With `basis`, only if the policy is
    /// at that version.
    pub async fn write_policy(
        &self,
        org: &OrgId,
        policy: &Value,
        basis: Option<u64>,
        dry_run: bool,
    ) -> Result<PolicyChanged, ClientError> {
        let query = if dry_run { "?dry_run=true" } else { "" };
        self.expecting(basis).call(Method::PUT, &format!("/orgs/{org}/policy{query}"), Some(policy)).await
    }

    /// Puts the policy of an earlier version in place of the one that there is.
    pub async fn roll_back_policy(&self, org: &OrgId, asked: &RollBack) -> Result<PolicyChanged, ClientError> {
        self.create(&format!("/orgs/{org}/policy/rollback"), asked).await
    }

    /// Who has changed the policy when, newest first.
    pub async fn policy_history(
        &self,
        org: &OrgId,
        query: &PolicyHistoryQuery,
    ) -> Result<Vec<PolicyVersion>, ClientError> {
        let pairs =
            [query.before.map(|before| format!("before={before}")), query.limit.map(|limit| format!("limit={limit}"))];
        let pairs = pairs.into_iter().flatten().collect::<Vec<_>>().join("&");
        self.read(&format!("/orgs/{org}/policy/history?{pairs}")).await
    }

    /// Puts one object into the policy: `kind` is a word of paths, such as `projects`, and `object` as a policy file has it.
    pub async fn put_policy_object(
        &self,
        org: &OrgId,
        kind: &str,
        name: &str,
        object: &Value,
    ) -> Result<PolicyChanged, ClientError> {
        self.call(Method::PUT, &format!("/orgs/{org}/policy/{kind}/{name}"), Some(object)).await
    }

    /// Takes one object out of the policy.
    pub async fn delete_policy_object(&self, org: &OrgId, kind: &str, name: &str) -> Result<(), ClientError> {
        self.act(Method::DELETE, &format!("/orgs/{org}/policy/{kind}/{name}")).await
    }

    /// Whether a user may do something, and why.
    pub async fn explain_policy(&self, org: &OrgId, asked: &AskPolicy) -> Result<PolicyAnswer, ClientError> {
        self.create(&format!("/orgs/{org}/policy/explain"), asked).await
    }

    /// Who may do something.
    pub async fn who_can(&self, org: &OrgId, asked: &AskWhoCan) -> Result<Vec<WhoCan>, ClientError> {
        self.create(&format!("/orgs/{org}/policy/who-can"), asked).await
    }
}
