//! `ztka-agent`: see [`ztka_agent_server::run`] for what happens to a request.

use std::process::ExitCode;

fn main() -> ExitCode {
    let about = "Dials the proxies and forwards to its apiserver what it finds permitted itself";
    ztka_runtime::main("ztka-agent", about, ztka_agent_server::run)
}
