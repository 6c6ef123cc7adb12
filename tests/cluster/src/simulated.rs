//! Simulated nodes (kwok): their pods are Ready at once; exec, attach, logs and port-forward act on this machine.

use std::{fs, path::Path};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    Slot,
    binaries::{self, Program},
    control_plane::ControlPlane,
    process::Process,
};

/// What `kubectl logs` prints for every pod, in the form of the container runtime interface.
const LOG: &str = "2026-01-01T00:00:00.000000000Z stdout F first line\n\
                   2026-01-01T00:00:01.000000000Z stdout F second line\n";

/// Starts kwok for all nodes of the cluster.
pub(crate) async fn start(slot: &Slot, plane: &ControlPlane) -> Result<Process> {
    let folder = slot.folder();
    let log = folder.join("pod.cri");
    fs::write(&log, LOG)?;
    let config = folder.join("kwok.yaml");
    fs::write(&config, stages() + &streams(&log))?;
    let server = plane.authority.server("kwok", &["127.0.0.1".to_owned()])?;
    let port = slot.kit_port(7);
    let args = [
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", plane.kubeconfig.display()),
        "--manage-all-nodes".to_owned(),
        "--node-ip=127.0.0.1".to_owned(),
        format!("--node-port={port}"),
        format!("--server-address=127.0.0.1:{port}"),
        format!("--tls-cert-file={}", server.certificate_path.display()),
        format!("--tls-private-key-file={}", server.key_path.display()),
        "--node-lease-duration-seconds=40".to_owned(),
    ];
    Process::start(folder, "kwok", &binaries::find_one(Program::Kwok).await?, args)
}

/// The Node objects `node-0` … as a List.
pub(crate) fn nodes(count: u16) -> String {
    let items: Vec<Value> = (0..count)
        .map(|n| {
            let name = format!("node-{n}");
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": { "name": name, "labels": { "kubernetes.io/hostname": name, "type": "simulated" } },
            })
        })
        .collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string()
}

/// The life of nodes and pods, as kwok's Stage objects.
fn stages() -> String {
    let ready = "'.status.conditions.[] | select( .type == \"Ready\" ) | .status'";
    let stage = |name: &str, kind: &str, selector: &[(&str, &str, &str)], next: &str| {
        let mut text = format!(
            "---\napiVersion: kwok.x-k8s.io/v1alpha1\nkind: Stage\nmetadata: {{name: {name}}}\nspec:\n  \
             resourceRef: {{apiGroup: v1, kind: {kind}}}\n  selector:\n    matchExpressions:\n"
        );
        for (key, operator, values) in selector {
            text += &format!("    - key: {key}\n      operator: {operator}\n");
            if !values.is_empty() {
                text += &format!("      values: {values}\n");
            }
        }
        text + "  next:\n" + next
    };
    let alive = ("'.metadata.deletionTimestamp'", "DoesNotExist", "");
    stage("node-initialize", "Node", &[(ready, "NotIn", "['True']")], NODE)
        + &stage("pod-ready", "Pod", &[alive, ("'.status.phase'", "In", "['Pending']")], POD_READY)
        + &stage(
            "pod-complete",
            "Pod",
            &[
                alive,
                ("'.status.phase'", "In", "['Running']"),
                ("'.metadata.ownerReferences.[].kind'", "In", "['Job']"),
            ],
            POD_COMPLETE,
        )
        + &stage(
            "pod-delete",
            "Pod",
            &[("'.metadata.deletionTimestamp'", "Exists", "")],
            "    finalizers: {empty: true}\n    delete: true\n",
        )
}

/// Where exec, attach, logs and port-forward of every pod lead.
fn streams(log: &Path) -> String {
    let object = |kind: &str, spec: Value| {
        let object = json!({
            "apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": { "name": "all" }, "spec": spec,
        });
        format!("---\n{object}\n")
    };
    object("ClusterExec", json!({ "execs": [{ "local": {} }] }))
        + &object("ClusterLogs", json!({ "logs": [{ "logsFile": log, "follow": true }] }))
        + &object("ClusterAttach", json!({ "attaches": [{ "logsFile": log }] }))
        + &object("ClusterPortForward", json!({ "forwards": [{ "command": ["cat"] }] }))
}

const NODE: &str = r"    statusTemplate: |
      {{ $now := Now }}
      conditions:
      {{ range NodeConditions }}
      - type: {{ .type | Quote }}
        status: {{ .status | Quote }}
        reason: {{ .reason | Quote }}
        message: {{ .message | Quote }}
        lastHeartbeatTime: {{ $now | Quote }}
        lastTransitionTime: {{ $now | Quote }}
      {{ end }}
      addresses:
      - {type: InternalIP, address: {{ NodeIP | Quote }}}
      - {type: Hostname, address: {{ NodeName | Quote }}}
      daemonEndpoints: {kubeletEndpoint: {Port: {{ NodePort }}}}
      allocatable: {cpu: 64, memory: 256Gi, pods: 10k}
      capacity: {cpu: 64, memory: 256Gi, pods: 10k}
      phase: Running
";

const POD_READY: &str = r#"    statusTemplate: |
      {{ $now := Now }}
      phase: Running
      startTime: {{ $now | Quote }}
      hostIP: {{ NodeIPWith .spec.nodeName | Quote }}
      podIP: {{ PodIPWith .spec.nodeName ( or .spec.hostNetwork false ) ( or .metadata.uid "" ) ( or .metadata.name "" ) ( or .metadata.namespace "" ) | Quote }}
      conditions:
      {{ range $type := list "PodScheduled" "Initialized" "ContainersReady" "Ready" }}
      - {type: {{ $type }}, status: "True", lastTransitionTime: {{ $now | Quote }}}
      {{ end }}
      containerStatuses:
      {{ range .spec.containers }}
      - name: {{ .name | Quote }}
        image: {{ .image | Quote }}
        ready: true
        started: true
        restartCount: 0
        state: {running: {startedAt: {{ $now | Quote }}}}
      {{ end }}
"#;

const POD_COMPLETE: &str = r"    statusTemplate: |
      {{ $now := Now }}
      phase: Succeeded
      containerStatuses:
      {{ range .spec.containers }}
      - name: {{ .name | Quote }}
        image: {{ .image | Quote }}
        ready: false
        started: false
        restartCount: 0
        state: {terminated: {exitCode: 0, reason: Completed, startedAt: {{ $now | Quote }}, finishedAt: {{ $now | Quote }}}}
      {{ end }}
";
