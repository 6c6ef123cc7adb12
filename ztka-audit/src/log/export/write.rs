//! Writes an export of what a store has, a piece at a time.

use std::{collections::VecDeque, fmt::Write as _, ops::Range};

use bytes::Bytes;
use ztka_core::{BoxError, OrgId};

use super::{FORMAT, Header, TileLine, TilePlace};
use crate::{
    Hash, LogStore,
    log::{Leaf, SignedHead, TILE_BITS, TILE_WIDTH, TileId, TreeHead, edge},
};

/// Leaves that are read and written at once: those of 32 tiles.
const AT_ONCE: u64 = (TILE_WIDTH * TILE_WIDTH) as u64;

/// Why an export cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// The store fails.
    #[error("the log cannot be read")]
    Store(#[source] BoxError),
    /// Its tiles are not those of a tree.
    #[error("the tiles of the log are not whole: tile {index} of level {level} is missing")]
    Tile {
        /// Its level.
        level: u8,
        /// Its place.
        index: u64,
    },
    /// The head is none of this log.
    #[error("the head cannot be read, or is of another organisation or a larger log")]
    Head,
}

/// An export that is being written. It ends with its head: what is logged meanwhile is not in it.
#[derive(Debug)]
pub struct Export {
    org: OrgId,
    size: u64,
    from: u64,
    next: u64,
    to: u64,
    begun: bool,
    head: SignedHead,
}

impl Export {
    /// The leaves `range` of the log that `head` is of; whatever lies behind its end is left out.
    ///
    /// # Errors
    /// [`ExportError::Head`]
    pub fn new(head: SignedHead, range: Range<u64>) -> Result<Self, ExportError> {
        let TreeHead { org, size, .. } = head.claimed().map_err(|_| ExportError::Head)?;
        let to = range.end.min(size);
        let from = range.start.min(to);
        Ok(Self { org, size, from, next: from, to, begun: false, head })
    }

    /// The next lines; none at the end. Whatever was given is whole lines. Cancel safe: the same lines come again.
    ///
    /// # Errors
    /// [`ExportError`]; nothing follows.
    pub async fn next(&mut self, store: &dyn LogStore) -> Result<Option<Bytes>, ExportError> {
        if !self.begun {
            let first = self.header(store).await?;
            self.begun = true;
            return Ok(Some(first));
        }
        if self.next >= self.to {
            return Ok(None);
        }
        let until = (self.next / AT_ONCE + 1).saturating_mul(AT_ONCE).min(self.to);
        let mut out = String::new();
        let mut tiles = self.tiles_of(store, self.next..until).await?;
        let leaves = store.leaves(&self.org, self.next..until).await.map_err(ExportError::Store)?;
        let mut at = self.next;
        let mut lines = leaves.into_iter().peekable();
        while at < until {
            while let Some((id, hashes)) = tiles.pop_front_if(|(id, _)| covers(*id).start <= at) {
                let tile = TilePlace { level: id.level, index: id.index };
                line(&mut out, &TileLine { tile, hashes });
            }
            match lines.next_if(|leaf| leaf.index == at) {
                Some(leaf) => leaf_line(&mut out, &leaf),
                None => leaf_line(&mut out, &Leaf { index: at, content: None }),
            }
            at += 1;
        }
        self.next = until;
        Ok(Some(Bytes::from(out)))
    }

    async fn header(&self, store: &dyn LogStore) -> Result<Bytes, ExportError> {
        let at_edge = edge(self.size);
        let ids: Vec<_> = at_edge.iter().map(|(id, _)| *id).collect();
        let tiles = store.tiles(&self.org, &ids).await.map_err(ExportError::Store)?;
        let levels = at_edge.last().map_or(0, |(id, _)| usize::from(id.level) + 1);
        let mut edge = vec![Vec::new(); levels];
        for (id, count) in at_edge {
            let hashes = tiles.hashes(id).get(..count).ok_or(missing(id))?;
            if let Some(level) = edge.get_mut(usize::from(id.level)) {
                *level = hashes.to_vec();
            }
        }
        let (format, org, head) = (FORMAT.to_owned(), self.org.clone(), self.head.clone());
        let mut out = String::new();
        line(&mut out, &Header { format, org, from: self.next, to: self.to, head, edge });
        Ok(Bytes::from(out))
    }

    /// The whole tiles whose leaves begin in this range, or that its first leaf is in; those above come before those below.
    async fn tiles_of(
        &self,
        store: &dyn LogStore,
        range: Range<u64>,
    ) -> Result<VecDeque<(TileId, Vec<Hash>)>, ExportError> {
        let mut ids = Vec::new();
        let first = range.start == self.from;
        for level in 0..=u8::MAX {
            let bits = TILE_BITS * (u32::from(level) + 1);
            let Some(whole) = self.size.checked_shr(bits).filter(|whole| *whole > 0) else { break };
            // The one that the first leaf is in was written with an earlier piece, unless this is the first.
            let start = if first { range.start >> bits } else { range.start.div_ceil(1 << bits) };
            let end = ((range.end - 1) >> bits) + 1;
            ids.extend((start..end.min(whole)).map(|index| TileId { level, index }));
        }
        ids.sort_by_key(|id| (covers(*id).start.max(range.start), std::cmp::Reverse(id.level)));
        let tiles = store.tiles(&self.org, &ids).await.map_err(ExportError::Store)?;
        let whole = |id: TileId| match tiles.hashes(id) {
            hashes if hashes.len() == TILE_WIDTH => Ok((id, hashes.to_vec())),
            _ => Err(missing(id)),
        };
        ids.into_iter().map(whole).collect()
    }
}

/// The leaves of a tile.
pub(super) fn covers(id: TileId) -> Range<u64> {
    let bits = TILE_BITS * (u32::from(id.level) + 1);
    let start = id.index.checked_shl(bits).unwrap_or(u64::MAX);
    start..start.saturating_add(1_u64.checked_shl(bits).unwrap_or(u64::MAX))
}

fn missing(TileId { level, index }: TileId) -> ExportError {
    ExportError::Tile { level, index }
}

fn line(out: &mut String, what: &impl serde::Serialize) {
    // Texts, numbers and lists always serialise.
    out.push_str(&serde_json::to_string(what).unwrap_or_default());
    out.push('\n');
}

pub(super) fn leaf_line(out: &mut String, leaf: &Leaf) {
    let index = leaf.index;
    // Writing to a String does not fail.
    let _ = match &leaf.content {
        Some(content) => {
            writeln!(out, "{{\"leaf\":{index},\"salt\":\"{}\",\"entry\":{}}}", content.salt, content.entry)
        }
        None => writeln!(out, "{{\"leaf\":{index},\"gone\":true}}"),
    };
}
