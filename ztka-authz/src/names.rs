//! Texts of a policy by number, found by a look at one or two cache lines.
//!
//! Up to [`SHORT`] bytes a text is in its slot as it is, and what is asked for is compared with it in two steps; of a longer one
//! a digest is there, and the text itself is compared once that is equal. Slots are chosen by a hash under secret numbers, so
//! that nobody can write down names that meet; a request's own names are never put in.

use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::LazyLock,
};

/// Bytes of a text that fit into a slot.
const SHORT: usize = 16;

/// Other ones in each process.
static SEEDS: LazyLock<Seeds> = LazyLock::new(|| {
    let random = RandomState::new();
    Seeds(random.hash_one(0_u8), random.hash_one(1_u8))
});

#[derive(Clone, Copy, Debug)]
struct Seeds(u64, u64);

impl Seeds {
    /// Multiplies in 128 bits and folds both halves.
    fn mix(self, a: u64, b: u64) -> u64 {
        let wide = u128::from(a ^ self.0) * u128::from(b ^ self.1);
        (wide as u64) ^ ((wide >> 64) as u64)
    }

    fn digest(self, bytes: &[u8]) -> u64 {
        let (pieces, rest) = bytes.as_chunks::<SHORT>();
        let start = self.mix(bytes.len() as u64, self.0);
        let sum = pieces.iter().fold(start, |sum, piece| {
            let (a, b) = halves(piece);
            self.mix(sum ^ a, b)
        });
        let (a, b) = short(rest);
        self.mix(sum ^ a, b.rotate_left(7))
    }
}

/// The first eight bytes and the last eight of at least as many.
fn halves(bytes: &[u8]) -> (u64, u64) {
    match (bytes.first_chunk(), bytes.last_chunk()) {
        (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
        _ => (0, 0),
    }
}

/// With the length they say everything about a text of up to [`SHORT`] bytes.
fn short(bytes: &[u8]) -> (u64, u64) {
    if bytes.len() >= 8 {
        return halves(bytes);
    }
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return (u64::from(u32::from_le_bytes(*first)), u64::from(u32::from_le_bytes(*last)));
    }
    match *bytes {
        [] => (0, 0),
        [one] => (u64::from(one), 0),
        [first, .., last] => (u64::from(first) | u64::from(last) << 8, bytes.get(1).copied().map_or(0, u64::from)),
    }
}

/// A text as it is in its slot.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Name {
    a: u64,
    b: u64,
    /// One more than there are bytes; zero is an empty slot.
    length: u32,
    pub(crate) number: u32,
}

impl Name {
    #[inline]
    fn of(seeds: Seeds, text: &str) -> Self {
        let bytes = text.as_bytes();
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1) + 1;
        let (a, b) = if bytes.len() <= SHORT { short(bytes) } else { (seeds.digest(bytes), 0) };
        Self { a, b, length, number: 0 }
    }

    fn is_short(&self) -> bool {
        self.length as usize <= SHORT + 1
    }

    #[inline]
    fn hash(&self, seeds: Seeds) -> u64 {
        match self.is_short() {
            true => seeds.mix(self.a, self.b ^ u64::from(self.length) << 59),
            false => self.a,
        }
    }
}

/// What a table has for each text: at least its number.
pub(crate) trait Slot: Copy + Default {
    fn name(&self) -> &Name;
    fn name_mut(&mut self) -> &mut Name;
}

impl Slot for Name {
    fn name(&self) -> &Name {
        self
    }

    fn name_mut(&mut self) -> &mut Name {
        self
    }
}

/// Texts by number. The texts themselves are kept by whoever asks, who shows them by number.
#[derive(Clone, Debug)]
pub(crate) struct Names<S = Name> {
    slots: Vec<S>,
    taken: usize,
    seeds: Seeds,
}

impl<S> Default for Names<S> {
    fn default() -> Self {
        Self { slots: Vec::new(), taken: 0, seeds: *SEEDS }
    }
}

