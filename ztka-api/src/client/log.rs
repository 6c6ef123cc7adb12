//! Calls of the transparency log.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ztka_core::OrgId;

use super::{Client, with_query};
use crate::{ClientError, ConsistencyQuery, ExportQuery, LogProofQuery, TreeHeadQuery, connection::within};

impl Client {
    /// A signed head of the transparency log, as JSON of `ztka_audit::log::SignedHead`.
    pub async fn tree_head(&self, org: &OrgId, query: &TreeHeadQuery) -> Result<Bytes, ClientError> {
        let path = with_query(format!("/orgs/{org}/log/head"), query)?;
        Ok(self.bytes(Method::GET, &path, None).await?.0)
    }

    /// Leaves with their proofs, as JSON of `ztka_audit::log::LogProof`.
    pub async fn log_proof(&self, org: &OrgId, query: &LogProofQuery) -> Result<Bytes, ClientError> {
        let path = with_query(format!("/orgs/{org}/log/proof"), query)?;
        Ok(self.bytes(Method::GET, &path, None).await?.0)
    }

    /// The proof that the log of one size became that of another, as JSON of `ztka_audit::log::ConsistencyProof`.
    pub async fn log_consistency(&self, org: &OrgId, query: &ConsistencyQuery) -> Result<Bytes, ClientError> {
        let path = with_query(format!("/orgs/{org}/log/consistency"), query)?;
        Ok(self.bytes(Method::GET, &path, None).await?.0)
    }

    /// An export of the log, as `ztka_audit::log::export` has it. It may take as long as it takes.
    pub async fn export_log(&self, org: &OrgId, query: &ExportQuery) -> Result<LogExport, ClientError> {
        let path = with_query(format!("/orgs/{org}/log/export"), query)?;
        let response = within(self.limit, self.send(Method::GET, &path, None)).await?;
        Ok(LogExport { body: response.into_body() })
    }
}

/// An export as it comes in.
#[derive(Debug)]
pub struct LogExport {
    body: Incoming,
}

impl LogExport {
    /// The next bytes; `None` at its end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The connection broke: what has come is not the whole.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(ClientError::Http)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
