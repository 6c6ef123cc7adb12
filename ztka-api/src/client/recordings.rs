//! Calls about recordings of sessions.

use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use ztka_core::{AuditId, OrgId};

use super::{Client, with_query};
use crate::{ClientError, Recording, RecordingQuery, connection::within};

impl Client {
    /// Recordings of an organisation, newest first.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn recordings(&self, org: &OrgId, query: &RecordingQuery) -> Result<Vec<Recording>, ClientError> {
        self.read(&with_query(format!("/orgs/{org}/recordings"), query)?).await
    }

    /// One recording.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn recording(&self, org: &OrgId, id: AuditId) -> Result<Recording, ClientError> {
        self.read(&format!("/orgs/{org}/recordings/{id}")).await
    }

    /// What is there of a recording as asciicast v3; with `follow` also what comes, until it ends.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn cast(&self, org: &OrgId, id: AuditId, follow: bool) -> Result<CastStream, ClientError> {
        let what = if follow { "watch" } else { "cast" };
        let path = format!("/orgs/{org}/recordings/{id}/{what}");
        let (_, body) = within(self.limit, self.send(Method::GET, &path, None)).await?.into_parts();
        Ok(CastStream { body })
    }
}

/// A recording as it comes in.
#[derive(Debug)]
pub struct CastStream {
    body: Incoming,
}

impl CastStream {
    /// The next bytes; `None` at the end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// The connection broke; nothing follows.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(ClientError::Http)?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}
