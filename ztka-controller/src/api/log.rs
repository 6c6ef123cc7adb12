//! The transparency log: heads, proofs and exports.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    extract::{Path, RawQuery, State},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use ztka_api::{ConsistencyQuery, ExportQuery, LogProofQuery, TreeHeadQuery};
use ztka_audit::{
    HeadAt,
    log::{ConsistencyProof, EventProof, InclusionProof, Leaf, LogProof, SignedHead, Tiles, TreeHead, export::Export},
};
use ztka_core::{BoxError, OrgId, Verified};
use ztka_pki::Peer;

use super::{
    answer::{Answer, ApiError, Json, query},
    events::stage,
    guard::Administrator,
};
use crate::{Controller, TreeHeadError};

fn no_head() -> ApiError {
    ApiError::not_found("tree head", "of this log")
}

impl From<TreeHeadError> for ApiError {
    fn from(error: TreeHeadError) -> Self {
        match error {
            TreeHeadError::Store(source) => Self::failed(source),
            other => Self::failed(other),
        }
    }
}

/// The head of this size, or the newest.
async fn head_at(controller: &Controller, org: &OrgId, size: Option<u64>) -> Answer<(SignedHead, TreeHead)> {
    let signed = match size {
        Some(size) => controller.0.stores.log.head(org, HeadAt::Size(size)).await.map_err(ApiError::failed)?,
        None => controller.newest_tree_head(org).await?,
    };
    let signed = signed.ok_or_else(no_head)?;
    let head = signed.claimed().map_err(ApiError::failed)?;
    Ok((signed, head))
}

async fn tiles(controller: &Controller, org: &OrgId, ids: BTreeSet<ztka_audit::log::TileId>) -> Answer<Tiles> {
    let ids: Vec<_> = ids.into_iter().collect();
    controller.0.stores.log.tiles(org, &ids).await.map_err(ApiError::failed)
}

pub(super) async fn head(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<SignedHead>> {
    let TreeHeadQuery { size, after } = query(asked.as_deref())?;
    if let Some(after) = after {
        let next = controller.0.stores.log.head(&org, HeadAt::After(after)).await.map_err(ApiError::failed)?;
        return next.map(Json).ok_or_else(no_head);
    }
    Ok(Json(head_at(&controller, &org, size).await?.0))
}

pub(super) async fn proof(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<LogProof>> {
    let asked: LogProofQuery = query(asked.as_deref())?;
    let (signed, head) = head_at(&controller, &org, asked.size).await?;
    let log = &controller.0.stores.log;
    let leaves = match asked.audit_id {
        Some(id) => {
            let stage = asked.stage.as_deref().map(stage).transpose()?;
            log.leaves_of(&org, id, stage).await.map_err(ApiError::failed)?
        }
        None => {
            let leaf = asked.leaf.unwrap_or_else(|| head.size.saturating_sub(1));
            let end = leaf.checked_add(1).ok_or_else(|| ApiError::not_found("leaf", leaf))?;
            log.leaves(&org, leaf..end).await.map_err(ApiError::failed)?
        }
    };
    let mut events = Vec::new();
    for Leaf { index, content } in leaves {
        // What is gone has nothing to be proven, and what is newer than the head no proof yet.
        let Some(content) = content.filter(|_| index < head.size) else { continue };
        let tiles = tiles(&controller, &org, Tiles::needed(&InclusionProof::ranges(index, head.size))).await?;
        let proof = InclusionProof::of(&tiles, index, head.size).ok_or_else(|| broken(&org))?;
        events.push(EventProof { salt: content.salt.to_string(), entry: content.entry, proof });
    }
    if events.is_empty() {
        let name = asked.audit_id.map_or_else(|| "with this number".to_owned(), |id| id.to_string());
        return Err(ApiError::not_found("event in the log", name));
    }
    Ok(Json(LogProof { head: signed, events }))
}

fn broken(org: &OrgId) -> ApiError {
    TreeHeadError::Broken(org.clone()).into()
}

pub(super) async fn consistency(
    State(controller): State<Controller>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Json<ConsistencyProof>> {
    let ConsistencyQuery { first, second } = query(asked.as_deref())?;
    let size = controller.0.stores.log.log_size(&org).await.map_err(ApiError::failed)?;
    let (first, second) = (first.unwrap_or(0), second.unwrap_or(size));
    if first > second || second > size {
        let text =
            format!("the log has {size} leaves; ask for a first size that is not above the second, nor that above it");
        return Err(ApiError::invalid(text));
    }
    let tiles = tiles(&controller, &org, Tiles::needed(&ConsistencyProof::ranges(first, second))).await?;
    ConsistencyProof::of(&tiles, first, second).map(Json).ok_or_else(|| broken(&org))
}

pub(super) async fn export(
    State(controller): State<Controller>,
    axum::Extension(peer): axum::Extension<Verified<Peer>>,
    Path(org): Path<OrgId>,
    RawQuery(asked): RawQuery,
) -> Answer<Response> {
    let ExportQuery { from, to, size } = query(asked.as_deref())?;
    let (signed, head) = head_at(&controller, &org, size).await?;
    let (from, to) = (from.unwrap_or(0), to.unwrap_or(head.size));
    if from > to || to > head.size {
        let text = format!("the log has {} leaves; ask for some of these, from the first on", head.size);
        return Err(ApiError::invalid(text));
    }
    let export = Export::new(signed, from..to).map_err(ApiError::failed)?;
    let reader = Administrator::new(controller.clone(), peer, org);
    let pieces = stream::unfold(Some(Exporting { controller, reader, export }), |exporting| async move {
        let mut exporting = exporting?;
        match exporting.next().await {
            Ok(piece) => piece.map(|piece| (Ok(piece), Some(exporting))),
            // The connection breaks: what has come so far is not taken for the whole.
            Err(error) => {
                tracing::error!(error = &*error, "an export of the transparency log ends early");
                Some((Err(error), None))
            }
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(pieces)).into_response())
}

struct Exporting {
    controller: Controller,
    reader: Administrator,
    export: Export,
}

impl Exporting {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        // A right that was taken away, or a session that ended, ends the export as well.
        if !self.reader.still_is().await {
            return Err("whoever asked for it may not have it any more".into());
        }
        Ok(self.export.next(&*self.controller.0.stores.log).await?)
    }
}
