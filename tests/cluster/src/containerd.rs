//! containerd of a real node: its configuration, and images brought in without a registry.

use std::{fs, process::Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::process::Command;

use crate::{Image, Slot, image::BUSYBOX};

/// The image that holds a pod's namespaces.
pub(crate) const SANDBOX: &str = "ztka.test/pause:1";

/// Writes containerd's configuration and the CNI network into the cluster's folder.
pub(crate) fn configure(slot: &Slot) -> Result<()> {
    let folder = slot.folder();
    let path = folder.display();
    let config = format!(
        r#"version = 2
root = "{path}/containerd"
state = "{path}/containerd-state"
oom_score = 0
[grpc]
  address = "{path}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{SANDBOX}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{path}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "native"
"#
    );
    fs::write(folder.join("containerd.toml"), config)?;
    // The bridge has its address already, so the plugin need not be gateway (it would switch on IP forwarding).
    let network = json!({
        "cniVersion": "0.4.0",
        "name": slot.name(),
        "plugins": [{
            "type": "bridge",
            "bridge": slot.name(),
            "ipam": {
                "type": "host-local",
                "dataDir": folder.join("addresses"),
                "ranges": [[{ "subnet": slot.pod_cidr(), "gateway": slot.bridge_address() }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::create_dir_all(folder.join("cni"))?;
    Ok(fs::write(folder.join("cni/10-test.conflist"), network.to_string())?)
}

/// Brings in what every node has: the sandbox and [`BUSYBOX`].
pub(crate) async fn import_base(slot: &Slot) -> Result<()> {
    let busybox = Image::busybox()?;
    debug_assert_eq!(busybox.name(), BUSYBOX);
    import(slot, &busybox).await?;
    let pause = Image::new(SANDBOX).file("bin/busybox", "/bin/busybox".as_ref());
    import(slot, &pause.entrypoint(&["/bin/busybox", "sleep", "infinity"])).await
}

/// Brings in one image.
pub(crate) async fn import(slot: &Slot, image: &Image) -> Result<()> {
    let archive = tempfile::NamedTempFile::new_in(slot.folder())?;
    let (source, path) = (image.clone(), archive.path().to_owned());
    tokio::task::spawn_blocking(move || source.write(&path)).await??;
    let output = Command::new("ctr")
        .arg("--address")
        .arg(slot.folder().join("containerd.sock"))
        .args(["--namespace", "k8s.io", "images", "import", "--snapshotter", "native"])
        .arg(archive.path())
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run ctr")?;
    ensure!(
        output.status.success(),
        "containerd refuses the image {}: {}",
        image.name(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
