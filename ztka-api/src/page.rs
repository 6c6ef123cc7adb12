//! Lists that are answered a page at a time.

use http::{HeaderMap, header};

use crate::PREFIX;

/// Items of a page, if nothing else is asked for.
pub const DEFAULT_PAGE: u32 = 500;
/// Items of a page at most.
pub const LARGEST_PAGE: u32 = 1000;

/// The path of the next page below [`PREFIX`], with its query: the target of the link whose relation is `next`.
pub(crate) fn next(headers: &HeaderMap) -> Option<String> {
    let links = headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.filter_map(|link| link.split_once(';')).find(|(_, relation)| relation.trim() == "rel=\"next\"");
    let target = next?.0.trim().strip_prefix('<')?.strip_suffix('>')?;
    target.strip_prefix(PREFIX).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_a_link_to_a_path_of_the_api() {
        let of = |link: &'static str| next(&HeaderMap::from_iter([(header::LINK, link.parse().unwrap())]));
        let link = "</api/v1/orgs?limit=2&continue=61>; rel=\"next\"";
        assert_eq!(of(link).as_deref(), Some("/orgs?limit=2&continue=61"));
        for other in
            ["</api/v1/orgs>; rel=\"prev\"", "<https://elsewhere.example.com/api/v1/orgs>; rel=\"next\"", "x", ""]
        {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(next(&HeaderMap::new()), None);
    }
}
