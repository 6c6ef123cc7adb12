//! Real Kubernetes clusters for tests: started on free ports in seconds, several at once, gone afterwards.
//!
//! | level | what runs | needs |
//! |---|---|---|
//! | [`Cluster::level1`] | etcd, kube-apiserver, kube-controller-manager; with [`Options::nodes`] also kube-scheduler and simulated nodes (kwok) | nothing |
//! | [`Cluster::level2`] | the same with one real node: kubelet, containerd, runc, a CNI bridge | root, Debian's packages of [`PACKAGES`] |
//!
//! Nothing is mocked: the programs are the released ones, found or built by [`binaries`]. A cluster lives in a
//! [`Slot`] that no other cluster on the machine has (ports, folder, addresses, bridge). A small shell process watches
//! each cluster and removes all of it when the cluster is dropped, and also when the test process is killed. With
//! `ZTKA_TEST_KEEP` set, the folder of each cluster (logs, audit log, certificates) stays for reading.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use ztka_test_cluster::{Cluster, Options, wait_for};
//!
//! let cluster = Cluster::level1(Options::default().nodes(1)).await?;
//! let kubectl = cluster.kubectl();
//! kubectl.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {k: v}}").await?;
//! wait_for("the ConfigMap", || async { kubectl.ok(["get", "configmap", "a"]).await }).await?;
//! # Ok(()) }
//! ```

pub mod binaries;
mod certificates;
mod cluster;
mod containerd;
mod control_plane;
mod image;
mod kubectl;
mod kubelet;
mod options;
mod packages;
mod process;
mod simulated;
mod slot;
mod wait;
mod watchdog;

pub use certificates::{Authority, Identity};
pub use cluster::{Cluster, ServiceAccount};
pub use image::{BUSYBOX, Image};
pub use kubectl::{Kubectl, Output, Running};
pub use options::Options;
pub use packages::{PACKAGES, install_packages, is_root, missing_for_level2, missing_judges};
pub use process::tail;
pub use slot::Slot;
pub use wait::{BOUND, wait_for, wait_for_within};
