//! Verifies an export: every line against one that was verified before it, down from the signed head.

use std::{collections::BTreeMap, io::BufRead, ops::Range};

use ztka_core::{BoxError, OrgId};

use super::{
    FORMAT, Fault, Header, NotAnExport, TileLine,
    line::{Line, audit_id, covering, next, read},
    ranges::{self, joined, push, take},
    write::covers,
};
use crate::{
    Hash,
    log::{Salt, SignedHead, TILE_WIDTH, TileId, Tiles, TreeHead, edge, leaf_hash, tile::nodes_at, tree::perfect},
};

/// Faults that are told one by one; more are counted.
const MOST: usize = 1000;
const WIDTH: u64 = TILE_WIDTH as u64;

/// What an export has shown.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Report {
    /// The verified head.
    pub head: TreeHead,
    /// The leaves that the file is said to have.
    pub leaves: Range<u64>,
    /// Events that are the ones that were logged.
    pub events: u64,
    /// Events that are gone by retention or shredding, as an event in this file says.
    pub covered: u64,
    /// Earlier heads that this one continues.
    pub earlier: usize,
    /// What is wrong, in the order in which it was found: at most a thousand.
    pub faults: Vec<Fault>,
    /// How many there are in all.
    pub found: u64,
}

impl Report {
    /// Whether everything is as it was logged.
    pub fn is_sound(&self) -> bool {
        self.found == 0
    }
}

/// Verifies an export of which `believed` believes the head: it checks its signature by a key that the reader knows, and
/// returns what is said. `earlier` are heads that were seen before, of which it believes the signature as well.
///
/// One pass over the lines, in memory that does not grow with them.
///
/// # Errors
/// [`NotAnExport`] where nothing can be said; what is wrong with the log itself is in the [`Report`].
pub fn verify(
    mut input: impl BufRead,
    believed: impl Fn(&SignedHead) -> Result<TreeHead, BoxError>,
    earlier: &[SignedHead],
) -> Result<Report, NotAnExport> {
    let mut line = Vec::new();
    if !next(&mut input, &mut line, 1)? {
        return Err(NotAnExport::Header);
    }
    let header: Header = serde_json::from_slice(&line).map_err(|_| NotAnExport::Header)?;
    let mut verifier = Verifier::begin(header, believed, earlier)?;
    let mut number = 1;
    while verifier.goes_on() {
        number += 1;
        if !next(&mut input, &mut line, number)? {
            break;
        }
        verifier.line(&line).ok_or(NotAnExport::Line { line: number })?;
    }
    verifier.end()
}

struct Verifier {
    org: OrgId,
    head: TreeHead,
    leaves: Range<u64>,
    /// The leaf that has to come next.
    next: u64,
    /// Hashes that were verified: the edge, and of each level the tile that was last.
    edge: Vec<Vec<Hash>>,
    open: Vec<Option<(u64, Vec<Hash>)>>,
    /// Leaves of hashes that lead nowhere, told once.
    doubted: Option<u64>,
    /// Leaves that have not come in their place.
    missing: Vec<Range<u64>>,
    gone: Vec<Range<u64>>,
    covering: Vec<Range<u64>>,
    /// Earlier heads by their size, and how many of them were found to be continued.
    earlier: BTreeMap<u64, Vec<TreeHead>>,
    continued: usize,
    events: u64,
    faults: Vec<Fault>,
    found: u64,
}

impl Verifier {
    fn begin(
        header: Header,
        believed: impl Fn(&SignedHead) -> Result<TreeHead, BoxError>,
        earlier: &[SignedHead],
    ) -> Result<Self, NotAnExport> {
        let Header { format, org, from, to, head, edge: at_edge } = header;
        let head = believed(&head).map_err(|source| NotAnExport::Head { of: "the export", source })?;
        let fits = format == FORMAT && head.org == org && from <= to && to <= head.size;
        let levels = edge(head.size);
        let counts = levels.iter().all(|(id, count)| at_edge.get(usize::from(id.level)).map(Vec::len) == Some(*count));
        let hashes: usize = at_edge.iter().map(Vec::len).sum();
        if !fits || !counts || hashes != levels.iter().map(|(_, count)| *count).sum::<usize>() || at_edge.len() > 64 {
            return Err(NotAnExport::Header);
        }
        let mut known = BTreeMap::<u64, Vec<TreeHead>>::new();
        for signed in earlier {
            let head = believed(signed).map_err(|source| NotAnExport::Head { of: "the earlier head", source })?;
            known.entry(head.size).or_default().push(head);
        }
        let open = vec![None; at_edge.len()];
        let (leaves, next) = (from..to, from);
        let mut this = Self {
            org,
            head,
            leaves,
            next,
            edge: at_edge,
            open,
            doubted: None,
            missing: Vec::new(),
            gone: Vec::new(),
            covering: Vec::new(),
            earlier: BTreeMap::new(),
            continued: 0,
            events: 0,
            faults: Vec::new(),
            found: 0,
        };
        if this.tiles().root(this.head.size) != Some(this.head.root) {
            this.fault(Fault::Root);
        } else {
            this.compare_newest(known)?;
        }
        Ok(this)
    }

