//! kubectl's commands answer through the installation as they do straight from the apiserver.

use anyhow::{Result, ensure};
use serde_json::json;
use ztka_e2e::{Both, DIRECT, THROUGH};
use ztka_test_cluster::{Kubectl, Options, binaries::Program, wait_for};

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "web:1", ports: [{containerPort: 80}]}
"#;

const CRD: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {sails: {type: integer, description: "How many sails it has."}}}
    additionalPrinterColumns:
    - {name: Sails, type: integer, jsonPath: .spec.sails}
"#;

/// Waits until nothing in the namespace changes any more, so that two reads can be compared.
async fn settled(both: &Both, namespace: &str, replicas: usize) -> Result<()> {
    wait_for("the deployment to settle", || async {
        let path = "jsonpath={.items[*].status.phase}";
        let phases = both.direct.ok(["get", "pods", "-n", namespace, "-l", "app=web", "-o", path]).await?;
        let phases: Vec<_> = phases.split_whitespace().collect();
        ensure!(phases == vec!["Running"; replicas], "{phases:?}");
        both.direct.ok(["rollout", "status", "deployment/web", "-n", namespace, "--timeout=20s"]).await
    })
    .await
    .map(drop)
}

#[tokio::test]
async fn reading_is_the_same() -> Result<()> {
    let both = Both::start(Options::default().nodes(2)).await?;
    both.direct.apply(DEPLOYMENT).await?;
    both.direct.ok(["create", "configmap", "plain", "--from-literal=key=value"]).await?;
    both.direct.ok(["expose", "deployment", "web", "--port=80"]).await?;
    settled(&both, "default", 2).await?;

    for words in [
        "get pods",
        "get pods -o wide",
        "get pods -o yaml",
        "get pods -o json",
        "get pods -o name",
        "get pods -A -l app=web --show-labels",
        "get pods --field-selector=status.phase=Running -o name",
        "get pods --sort-by=.metadata.name --no-headers",
        "get deployments,services,configmaps",
        "get deployment web -o custom-columns=NAME:.metadata.name,N:.spec.replicas",
        "get deployment web -o jsonpath={.spec.replicas}",
        "get all",
        "get events -o name --sort-by=.metadata.name",
        "get configmap plain --show-managed-fields -o yaml",
        "get configmap missing",
        "get nonsense",
        "get nodes -o name",
        "get namespaces --chunk-size=1",
        "get --raw /api/v1/namespaces/default/configmaps/plain",
        "get --raw /apis",
        "get --raw /openapi/v3",
        "get --raw /version",
        "get --raw /readyz",
        "describe deployment web",
        "describe pods",
        "describe service web",
        "describe configmap plain",
        "logs deployment/web",
        "rollout history deployment/web",
        "api-resources",
        "api-resources --namespaced=false --verbs=list -o name",
        "api-versions",
        "explain pods.spec.containers",
        "explain deployments --recursive",
        "version",
        "version -o json",
        "auth can-i delete pods",
        "auth can-i * *",
        "wait deployment/web --for=condition=Available --timeout=10s",
        "diff -f /nonexistent",
    ] {
        both.same(words).await?;
    }
    Ok(())
}

