//! `ztka-controller`: see [`ztka_controller_server::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Enrolment, users, policy, signed documents, audit store; never on the way of a request";
    ztka_runtime::main("ztka-controller", about, ztka_controller_server::run)
}