    /// Without a root that is signed there is nothing to hold anything against.
    fn goes_on(&self) -> bool {
        self.faults.first() != Some(&Fault::Root)
    }

    fn fault(&mut self, fault: Fault) {
        self.found += 1;
        if self.faults.len() < MOST {
            self.faults.push(fault);
        }
    }

    /// Everything that is verified at this moment, as tiles of the tree.
    fn tiles(&self) -> Tiles {
        let at_edge = edge(self.head.size).into_iter();
        let at_edge = at_edge.filter_map(|(id, _)| Some((id, self.edge.get(usize::from(id.level))?.clone())));
        let open = self.open.iter().enumerate().filter_map(|(level, open)| {
            let (index, hashes) = open.clone()?;
            Some((TileId { level: u8::try_from(level).ok()?, index }, hashes))
        });
        at_edge.chain(open).collect()
    }

    /// Sorts out earlier heads, and decides on those that need no leaves.
    fn compare_newest(&mut self, known: BTreeMap<u64, Vec<TreeHead>>) -> Result<(), NotAnExport> {
        for (size, heads) in known {
            for earlier in heads {
                if earlier.org != self.org {
                    return Err(NotAnExport::OtherOrg(earlier.org));
                }
                if size > self.head.size && earlier.time > self.head.time {
                    return Err(NotAnExport::Newer(earlier.time));
                }
                if size >= self.head.size {
                    self.decide(earlier, |this| Some(this.head.root));
                } else if size == 0 {
                    self.continued += 1;
                } else {
                    self.earlier.entry(size).or_default().push(earlier);
                }
            }
        }
        // Those of the right edge need nothing but the edge.
        self.compare(nodes_at(1, self.head.size) * WIDTH..=self.head.size);
        Ok(())
    }

    /// Decides on earlier heads of these sizes, whose roots are made of what is verified now.
    fn compare(&mut self, sizes: std::ops::RangeInclusive<u64>) {
        while let Some(size) = self.earlier.range(sizes.clone()).next().map(|(size, _)| *size) {
            let heads = self.earlier.remove(&size).unwrap_or_default();
            let tiles = self.tiles();
            let Some(root) = tiles.root(size) else {
                self.earlier.insert(size, heads);
                return;
            };
            for earlier in heads {
                self.decide(earlier, |_| Some(root));
            }
        }
    }

    fn decide(&mut self, earlier: TreeHead, root: impl Fn(&Self) -> Option<Hash>) {
        if earlier.size <= self.head.size && root(self) == Some(earlier.root) {
            self.continued += 1;
        } else {
            self.fault(Fault::Forked { earlier: Box::new(earlier), head: Box::new(self.head.clone()) });
        }
    }

    /// The verified hash of a node at a level of tiles.
    fn known(&self, level: usize, node: u64) -> Option<&Hash> {
        let (tile, place) = (node / WIDTH, usize::try_from(node % WIDTH).ok()?);
        let nodes = nodes_at(u8::try_from(level).ok()?, self.head.size);
        if tile == nodes / WIDTH {
            return self.edge.get(level)?.get(place);
        }
        let (index, hashes) = self.open.get(level)?.as_ref()?;
        if *index == tile { hashes.get(place) } else { None }
    }

    fn line(&mut self, line: &[u8]) -> Option<()> {
        match read(line)? {
            Line::Tile(tile) => self.tile(tile),
            Line::Gone { leaf } => {
                if self.arrives(leaf, None) {
                    push(&mut self.gone, leaf..leaf + 1);
                }
                Some(())
            }
            Line::Event { leaf, salt, entry } => {
                if self.arrives(leaf, Some(entry)) {
                    self.judge(leaf, &salt, entry);
                }
                Some(())
            }
        }
    }

