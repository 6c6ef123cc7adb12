//! Lists in pages: each goes on after the last key of the one before, so that nothing is missed or seen twice because
//! something else came or went meanwhile.

/// Which part of a list is asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page {
    /// What comes after the item with this key, in the words of whoever keeps the list; from the beginning if none.
    pub after: Option<String>,
    /// At most so many items.
    pub limit: u32,
}

impl Page {
    /// The first `limit` items.
    pub fn first(limit: u32) -> Self {
        Self { after: None, limit }
    }
}

/// A part of a list.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// What the next page comes after; none if there is none.
    pub next: Option<String>,
}

impl<T> Paged<T> {
    /// The page that begins with these `items`, of which there is one more than asked for if another page follows.
    pub fn of(mut items: Vec<T>, page: &Page, key: impl Fn(&T) -> String) -> Self {
        let limit = usize::try_from(page.limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(key) } else { None };
        Self { items, next }
    }

    /// The same part of a list of something else.
    pub fn map<U>(self, wire: impl FnMut(T) -> U) -> Paged<U> {
        Paged { items: self.items.into_iter().map(wire).collect(), next: self.next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_where_the_next_begins_if_there_is_one() {
        let page = |limit, items: &[u32]| Paged::of(items.to_vec(), &Page::first(limit), u32::to_string);
        assert_eq!(page(2, &[1, 2, 3]), Paged { items: vec![1, 2], next: Some("2".into()) });
        assert_eq!(page(3, &[1, 2, 3]), Paged { items: vec![1, 2, 3], next: None });
        assert_eq!(page(3, &[]), Paged { items: vec![], next: None });
        assert_eq!(page(1, &[1, 2]).map(|item| item + 1), Paged { items: vec![2], next: Some("1".into()) });
    }
}
