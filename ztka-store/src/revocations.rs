//! Certificates, revocations and CRLs.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use ztka_controller::store::{Action, Certificate, ResourceKind, Revocable, Revocation, RevocationStore, StoredCrl};
use ztka_core::{DocumentKind, KeyId, OrgId, SpiffeId};
use ztka_identity::StoreError;
use ztka_pki::{CrlReason, IssuedRecord, RevokedCertificate};

use crate::{
    Failed, Store,
    row::{micros, number, org_or_empty, signed, some_time, text, time},
    sql::{Row, sql},
};

fn org(row: &Row) -> Result<Option<OrgId>, Failed> {
    if row.str("org")?.is_empty() { Ok(None) } else { Ok(Some(text(row, "org")?)) }
}

fn certificate(row: &Row) -> Result<Certificate, Failed> {
    let subject = match row.str("subject")? {
        "" => None,
        path => {
            let id: SpiffeId = format!("spiffe://stored/{path}").parse().map_err(|_| Failed::Corrupt("subject"))?;
            Some(id.subject)
        }
    };
    let record = IssuedRecord {
        issuer: KeyId(row.str("issuer")?.to_owned()),
        serial: row.str("serial")?.to_owned(),
        subject,
        issued: time(row, "issued")?,
        not_after: time(row, "not_after")?,
    };
    Ok(Certificate { org: org(row)?, record })
}

pub(crate) fn revocation(row: &Row) -> Result<Revocation, Failed> {
    let what = Revocable::parse(row.str("kind")?, row.str("name")?).ok_or(Failed::Corrupt("kind"))?;
    Ok(Revocation { org: org(row)?, what, since: time(row, "since")?, ends: some_time(row, "ends")? })
}

/// In the feed of changes.
fn change_name(what: &Revocable) -> String {
    format!("{}/{}", what.kind(), what.name())
}

#[async_trait]
impl RevocationStore for Store {
    async fn record_certificate(&self, record: &IssuedRecord) -> Result<(), StoreError> {
        let subject = record.subject.as_ref();
        let text = "INSERT INTO certificates (issuer, serial, org, subject, owner, issued, not_after) \
                    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let insert = sql(text)
            .bind(&record.issuer.0)
            .bind(&record.serial)
            .bind(org_or_empty(Certificate::org_of(subject)))
            .bind(subject.map(ToString::to_string).unwrap_or_default())
            .bind(Certificate::owner_of(subject))
            .bind(micros(record.issued))
            .bind(micros(record.not_after));
        let mut write = self.write().await?;
        write.execute(insert).await?;
        Ok(write.commit().await?)
    }

    async fn record_authority(&self, org: &OrgId, record: &IssuedRecord) -> Result<(), StoreError> {
        let text = "INSERT INTO certificates (issuer, serial, org, subject, owner, issued, not_after) \
                    VALUES ($1, $2, $3, '', '', $4, $5) ON CONFLICT (issuer, serial) DO UPDATE SET org = excluded.org";
        let insert = sql(text)
            .bind(&record.issuer.0)
            .bind(&record.serial)
            .bind(org.as_str())
            .bind(micros(record.issued))
            .bind(micros(record.not_after));
        let mut write = self.write().await?;
        write.execute(insert).await?;
        Ok(write.commit().await?)
    }

    async fn certificates(&self, serial: &str, now: Timestamp) -> Result<Vec<Certificate>, StoreError> {
        let query = sql("SELECT * FROM certificates WHERE serial = $1 AND not_after > $2 ORDER BY issuer");
        let rows = self.readers().fetch_all(query.bind(serial).bind(micros(now))).await?;
        Ok(rows.iter().map(certificate).collect::<Result<_, _>>()?)
    }