impl<S: Slot> Names<S> {
    /// The slot of a text that is there; `text` shows the text of a number.
    #[inline]
    pub(crate) fn find<'t>(&self, asked: &str, text: impl Fn(u32) -> &'t str) -> Option<&S> {
        let key = Name::of(self.seeds, asked);
        // From where it would be to the next empty slot, over the end if need be.
        let from = first(key.hash(self.seeds), self.slots.len());
        let (before, after) = self.slots.split_at_checked(from)?;
        for slot in after.iter().chain(before) {
            let name = slot.name();
            if name.length == 0 {
                return None;
            }
            if (name.a, name.b, name.length) == (key.a, key.b, key.length)
                && (key.is_short() || text(name.number) == asked)
            {
                return Some(slot);
            }
        }
        None
    }

    /// The same, to change what is kept of it.
    pub(crate) fn find_mut<'t>(&mut self, asked: &str, text: impl Fn(u32) -> &'t str) -> Option<&mut S> {
        let key = Name::of(self.seeds, asked);
        let from = first(key.hash(self.seeds), self.slots.len());
        let (before, after) = self.slots.split_at_mut_checked(from)?;
        let mut taken = after.iter_mut().chain(before).take_while(|slot| slot.name().length > 0);
        taken.find(|slot| {
            let name = slot.name();
            (name.a, name.b, name.length) == (key.a, key.b, key.length)
                && (key.is_short() || text(name.number) == asked)
        })
    }

    /// Puts in a text that is not there yet, by this number.
    pub(crate) fn insert(&mut self, text: &str, number: u32) {
        // A third is left empty, so that searches end soon.
        if (self.taken + 1) * 3 > self.slots.len() * 2 {
            let more = vec![S::default(); (self.slots.len() * 2).max(8)];
            let before = mem::replace(&mut self.slots, more);
            before.into_iter().filter(|slot| slot.name().length > 0).for_each(|slot| self.put(slot));
        }
        let mut slot = S::default();
        *slot.name_mut() = Name { number, ..Name::of(self.seeds, text) };
        self.put(slot);
        self.taken += 1;
    }

    fn put(&mut self, slot: S) {
        let from = first(slot.name().hash(self.seeds), self.slots.len());
        let (before, after) = self.slots.split_at_mut(from);
        let mut free = after.iter_mut().chain(before).filter(|slot| slot.name().length == 0);
        if let Some(free) = free.next() {
            *free = slot;
        }
    }
}

/// Where to look first among so many.
#[inline]
pub(crate) fn first(hash: u64, of: usize) -> usize {
    ((u128::from(hash) * of as u128) >> 64) as usize
}

/// Numbers scattered under the secrets of the process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scatter(Seeds);

impl Default for Scatter {
    fn default() -> Self {
        Self(*SEEDS)
    }
}

impl Scatter {
    /// A hash of both.
    #[inline]
    pub(crate) fn hash(self, a: u32, b: u32) -> u64 {
        let both = u64::from(a) << 32 | u64::from(b);
        self.0.mix(both, both.rotate_left(32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_as_they_are_and_no_others() {
        // Of every length around the borders, alike but for one byte.
        let mut texts: Vec<String> = vec![String::new()];
        for length in 1..70 {
            for at in 0..length {
                let letters = (0..length).map(|n| if n == at { 'b' } else { 'a' });
                texts.push(letters.collect());
            }
        }
        let mut names: Names = Names::default();
        let text = |number: u32| texts[number as usize].as_str();
        for (number, one) in (0..).zip(&texts) {
            assert!(names.find(one, text).is_none(), "{one}");
            names.insert(one, number);
        }
        for (number, one) in (0..).zip(&texts) {
            assert_eq!(names.find(one, text).map(|name| name.number), Some(number), "{one}");
            assert_eq!(names.find_mut(one, text).map(|name| name.number), Some(number), "{one}");
            for other in [format!("{one}\0"), format!("{one}c"), one.replace('b', "c").replace('a', "d")] {
                assert!(texts.contains(&other) || names.find(&other, text).is_none(), "{other}");
            }
        }
    }

    #[test]
    fn long_texts_that_have_the_same_digest_are_told_apart() {
        let texts = ["a-name-of-more-than-sixteen-bytes", "another-name-that-is-as-long-here"];
        let mut names: Names = Names::default();
        names.insert(texts[0], 0);
        // As if both met: what is kept under the digest is another text.
        assert!(names.find(texts[0], |_| texts[1]).is_none());
        assert!(names.find(texts[0], |number| texts[number as usize]).is_some());
    }
}
