//! What members have confirmed.
//!
//! What was said last counts, so that of two controllers the slower one does not bring back what was said before. What is
//! noted as said more than five minutes (300,000,000 µs) from now was noted by a clock that has been set back since, and
//! counts no more.

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use ztka_controller::store::{Acknowledgement, LiveCredential, LiveMember, LiveToken, MemberStore};
use ztka_core::{ControllerId, HostPort, OrgId, ProxyEntry, ProxyId, Revision, Subject, Zone};
use ztka_identity::StoreError;

use crate::{
    Failed, Store,
    row::{json, micros, number, org_or_empty, signed, text, time, to_json},
    sql::{Row, sql},
};

/// What a controller has confirmed this long before another is of nobody any more.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(24);

fn acknowledgement(row: &Row) -> Result<Option<Acknowledgement>, Failed> {
    if row.some_number("at")?.is_none() {
        return Ok(None);
    }
    Ok(Some(Acknowledgement {
        trust: Revision { epoch: number(row, "epoch")?, version: number(row, "trust")? },
        authorities: json(row, "authorities")?,
        server_chain: row.some_str("server_chain")?.map(str::to_owned),
        at: time(row, "at")?,
    }))
}

#[async_trait]
impl MemberStore for Store {
    async fn acknowledge(&self, member: &Subject, acknowledgement: &Acknowledgement) -> Result<(), StoreError> {
        let Acknowledgement { trust, authorities, server_chain, at } = acknowledgement;
        let upsert = "INSERT INTO acknowledgements (member, epoch, version, authorities, server_chain, at) \
                      VALUES ($1, $2, $3, $4, $5, $6) \
                      ON CONFLICT (member) DO UPDATE SET epoch = excluded.epoch, version = excluded.version, \
                          authorities = excluded.authorities, server_chain = excluded.server_chain, at = excluded.at \
                      WHERE acknowledgements.at <= excluded.at OR acknowledgements.at > excluded.at + 300000000 \
                      OR acknowledgements.epoch < excluded.epoch \
                      OR (acknowledgements.epoch = excluded.epoch AND acknowledgements.version < excluded.version)";
        let upsert = sql(upsert)
            .bind(member.to_string())
            .bind(signed(trust.epoch))
            .bind(signed(trust.version))
            .bind(to_json(authorities)?)
            .bind(server_chain.as_deref())
            .bind(micros(*at));
        let mut write = self.write().await?;
        write.execute(upsert).await?;
        if matches!(member, Subject::Controller(_)) {
            let old = "DELETE FROM acknowledgements WHERE member LIKE 'controller/%' AND at < $1";
            let before = at.checked_sub(FORGOTTEN).unwrap_or(Timestamp::MIN);
            write.execute(sql(old).bind(micros(before))).await?;
        }
        Ok(write.commit().await?)
    }

    async fn announce(&self, proxy: &ProxyEntry, at: Timestamp) -> Result<(), StoreError> {
        let upsert = "INSERT INTO announcements (proxy, zone, address, peers, at) VALUES ($1, $2, $3, $4, $5) \
                      ON CONFLICT (proxy) DO UPDATE SET zone = excluded.zone, address = excluded.address, \
                          peers = excluded.peers, at = excluded.at \
                      WHERE announcements.at <= excluded.at OR announcements.at > excluded.at + 300000000";
        let upsert = sql(upsert)
            .bind(proxy.id.as_str())
            .bind(proxy.zone.as_ref().map(Zone::as_str))
            .bind(proxy.address.as_ref().map(HostPort::to_string))
            .bind(proxy.peers.as_ref().map(HostPort::to_string))
            .bind(micros(at));
        let mut write = self.write().await?;
        write.execute(upsert).await?;
        Ok(write.commit().await?)
    }