    async fn revoke(&self, revocation: &Revocation) -> Result<(), StoreError> {
        let Revocation { org, what, since, ends } = revocation;
        let name = change_name(what);
        let mut change = self.change(org.as_ref(), Action::Created, ResourceKind::Revocation, &name).await?;
        let text = "INSERT INTO revocations (org, kind, name, since, ends) VALUES ($1, $2, $3, $4, $5) \
                    ON CONFLICT (org, kind, name) DO UPDATE SET ends = excluded.ends";
        let insert = sql(text)
            .bind(org_or_empty(org.as_ref()))
            .bind(what.kind())
            .bind(what.name())
            .bind(micros(*since))
            .bind(ends.map(micros));
        change.execute(insert).await?;
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn restore_org(&self, org: &OrgId) -> Result<(), StoreError> {
        let name = change_name(&Revocable::Org(org.clone()));
        let mut change = self.change(None, Action::Deleted, ResourceKind::Revocation, &name).await?;
        let delete = sql("DELETE FROM revocations WHERE org = '' AND kind = 'org' AND name = $1 \
                          AND NOT EXISTS (SELECT 1 FROM deleted_orgs WHERE deleted_orgs.org = $1)");
        if change.execute(delete.bind(org.as_str())).await? == 0 {
            return Err(StoreError::not_found("revocation of organisation", org));
        }
        change.touch(DocumentKind::Revocations).await?;
        Ok(change.commit().await?)
    }

    async fn revocations(&self, org: Option<&OrgId>, now: Timestamp) -> Result<Vec<Revocation>, StoreError> {
        let query = "SELECT * FROM revocations WHERE org = $1 AND (ends IS NULL OR ends > $2) \
                     ORDER BY since, kind, name";
        let query = sql(query).bind(org_or_empty(org)).bind(micros(now));
        let rows = self.readers().fetch_all(query).await?;
        Ok(rows.iter().map(revocation).collect::<Result<_, _>>()?)
    }

    async fn revoked_certificates(
        &self,
        issuer: &KeyId,
        now: Timestamp,
    ) -> Result<Vec<RevokedCertificate>, StoreError> {
        let query = "SELECT c.serial AS serial, k.revoked AS since, 'none' AS reason FROM certificates c \
                     JOIN credentials k ON k.id = c.owner \
                     WHERE c.issuer = $1 AND c.not_after > $2 AND k.revoked IS NOT NULL \
                     UNION ALL SELECT c.serial, u.disabled, 'hold' FROM certificates c \
                     JOIN credentials k ON k.id = c.owner JOIN users u ON u.id = k.user_id \
                     WHERE c.issuer = $1 AND c.not_after > $2 AND u.disabled IS NOT NULL \
                     UNION ALL SELECT c.serial, l.deleted, 'gone' FROM certificates c \
                     JOIN instances i ON i.id = c.owner JOIN clusters l ON l.id = i.cluster \
                     WHERE c.issuer = $1 AND c.not_after > $2 AND l.deleted IS NOT NULL \
                     UNION ALL SELECT c.serial, r.since, 'none' FROM certificates c \
                     JOIN revocations r ON r.org = c.org AND r.kind = 'serial' AND r.name = c.serial \
                     WHERE c.issuer = $1 AND c.not_after > $2 \
                     UNION ALL SELECT c.serial, r.since, 'none' FROM certificates c \
                     JOIN revocations r ON r.org = c.org AND r.kind IN ('instance', 'proxy') AND r.name = c.owner \
                     WHERE c.issuer = $1 AND c.not_after > $2 \
                     UNION ALL SELECT c.serial, r.since, 'hold' FROM certificates c \
                     JOIN revocations r ON r.org = '' AND r.kind = 'org' AND r.name = c.org \
                     WHERE c.issuer = $1 AND c.not_after > $2";
        let rows = self.readers().fetch_all(sql(query).bind(&issuer.0).bind(micros(now))).await?;
        // Revoked in several ways, a certificate is listed once: since the first, and for good if any is.
        let mut all: BTreeMap<String, RevokedCertificate> = BTreeMap::new();
        for row in &rows {
            let reason = match row.str("reason")? {
                "hold" => CrlReason::CertificateHold,
                "gone" => CrlReason::CessationOfOperation,
                _ => CrlReason::Unspecified,
            };
            let (serial, since) = (row.str("serial")?.to_owned(), time(row, "since")?);
            let listed = all.entry(serial.clone()).or_insert(RevokedCertificate { serial, since, reason });
            listed.since = listed.since.min(since);
            if listed.reason == CrlReason::CertificateHold {
                listed.reason = reason;
            }
        }
        Ok(all.into_values().collect())
    }

    async fn crl(&self, issuer: &KeyId) -> Result<Option<StoredCrl>, StoreError> {
        let query = sql("SELECT * FROM crls WHERE issuer = $1").bind(&issuer.0);
        let Some(row) = self.readers().fetch_optional(query).await? else { return Ok(None) };
        Ok(Some(StoredCrl {
            issuer: issuer.clone(),
            number: number(&row, "number")?,
            entries: row.str("entries")?.to_owned(),
            this_update: time(&row, "this_update")?,
            next_update: time(&row, "next_update")?,
            der: Bytes::copy_from_slice(row.bytes("der")?),
        }))
    }

    async fn keep_crl(&self, crl: &StoredCrl) -> Result<bool, StoreError> {
        let text = "INSERT INTO crls (issuer, number, entries, this_update, next_update, der) \
                    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (issuer) DO UPDATE SET number = excluded.number, \
                    entries = excluded.entries, this_update = excluded.this_update, \
                    next_update = excluded.next_update, der = excluded.der WHERE crls.number = excluded.number - 1";
        let keep = sql(text)
            .bind(&crl.issuer.0)
            .bind(signed(crl.number))
            .bind(&crl.entries)
            .bind(micros(crl.this_update))
            .bind(micros(crl.next_update))
            .bind(crl.der.as_ref());
        let mut write = self.write().await?;
        let kept = write.execute(keep).await? == 1;
        write.commit().await?;
        Ok(kept)
    }

    async fn forget_expired(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut write = self.write().await?;
        let forgotten = write.execute(sql("DELETE FROM certificates WHERE not_after <= $1").bind(micros(now))).await?;
        write.execute(sql("DELETE FROM revocations WHERE ends <= $1").bind(micros(now))).await?;
        write.commit().await?;
        Ok(forgotten)
    }
}
