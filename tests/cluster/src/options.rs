//! What a cluster is to be started with.

use std::path::PathBuf;

/// How a cluster is started. The default is a control plane without nodes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub(crate) nodes: u16,
    pub(crate) without_controllers: bool,
    pub(crate) apiserver_args: Vec<String>,
    pub(crate) audit_policy: Option<String>,
    pub(crate) images: Vec<crate::Image>,
    pub(crate) logs: Option<PathBuf>,
}

impl Options {
    /// Level 1: adds `count` simulated nodes `node-0`, `node-1`, … and a scheduler; pods on them become Ready at once.
    #[must_use]
    pub fn nodes(mut self, count: u16) -> Self {
        self.nodes = count;
        self
    }

    /// Level 1: leaves the controller manager out. Saves a second; ServiceAccounts are then not made for namespaces.
    #[must_use]
    pub fn without_controllers(mut self) -> Self {
        self.without_controllers = true;
        self
    }

    /// Passes one more flag to kube-apiserver, such as `--max-requests-inflight=10`.
    #[must_use]
    pub fn apiserver_arg(mut self, arg: impl Into<String>) -> Self {
        self.apiserver_args.push(arg.into());
        self
    }

    /// Replaces the apiserver's audit policy (YAML of `audit.k8s.io/v1`); the default records every request as Metadata.
    #[must_use]
    pub fn audit_policy(mut self, yaml: impl Into<String>) -> Self {
        self.audit_policy = Some(yaml.into());
        self
    }

    /// Level 2: imports an image into the node besides [`crate::BUSYBOX`].
    #[must_use]
    pub fn image(mut self, image: crate::Image) -> Self {
        self.images.push(image);
        self
    }

    /// Copies the logs of every process into this folder when the cluster ends.
    #[must_use]
    pub fn keep_logs(mut self, folder: impl Into<PathBuf>) -> Self {
        self.logs = Some(folder.into());
        self
    }
}