#[tokio::test]
async fn changing_is_the_same() -> Result<()> {
    let both = Both::start(Options::default().nodes(1)).await?;
    let own = async |line: &str, input: &str| both.same_in_own(&line.split(' ').collect::<Vec<_>>(), input).await;
    // Outputs with made-up names, files or progress differ from run to run; these only have to succeed.
    let succeeds = async |line: &str, input: &str| {
        for (kubectl, namespace) in [(&both.direct, DIRECT), (&both.through, THROUGH)] {
            let arguments = ["--namespace", namespace].into_iter().chain(line.split(' '));
            let output = kubectl.run_with_input(arguments, input).await?;
            ensure!(output.success(), "{line} in {namespace}: {}", output.stderr);
        }
        anyhow::Ok(())
    };
    both.direct.ok(["create", "namespace", DIRECT]).await?;
    both.through.ok(["create", "namespace", THROUGH]).await?;

    own("create configmap made --from-literal=key=value", "").await?;
    own("create configmap made --from-literal=key=value", "").await?;
    succeeds("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: any-}\n").await?;
    let made = own("get configmaps -o custom-columns=NAME:.metadata.generateName", "").await?;
    assert_eq!(made.lines().filter(|line| *line == "any-").count(), 1, "{made}");
    own("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: UPPER}\n").await?;
    own("create serviceaccount robot", "").await?;
    own("create secret generic key --from-literal=password=x", "").await?;
    own("create role reader --verb=get --resource=pods", "").await?;
    own("create job once --image=web -- true", "").await?;

    own("apply -f -", DEPLOYMENT).await?;
    own("apply -f -", DEPLOYMENT).await?;
    own("apply --server-side -f -", DEPLOYMENT).await?;
    own("apply --server-side --force-conflicts --field-manager=other -f -", DEPLOYMENT).await?;
    let other = DEPLOYMENT.replace("replicas: 2", "replicas: 1");
    own("apply --server-side --field-manager=third -f -", &other).await?; // a conflict
    succeeds("diff -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {key: value}\n").await?;

    settled(&both, DIRECT, 2).await?;
    settled(&both, THROUGH, 2).await?;
    own(r#"patch deployment web --type=strategic -p {"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}"#, "").await?;
    own(r#"patch deployment web --type=merge -p {"metadata":{"annotations":{"by":"merge"}}}"#, "").await?;
    own(r#"patch deployment web --type=json -p [{"op":"add","path":"/metadata/labels/by","value":"json"}]"#, "")
        .await?;
    own(r#"patch deployment web --type=json -p [{"op":"test","path":"/metadata/name","value":"no"}]"#, "").await?;
    own(r#"patch deployment web --subresource=scale --type=merge -p {"spec":{"replicas":3}}"#, "").await?;
    own("label deployment web more=yes", "").await?;
    own("annotate deployment web note=this", "").await?;
    own("set image deployment/web web=web:3", "").await?;
    succeeds("rollout status deployment/web --timeout=30s", "").await?;
    settled(&both, DIRECT, 3).await?;
    settled(&both, THROUGH, 3).await?;
    own("rollout history deployment/web", "").await?;
    own("rollout undo deployment/web", "").await?;
    own("rollout restart deployment/web", "").await?;
    own("rollout pause deployment/web", "").await?;
    own("rollout resume deployment/web", "").await?;
    own("scale deployment web --replicas=1", "").await?;
    own("scale deployment web --current-replicas=7 --replicas=1", "").await?;
    own("autoscale deployment web --min=1 --max=3 --cpu=80%", "").await?;
    own("expose deployment web --port=80 --cluster-ip=None", "").await?;
    own("replace -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: made}\ndata: {key: other}\n").await?;
    settled(&both, DIRECT, 1).await?;
    settled(&both, THROUGH, 1).await?;
    own("wait deployment/web --for=condition=Available --timeout=30s", "").await?;
    for kind in ["deployment/web", "configmap/made", "service/web", "role/reader", "hpa/web"] {
        for form in ["", " -o wide", " -o name"] {
            own(&format!("get {kind}{form}"), "").await?;
        }
    }
    own("get configmap made --show-managed-fields -o json", "").await?;
    own("get deployment web -o jsonpath={.spec.template.spec}", "").await?;
    succeeds("create token robot --duration=10m", "").await?;
    own("delete configmap made --dry-run=server", "").await?;
    own("delete configmap made", "").await?;
    own("delete configmap made --ignore-not-found", "").await?;
    own("delete configmap made", "").await?;
    own("delete deployment web --cascade=foreground", "").await?;
    succeeds("delete configmaps --all", "").await?;
    Ok(())
}

#[tokio::test]
async fn large_lists_custom_resources_and_questions_about_oneself() -> Result<()> {
    let both = Both::start(Options::default()).await?;

    // 2 MB of ConfigMaps, each of a size of its own.
    let items: Vec<_> = (0..20)
        .map(|n| {
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": format!("large-{n}") },
                         "data": { "text": "x".repeat(100_000 + n) } })
        })
        .collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    let created = both.through.run_with_input(["create", "-f", "-"], list.to_string()).await?;
    assert!(created.success(), "{}", created.stderr);
    let json = both.same("get configmaps -o json").await?;
    assert!(json.len() > 2_000_000);
    for words in ["get configmaps", "get configmaps --chunk-size=3 -o yaml", "describe configmaps"] {
        both.same(words).await?;
    }
    let too_large = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "huge" },
                            "data": { "text": "x".repeat(4 << 20) } });
    for kubectl in [&both.direct, &both.through] {
        let output = kubectl.run_with_input(["create", "-f", "-"], too_large.to_string()).await?;
        assert!(output.stderr.contains("too large"), "{}", output.stderr);
    }

    both.through.apply(CRD).await?;
    both.same("wait crd/boats.example.com --for=condition=Established --timeout=20s").await?;
    let boat = "apiVersion: example.com/v1\nkind: Boat\nmetadata: {name: one}\nspec: {sails: 2}\n";
    wait_for("the new kind", || async { both.through.apply(boat).await }).await?;
    wait_for("its description", || async { both.direct.ok(["explain", "boats.spec"]).await }).await?;
    for words in [
        "get boats",
        "get bt one -o yaml",
        "describe boat one",
        "explain boats.spec",
        "api-resources --api-group=example.com",
        r#"patch boat one --type=strategic -p {"spec":{"sails":3}}"#,
    ] {
        both.same(words).await?;
    }
    both.through.ok(["patch", "boat", "one", "--type=merge", "-p", r#"{"spec":{"sails":3}}"#]).await?;
    assert_eq!(both.same("get boat one -o jsonpath={.spec.sails}").await?, "3");
    both.through.ok(["delete", "boat", "one"]).await?;
    both.through.ok(["delete", "crd", "boats.example.com"]).await?;
    both.same("get crd").await?;

    // Who one is: the person, not the account that acts for them.
    let whoami = both.through.ok(["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"]).await?;
    assert_eq!(whoami, "alice");
    for (words, answer) in [
        ("auth can-i create deployments.apps", "yes"),
        ("auth can-i create pods --subresource=exec", "yes"),
        ("auth can-i get /metrics", "yes"),
    ] {
        let said = both.same(words).await?;
        assert_eq!(said.trim(), answer, "{words}");
    }
    let (_, viewer) = both.colleague("victor", "view").await?;
    for (question, answer) in [
        ("get pods", "yes"),
        ("get pods --subresource=log", "yes"),
        ("get secrets", "no"),
        ("create pods", "no"),
        ("create pods --subresource=exec", "no"),
        ("* *", "no"),
    ] {
        let words: Vec<_> = format!("auth can-i {question}").split(' ').map(str::to_owned).collect();
        let output = viewer.run(&words).await?;
        // A no comes with our reason, as kubectl prints it: `no - no role of victor …`.
        assert_eq!(output.stdout.split_whitespace().next(), Some(answer), "{question}: {}", output.stderr);
        assert_eq!(output.success(), answer == "yes");
    }
    let list = viewer.ok(["auth", "can-i", "--list"]).await?;
    assert!(list.contains("configmaps") && !list.contains("secrets"), "{list}");
    Ok(())
}

const TEMPLATE: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}-settings}
data: {colour: {{ .Values.colour }}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec: {containers: [{name: main, image: "main:1"}]}
"#;

#[tokio::test]
async fn helm_installs_upgrades_and_uninstalls() -> Result<()> {
    let both = Both::start(Options::default().nodes(1)).await?;
    let chart = both.fleet.path("chart");
    std::fs::create_dir_all(chart.join("templates"))?;
    std::fs::write(chart.join("Chart.yaml"), "apiVersion: v2\nname: small\nversion: 0.1.0\n")?;
    std::fs::write(chart.join("values.yaml"), "colour: blue\nreplicas: 1\n")?;
    std::fs::write(chart.join("templates/all.yaml"), TEMPLATE)?;
    let chart = chart.display().to_string();

    let helm = Kubectl::of(Program::Helm, &both.alice.kubeconfig).await?.arg("--kube-context=dev");
    let colour = || both.direct.ok(["get", "configmap", "mine-settings", "-o", "jsonpath={.data.colour}"]);
    helm.ok(["install", "mine", &chart, "--wait", "--timeout=40s"]).await?;
    assert_eq!(colour().await?, "blue");
    helm.ok(["upgrade", "mine", &chart, "--set", "colour=green,replicas=2", "--wait", "--timeout=40s"]).await?;
    assert_eq!(colour().await?, "green");
    let listed = helm.ok(["list", "-o", "json"]).await?;
    assert!(listed.contains(r#""revision":"2""#) && listed.contains("deployed"), "{listed}");
    let direct = Kubectl::of(Program::Helm, both.cluster.kubeconfig()).await?;
    assert_eq!(direct.ok(["list", "-o", "json"]).await?, listed);
    helm.ok(["rollback", "mine", "1", "--wait", "--timeout=40s"]).await?;
    assert_eq!(colour().await?, "blue");
    helm.ok(["uninstall", "mine", "--wait", "--timeout=40s"]).await?;
    assert!(both.direct.ok(["get", "deployments,configmaps", "-l", "app=mine", "-o", "name"]).await?.is_empty());
    Ok(())
}
