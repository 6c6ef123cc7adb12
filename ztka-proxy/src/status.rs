//! Refusals of the tunnel as Kubernetes' clients know them.

use http::{Response, StatusCode};
use ztka_core::{Body, Reason, Status};
use ztka_tunnel::{Problem, Refusals};

/// The tunnel's own answers as `Status` objects, for [`ztka_tunnel::Settings::refusals`].
pub fn refusals() -> Refusals {
    Refusals::new(status)
}

fn status(problem: Problem) -> Response<Body> {
    let status = Status::new(problem.status(), problem.detail());
    problem.seconds().into_iter().fold(status, Status::retry_after).into_response()
}

/// What another proxy is told of evidence that is refused.
pub(crate) fn problem(reason: &Reason) -> Problem {
    let status = Status::from(reason);
    let problem = Problem::new(status.code(), status.message().to_owned());
    match status.code() {
        StatusCode::SERVICE_UNAVAILABLE => problem.retry_after(5),
        _ => problem,
    }
}
