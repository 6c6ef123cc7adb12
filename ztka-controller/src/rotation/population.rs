//! Whom rotations wait for, by what members have confirmed and what is known of kubeconfigs.

use async_trait::async_trait;
use jiff::Timestamp;
use ztka_core::{BoxError, DocumentKind, KeyId, OrgId, SeriesKey, Subject};
use ztka_pki::{Awaited, Population, Purpose, Signed, Straggler};

use crate::{
    Controller,
    store::{Acknowledgement, LiveMember},
};

/// More documents than this are not counted.
const COUNTED: u32 = 1000;

impl Controller {
    async fn stragglers(
        &self,
        awaited: Awaited,
        of: impl Fn(&LiveMember, Option<&Acknowledgement>) -> bool,
    ) -> Result<Vec<Straggler>, BoxError> {
        let live = self.0.stores.members.live_members(self.now()).await?;
        let missing = live.into_iter().filter(|member| of(member, member.acknowledged.as_ref()));
        let straggler = |member: LiveMember| Straggler {
            who: member.subject.to_string(),
            awaited,
            last_seen: member.acknowledged.map(|acknowledged| acknowledged.at),
            until: Some(member.not_after),
        };
        Ok(missing.map(straggler).collect())
    }
}

#[async_trait]
impl Population for Controller {
    async fn without_trust(&self) -> Result<Vec<Straggler>, BoxError> {
        let series = SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() };
        let newest = self.0.stores.documents.snapshot(&series, self.now()).await?;
        let newest = newest.map(|snapshot| snapshot.revision);
        self.stragglers(Awaited::Trust, |_, said| said.map(|said| said.trust) < newest).await
    }

    async fn certified_by(
        &self,
        authority: &KeyId,
        purpose: Purpose,
        org: Option<&OrgId>,
    ) -> Result<Vec<Straggler>, BoxError> {
        let concerned = |member: &LiveMember| match &member.subject {
            Subject::Agent { org: of, .. } => purpose == Purpose::Agents && org.is_none_or(|org| org == of),
            subject => purpose.fits(subject),
        };
        self.stragglers(Awaited::Certificate, |member, said| {
            concerned(member) && said.is_none_or(|said| said.authorities.contains(authority))
        })
        .await
    }

    async fn not_presenting(&self, chain: &str) -> Result<Vec<Straggler>, BoxError> {
        self.stragglers(Awaited::ServerChain, |member, said| {
            let presented = said.and_then(|said| said.server_chain.as_deref());
            matches!(member.subject, Subject::Proxy(_)) && presented != Some(chain)
        })
        .await
    }

    async fn credentials(&self, issued: Signed, org: Option<&OrgId>) -> Result<Vec<Straggler>, BoxError> {
        let members = &self.0.stores.members;
        let live = members.live_credentials(org, issued.from, issued.until, self.now()).await?;
        let straggler = |live: crate::store::LiveCredential| {
            let subject = Subject::User { org: live.org, user: live.user, credential: live.id };
            let who = subject.to_string();
            Straggler { who, awaited: Awaited::Credential, last_seen: None, until: Some(live.not_after) }
        };
        Ok(live.into_iter().map(straggler).collect())
    }

    async fn documents_before(&self, at: Timestamp) -> Result<usize, BoxError> {
        Ok(self.0.stores.documents.due(at, self.now(), COUNTED).await?.len())
    }
}
