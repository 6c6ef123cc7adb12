//! Whom rotations wait for, by what members have confirmed and what is known of kubeconfigs.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_core::{BoxError, ControllerId, DocumentKind, KeyId, OrgId, SeriesKey, Subject};
use ztka_pki::{Awaited, Population, Purpose, Signed, Straggler};

use crate::{
    Controller,
    store::{Acknowledgement, LiveMember},
};

/// More documents than this are not counted.
const COUNTED: u32 = 1000;
/// A controller that has confirmed nothing for this long is not there; each does so more than twice as often.
const GONE: SignedDuration = SignedDuration::from_secs(15);

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

    /// Controllers over the same store, this one included, that `of` is true of.
    async fn controllers(
        &self,
        awaited: Awaited,
        of: impl Fn(&Acknowledgement) -> bool,
    ) -> Result<Vec<Straggler>, BoxError> {
        let since = self.now().checked_sub(GONE).unwrap_or(Timestamp::MIN);
        let live = self.0.stores.members.live_controllers(since).await?;
        let straggler = |(id, said): (ControllerId, Acknowledgement)| Straggler {
            who: Subject::Controller(id).to_string(),
            awaited,
            last_seen: Some(said.at),
            until: said.at.checked_add(GONE).ok(),
        };
        Ok(live.into_iter().filter(|(_, said)| of(said)).map(straggler).collect())
    }
}

#[async_trait]
impl Population for Controller {
    async fn without_trust(&self) -> Result<Vec<Straggler>, BoxError> {
        let series = SeriesKey { kind: DocumentKind::Trust, org: None, subject: String::new() };
        let newest = self.0.stores.documents.snapshot(&series, self.now()).await?;
        let newest = newest.map(|snapshot| snapshot.revision);
        let mut missing = self.stragglers(Awaited::Trust, |_, said| said.map(|said| said.trust) < newest).await?;
        missing.extend(self.controllers(Awaited::Trust, |said| Some(said.trust) < newest).await?);
        Ok(missing)
    }

    async fn certified_by(
        &self,
        authority: &KeyId,
        purpose: Purpose,
        org: Option<&OrgId>,
    ) -> Result<Vec<Straggler>, BoxError> {
        if purpose == Purpose::Controllers {
            return self.controllers(Awaited::Certificate, |said| said.authorities.contains(authority)).await;
        }
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
        let missing = self.stragglers(Awaited::ServerChain, |member, said| {
            let presented = said.and_then(|said| said.server_chain.as_deref());
            matches!(member.subject, Subject::Proxy(_)) && presented != Some(chain)
        });
        let mut missing = missing.await?;
        let other = |said: &Acknowledgement| said.server_chain.as_deref().is_some_and(|presented| presented != chain);
        missing.extend(self.controllers(Awaited::ServerChain, other).await?);
        Ok(missing)
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

    async fn tokens(&self, made: Signed) -> Result<Vec<Straggler>, BoxError> {
        let live = self.0.stores.members.live_tokens(made.from, made.until, self.now()).await?;
        let straggler = |live: crate::store::LiveToken| Straggler {
            who: format!("token/{}", live.id),
            awaited: Awaited::Token,
            last_seen: None,
            until: Some(live.expires),
        };
        Ok(live.into_iter().map(straggler).collect())
    }

    async fn documents_before(&self, at: Timestamp) -> Result<usize, BoxError> {
        Ok(self.0.stores.documents.due(at, self.now(), COUNTED).await?.len())
    }
}
