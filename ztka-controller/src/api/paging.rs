//! Lists in pages: `limit` and `continue` in the query, and a `Link` to the next page (RFC 8288) in the answer.

use axum::{
    extract::FromRequestParts,
    response::{IntoResponse as _, Response},
};
use http::{HeaderValue, header, request::Parts};
use serde::{Deserialize, Serialize};
use ztka_api::{DEFAULT_PAGE, LARGEST_PAGE};

use super::answer::{ApiError, Json, query};
use crate::store::{Page, Paged};

/// What the token of a page is made of is told apart from other lists' by this.
const END: char = '\0';

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    limit: Option<u32>,
    r#continue: Option<String>,
}

/// The page of a list that the caller asks for.
#[derive(Debug)]
pub(super) struct Paging {
    page: Page,
    /// The path of the list.
    list: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Paging {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let asked: Asked = query(parts.uri.query())?;
        let limit = asked.limit.unwrap_or(DEFAULT_PAGE);
        if !(1..=LARGEST_PAGE).contains(&limit) {
            return Err(ApiError::invalid("limit is between 1 and 1000; ask for less, and go on with the next page"));
        }
        let list = parts.uri.path().to_owned();
        let after = asked.r#continue.map(|token| after(&list, &token)).transpose()?;
        Ok(Self { page: Page { after, limit }, list })
    }
}

impl Paging {
    /// What is asked for.
    pub(super) fn page(&self) -> &Page {
        &self.page
    }

    /// True if this is the beginning of the list.
    pub(super) fn is_first(&self) -> bool {
        self.page.after.is_none()
    }

    /// The part of `all` that is asked for, where only some of a list is for the caller: nothing is said of the rest. The key
    /// of each is unlike any other's.
    pub(super) fn part_of<T>(&self, mut all: Vec<T>, key: impl Fn(&T) -> &str) -> Paged<T> {
        all.sort_by(|one, other| key(one).cmp(key(other)));
        let begin = match &self.page.after {
            Some(after) => all.partition_point(|one| key(one) <= after.as_str()),
            None => 0,
        };
        Paged::of(all.split_off(begin), &self.page, |one| key(one).to_owned())
    }

    /// The answer.
    pub(super) fn answer<T: Serialize>(&self, paged: Paged<T>) -> Response {
        let mut response = Json(paged.items).into_response();
        if let Some(next) = paged.next {
            let (list, limit, token) = (&self.list, self.page.limit, token(&self.list, &next));
            let link = format!("<{list}?limit={limit}&continue={token}>; rel=\"next\"");
            // Ids, digits and what a path has: always a header.
            if let Ok(link) = HeaderValue::try_from(link) {
                response.headers_mut().insert(header::LINK, link);
            }
        }
        response
    }
}

/// Says which list this is of, and where it goes on, in hexadecimal digits.
fn token(list: &str, after: &str) -> String {
    format!("{list}{END}{after}").bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// Where a list goes on by this token, if it is one of the list's.
fn after(list: &str, token: &str) -> Result<String, ApiError> {
    let unreadable = || ApiError::invalid("the continue token is none of ours; begin with the first page");
    let digits = |at: usize| token.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    let bytes: Option<Vec<u8>> = (0..token.len()).step_by(2).map(digits).collect();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(unreadable)?;
    let (of, after) = text.split_once(END).ok_or_else(unreadable)?;
    if of != list {
        return Err(ApiError::invalid("the continue token is of another list; begin with the first page of this one"));
    }
    if after.is_empty() || after.contains(END) {
        return Err(unreadable());
    }
    Ok(after.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_for_its_own_list_only() {
        let token = token("/api/v1/orgs", "acme ä");
        assert_eq!(after("/api/v1/orgs", &token).unwrap(), "acme ä");
        let refused = after("/api/v1/proxies", &token).unwrap_err();
        assert!(refused.problem().to_string().contains("another list"), "{refused:?}");
        let of = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for bad in ["x", "zz", "7", &token[1..], &of("/api/v1/orgs"), &of("/api/v1/orgs\0"), &of("/api/v1/orgs\0a\0b")]
        {
            let refused = after("/api/v1/orgs", bad).unwrap_err();
            assert!(refused.problem().to_string().contains("begin with the first page"), "{bad}: {refused:?}");
        }
        assert!(after("/api/v1/orgs", "ff").is_err(), "not UTF-8");
        assert!(after("/api/v1/orgs", "ä").is_err(), "not even ASCII");
    }
}
