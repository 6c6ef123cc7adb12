//! The real node: bridge, containerd and kubelet in namespaces of their own.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use crate::{
    Image, Slot,
    binaries::{self, Program},
    containerd,
    control_plane::ControlPlane,
    process::Process,
    wait_for,
};

/// Makes the bridge of the pods, with the host's address on it and the address of the `kubernetes` Service.
pub(crate) fn make_bridge(slot: &Slot) -> Result<()> {
    let (name, gateway) = (slot.name(), format!("{}/24", slot.bridge_address()));
    let service = format!("{}/32", slot.service_address());
    // Left by a machine that lost power; usually there is none.
    let _ = ip(&["link", "delete", &name]);
    ip(&["link", "add", &name, "type", "bridge"])?;
    ip(&["address", "add", &gateway, "dev", &name])?;
    ip(&["address", "add", &service, "dev", &name])?;
    ip(&["link", "set", &name, "up"])
}

/// Starts containerd and kubelet; images are in the node before a pod can be.
pub(crate) async fn start(slot: &Slot, plane: &ControlPlane, images: &[Image]) -> Result<Process> {
    let folder = slot.folder();
    containerd::configure(slot)?;
    let kubelet = binaries::find_one(Program::Kubelet).await?;
    let config = folder.join("kubelet.json");
    fs::write(&config, configuration(slot, plane)?)?;
    let script = folder.join("node.sh");
    fs::write(&script, include_str!("assets/node.sh"))?;
    let mut args: Vec<String> = ["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--", "sh"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    args.extend([
        script.display().to_string(),
        kubelet.display().to_string(),
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", plane.kubeconfig.display()),
        "--hostname-override=node-0".to_owned(),
        format!("--node-ip={}", slot.bridge_address()),
    ]);
    let node = Process::start(folder, "kubelet", Path::new("unshare"), args)?;
    let up = wait_for("containerd", || async {
        ensure!(folder.join("containerd.ready").exists(), "{}", crate::tail(&folder.join("containerd.log"), 10));
        Ok(())
    });
    if let Err(error) = up.await {
        node.check()?;
        return Err(error);
    }
    containerd::import_base(slot).await?;
    for image in images {
        containerd::import(slot, image).await?;
    }
    fs::write(folder.join("kubelet.start"), "")?;
    Ok(node)
}

fn configuration(slot: &Slot, plane: &ControlPlane) -> Result<String> {
    let address = slot.bridge_address();
    let server = plane.authority.server("kubelet", &[address.to_string(), "node-0".to_owned()])?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "port": slot.kit_port(5),
        "healthzPort": slot.kit_port(6),
        "tlsCertFile": server.certificate_path,
        "tlsPrivateKeyFile": server.key_path,
        "authentication": {
            "x509": { "clientCAFile": plane.authority.path() },
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "containerRuntimeEndpoint": format!("unix://{}/containerd.sock", slot.folder().display()),
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": false,
        "enforceNodeAllocatable": [],
        "failCgroupV1": false,
        "failSwapOn": false,
        "localStorageCapacityIsolation": false,
        "evictionHard": {},
        "imageGCHighThresholdPercent": 100,
        "registerNode": true,
        "nodeStatusUpdateFrequency": "2s",
        "syncFrequency": "5s",
        "resolvConf": "",
        "clusterDNS": [],
        "shutdownGracePeriod": "0s",
    });
    Ok(serde_json::to_string_pretty(&config)?)
}

fn ip(args: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(args).output().context("cannot run ip: install iproute2")?;
    if !output.status.success() {
        bail!("ip {} failed: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
