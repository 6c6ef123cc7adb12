//! Kubernetes' own answers beside ours, many thousands of them: its authorizer and its audit log.
//!
//! 20,000 of each by default; `cargo xtask test --only e2e --long` asks 100,000 and 1,000,000.

mod attributes;
mod rbac;
