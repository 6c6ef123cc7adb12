//! The end of what is open without end, when its server stops.

use std::{error::Error, io};

use http::StatusCode;

use crate::Status;

/// The error by which a watch, a followed log or an upgraded connection ends whose server stops after the grace that it
/// gives.
///
/// Nothing is wrong with what was sent so far, and nothing is missing that had an end: the outermost service ends the answer
/// cleanly, and a client goes on elsewhere. What has an end of its own never ends by this.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} stops; connect again")]
pub struct Farewell(&'static str);

impl Farewell {
    /// Of `server`, as in `the proxy`.
    pub fn of(server: &'static str) -> Self {
        Self(server)
    }

    /// What is answered where no answer has begun. Clients repeat by themselves what tells them when: no change, of which
    /// nobody knows whether it was made.
    pub fn status(self, mutating: bool) -> Status {
        if !mutating {
            let text = format!("{} stops; try again", self.0);
            return Status::new(StatusCode::SERVICE_UNAVAILABLE, text).retry_after(1);
        }
        let text = format!(
            "{} stopped before the answer came; the change may or may not have been made, look before you repeat it",
            self.0
        );
        Status::new(StatusCode::BAD_GATEWAY, text)
    }

    /// Whether `error` is one, as of a body or as of a connection (an [`io::Error`] around it).
    pub fn is(error: &(dyn Error + 'static)) -> bool {
        let within = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        error.is::<Self>() || within.is_some_and(|within| within.is::<Self>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BoxError;

    #[test]
    fn is_known_as_an_error_of_a_body_and_of_a_connection() {
        let farewell = || Farewell::of("the proxy");
        let body: BoxError = farewell().into();
        assert!(Farewell::is(&*body));
        assert!(Farewell::is(&io::Error::new(io::ErrorKind::ConnectionAborted, farewell())));
        assert!(Farewell::is(&io::Error::new(io::ErrorKind::ConnectionAborted, body)));
        assert!(!Farewell::is(&io::Error::from(io::ErrorKind::ConnectionAborted)));
        assert_eq!(farewell().to_string(), "the proxy stops; connect again");
    }
}