    fn tile(&mut self, TileLine { tile, hashes }: TileLine) -> Option<()> {
        let (level, id) = (usize::from(tile.level), TileId { level: tile.level, index: tile.index });
        if hashes.len() != TILE_WIDTH || tile.index >= nodes_at(tile.level, self.head.size) / WIDTH {
            return None;
        }
        let leaves = covers(id);
        // What lies before it has not come any more in its place.
        let begin = leaves.start.clamp(self.next, self.leaves.end);
        self.skip_to(begin);
        let verified = self.known(level + 1, tile.index).is_some_and(|known| perfect(&hashes) == Some(*known));
        if verified {
            *self.open.get_mut(level)? = Some((tile.index, hashes));
            if level == 0 {
                self.compare(leaves.start..=leaves.end);
            }
        } else {
            *self.open.get_mut(level)? = None;
            let last = leaves.end.min(self.leaves.end).saturating_sub(1);
            let first = leaves.start.max(self.leaves.start);
            // One that stands behind the leaves that it is of is not worth a word of its own.
            if first <= last && self.doubted.is_none_or(|doubted| doubted < first) {
                self.fault(Fault::Hashes { first, last });
                self.doubted = Some(last);
            }
        }
        Some(())
    }

    fn skip_to(&mut self, leaf: u64) {
        if leaf > self.next {
            push(&mut self.missing, self.next..leaf);
            self.next = leaf;
        }
    }

    /// Whether a leaf is one to be looked at; finds out what is missing before it, and what comes too late.
    fn arrives(&mut self, leaf: u64, entry: Option<&[u8]>) -> bool {
        if leaf >= self.leaves.end || leaf < self.leaves.start {
            self.fault(Fault::Invented { leaf, audit_id: entry.and_then(audit_id) });
            return false;
        }
        if leaf >= self.next {
            self.skip_to(leaf);
            self.next = leaf + 1;
            return true;
        }
        let audit_id = entry.and_then(audit_id);
        if take(&mut self.missing, leaf) {
            let place = self.next.saturating_sub(1);
            self.fault(Fault::Moved { leaf, place, audit_id });
        } else {
            self.fault(Fault::Invented { leaf, audit_id });
        }
        false
    }

    fn judge(&mut self, leaf: u64, salt: &Salt, entry: &[u8]) {
        let hash = leaf_hash(salt, entry);
        match self.known(0, leaf) {
            Some(known) if *known == hash => {
                self.events += 1;
                if let Some(covered) = covering(entry)
                    && self.covering.len() < ranges::MOST
                {
                    self.covering.push(covered);
                }
            }
            Some(_) => {
                let audit_id = audit_id(entry);
                let tile = leaf / WIDTH * WIDTH;
                // Of those beside it: an event that was put elsewhere, with the number of its new place.
                let logged = (tile..tile + WIDTH).find(|other| self.known(0, *other) == Some(&hash));
                self.fault(match logged {
                    Some(logged) => Fault::Moved { leaf: logged, place: leaf, audit_id },
                    None => Fault::Changed { leaf, audit_id },
                });
            }
            None if self.doubted.is_some_and(|doubted| leaf <= doubted) => {}
            None => {
                let last = (leaf / WIDTH * WIDTH + WIDTH).min(self.leaves.end) - 1;
                self.fault(Fault::Hashes { first: leaf, last });
                self.doubted = Some(last);
            }
        }
    }

    fn end(mut self) -> Result<Report, NotAnExport> {
        let mut covered = 0;
        if self.goes_on() {
            self.skip_to(self.leaves.end);
            for Range { start, end } in std::mem::take(&mut self.missing) {
                self.fault(Fault::Removed { first: start, last: end - 1 });
            }
            let covering = joined(std::mem::take(&mut self.covering));
            for gone in joined(std::mem::take(&mut self.gone)) {
                let mut at = gone.start;
                for cover in covering.iter().filter(|cover| cover.start < gone.end && gone.start < cover.end) {
                    if at < cover.start {
                        self.fault(Fault::Uncovered { first: at, last: cover.start - 1 });
                    }
                    covered += cover.end.min(gone.end) - cover.start.max(at);
                    at = cover.end;
                }
                if at < gone.end {
                    self.fault(Fault::Uncovered { first: at, last: gone.end - 1 });
                }
            }
            // Where something is wrong anyway, that is what is told.
            if let Some(size) = self.earlier.keys().next().filter(|_| self.found == 0) {
                let Range { start: from, end: to } = self.leaves;
                return Err(NotAnExport::NotCompared { size: *size, from, to });
            }
        }
        let Self { head, leaves, events, continued, faults, found, .. } = self;
        Ok(Report { head, leaves, events, covered, earlier: continued, faults, found })
    }
}