    async fn withdraw(&self, proxy: &ProxyId, at: Timestamp) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let delete = sql("DELETE FROM announcements WHERE proxy = $1 AND (at <= $2 OR at > $2 + 300000000)");
        write.execute(delete.bind(proxy.as_str()).bind(micros(at))).await?;
        Ok(write.commit().await?)
    }

    async fn announced(&self, since: Timestamp) -> Result<Vec<ProxyEntry>, StoreError> {
        let query = sql("SELECT proxy, zone, address, peers FROM announcements WHERE at >= $1 ORDER BY proxy")
            .bind(micros(since));
        let rows = self.readers().fetch_all(query).await?;
        let entry = |row: &Row| {
            let zone = row.some_str("zone")?.map(str::parse).transpose().map_err(|_| Failed::Corrupt("zone"))?;
            let address = |name| {
                let text = row.some_str(name)?;
                text.map(str::parse::<HostPort>).transpose().map_err(|_| Failed::Corrupt(name))
            };
            Ok(ProxyEntry { id: text(row, "proxy")?, zone, address: address("address")?, peers: address("peers")? })
        };
        Ok(rows.iter().map(entry).collect::<Result<_, Failed>>()?)
    }

    async fn live_controllers(&self, since: Timestamp) -> Result<Vec<(ControllerId, Acknowledgement)>, StoreError> {
        let query = "SELECT member, epoch, version AS trust, authorities, server_chain, at FROM acknowledgements \
                     WHERE member LIKE 'controller/%' AND at >= $1 ORDER BY member";
        let rows = self.readers().fetch_all(sql(query).bind(micros(since))).await?;
        let controller = |row: &Row| {
            let id = row.str("member")?.strip_prefix("controller/").and_then(|id| id.parse().ok());
            let said = acknowledgement(row)?.ok_or(Failed::Corrupt("at"))?;
            Ok((id.ok_or(Failed::Corrupt("member"))?, said))
        };
        Ok(rows.iter().map(controller).collect::<Result<_, Failed>>()?)
    }

    async fn forget_controller(&self, controller: &ControllerId) -> Result<(), StoreError> {
        let mut write = self.write().await?;
        let delete = sql("DELETE FROM acknowledgements WHERE member = $1");
        write.execute(delete.bind(Subject::Controller(controller.clone()).to_string())).await?;
        Ok(write.commit().await?)
    }

    async fn live_tokens(
        &self,
        from: Option<Timestamp>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LiveToken>, StoreError> {
        let query = "SELECT t.id AS id, t.expires AS expires FROM tokens t LEFT JOIN clusters c ON c.id = t.cluster \
                     WHERE t.created >= $1 AND t.created <= $2 AND t.expires > $3 AND t.revoked IS NULL AND t.used = 0 \
                     AND COALESCE(t.verdict, '') <> 'refused' \
                     AND (t.cluster IS NULL OR (c.id IS NOT NULL AND c.deleted IS NULL)) ORDER BY t.id";
        let query = sql(query).bind(from.map_or(i64::MIN, micros)).bind(micros(until)).bind(micros(now));
        let rows = self.readers().fetch_all(query).await?;
        let token = |row: &Row| Ok(LiveToken { id: text(row, "id")?, expires: time(row, "expires")? });
        Ok(rows.iter().map(token).collect::<Result<_, Failed>>()?)
    }

    async fn live_members(&self, now: Timestamp) -> Result<Vec<LiveMember>, StoreError> {
        let mut read = self.read().await?;
        let agents = "SELECT i.id AS id, i.org AS org, i.cluster AS cluster, i.not_after AS not_after, a.epoch AS epoch, \
                          a.version AS trust, a.authorities AS authorities, a.server_chain AS server_chain, a.at AS at \
                      FROM instances i JOIN clusters c ON c.id = i.cluster AND c.deleted IS NULL \
                      LEFT JOIN acknowledgements a \
                          ON a.member = 'org/' || i.org || '/cluster/' || i.cluster || '/agent/' || i.id \
                      WHERE i.not_after > $1 ORDER BY i.id";
        let agents = read.fetch_all(sql(agents).bind(micros(now))).await?;
        let proxies = "SELECT p.id AS id, p.not_after AS not_after, a.epoch AS epoch, a.version AS trust, \
                           a.authorities AS authorities, a.server_chain AS server_chain, a.at AS at \
                       FROM proxies p LEFT JOIN acknowledgements a ON a.member = 'proxy/' || p.id \
                       WHERE p.not_after > $1 ORDER BY p.id";
        let proxies = read.fetch_all(sql(proxies).bind(micros(now))).await?;
        let member = |subject, row: &Row| {
            Ok(LiveMember { subject, not_after: time(row, "not_after")?, acknowledged: acknowledgement(row)? })
        };
        let agent = |row: &Row| {
            let (org, cluster, instance) = (text(row, "org")?, text(row, "cluster")?, text(row, "id")?);
            member(Subject::Agent { org, cluster, instance }, row)
        };
        let proxy = |row: &Row| member(Subject::Proxy(text(row, "id")?), row);
        let members = agents.iter().map(agent).chain(proxies.iter().map(proxy));
        Ok(members.collect::<Result<_, Failed>>()?)
    }

    async fn live_credentials(
        &self,
        org: Option<&OrgId>,
        from: Option<Timestamp>,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Vec<LiveCredential>, StoreError> {
        let query = "SELECT id, org, user_id, not_after FROM credentials \
                     WHERE revoked IS NULL AND not_after > $1 AND COALESCE(renewed, created) >= $2 AND COALESCE(renewed, created) <= $3 \
                     AND ($4 = '' OR org = $4) ORDER BY org, user_id, id";
        let query = sql(query)
            .bind(micros(now))
            .bind(from.map_or(i64::MIN, micros))
            .bind(micros(until))
            .bind(org_or_empty(org));
        let rows = self.readers().fetch_all(query).await?;
        let credential = |row: &Row| {
            Ok(LiveCredential {
                org: text(row, "org")?,
                user: text(row, "user_id")?,
                id: text(row, "id")?,
                not_after: time(row, "not_after")?,
            })
        };
        Ok(rows.iter().map(credential).collect::<Result<_, Failed>>()?)
    }
}
