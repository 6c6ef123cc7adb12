//! `ztka-proxy`: see [`ztka_proxy_server::run`] for what happens to a request.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Terminates users' mTLS and sends what is permitted into the clusters' tunnels";
    ztka_runtime::main("ztka-proxy", about, ztka_proxy_server::run)
}
