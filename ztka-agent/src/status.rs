//! Refusals of the tunnel as Kubernetes' clients know them.

use http::Response;
use ztka_core::{Body, Status};
use ztka_tunnel::{Problem, Refusals};

/// The tunnel's own answers as `Status` objects, for [`ztka_tunnel::Settings::refusals`].
pub fn refusals() -> Refusals {
    Refusals::new(status)
}

fn status(problem: Problem) -> Response<Body> {
    let status = Status::new(problem.status(), problem.detail());
    problem.seconds().into_iter().fold(status, Status::retry_after).into_response()
}
