"""Do the manifests agree with each other, with constraints.txt and with raybd? Each check returns what is wrong."""

import json
import re
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import yaml
from mlflow.server.security_utils import is_allowed_host_header

from raybd import __version__
from tests.deploy.manifests import ROOT, Deploy, pinned

NAMESPACE = "raybd"


def versions(deploy: Deploy) -> list[str]:
    tag = re.compile(rf"raybd:{re.escape(__version__)}-ray{re.escape(pinned('ray'))}-(cuda|cpu)")
    ours = [(where, image) for where, image in deploy.images() if image.startswith("raybd:")]
    wrong = [f"{where}: image {image} is not {tag.pattern}" for where, image in ours if not tag.fullmatch(image)]
    loose = [
        f"{where}: {image} is not pinned" for where, image in deploy.images() if not re.search(r":.*\d[.-]\d", image)
    ]
    said = re.search(r"Ray (\S+), MLflow (\S+), PostgreSQL", deploy.text("README.md")).groups()
    differ = [
        f"{where}: rayVersion {spec['rayVersion']}, constraints.txt has {pinned('ray')}"
        for where, spec in deploy.cluster_specs()
        if spec["rayVersion"] != pinned("ray")
    ]
    told = [] if said == (pinned("ray"), pinned("mlflow")) else [f"README.md: says Ray and MLflow {said}"]
    asks = [  # what the manifests name has to come of a build without arguments
        f"{where}: {image} is not what a plain build makes"
        for where, image in ours
        if image.endswith("-cpu") and where not in ("README.md", "Dockerfile")
    ]
    return [*wrong, *loose, *differ, *told, *asks, *_python(deploy)]


def _python(deploy: Deploy) -> list[str]:
    tested = re.search(r"tested with Python (\d+\.\d+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"))[1]
    base = re.search(r"^ARG BASE=python:(\d+\.\d+)\.", deploy.text("Dockerfile"), flags=re.MULTILINE)[1]
    return [] if base == tested else [f"Dockerfile: Python {base}, constraints.txt is tested with {tested}"]


def dockerfile(deploy: Deploy) -> list[str]:
    text = deploy.text("Dockerfile")
    problems = []
    users = re.findall(r"^USER (\S+)", text, flags=re.MULTILINE)
    if not users or users[-1].split(":")[0] in ("0", "root"):
        problems.append("Dockerfile: ends as root")
    if not re.search(r"^HEALTHCHECK .*raybd-health", text, flags=re.MULTILINE):
        problems.append("Dockerfile: no HEALTHCHECK")
    installs = re.findall(r"pip install (.*)", text)
    problems += [f"Dockerfile: not pinned: {line}" for line in installs if "constraints.txt" not in line]
    kept = {line[1:] for line in deploy.text("Dockerfile.dockerignore").splitlines() if line.startswith("!")}
    copied = [
        source for sources in re.findall(r"^COPY (.*) \S+$", text, flags=re.MULTILINE) for source in sources.split()
    ]
    copied = [source for source in copied if not source.startswith("--")]
    # A broken copy of deploy/ stands for the real one, which is what would be copied.
    absent = {name for name in copied if not (ROOT / name).exists()}
    absent |= {name for name in copied if name.startswith("deploy/") and not (deploy.folder.parent / name).exists()}
    return [
        *problems,
        *(f"Dockerfile: copies {name}, which is not there" for name in absent),
        *(f"Dockerfile: copies {name}, which .dockerignore hides" for name in copied if name not in kept),
    ]


def references(deploy: Deploy) -> list[str]:
    """Every Secret, ConfigMap, key, claim and volume that is named is made somewhere: in base.yaml or the runbook."""
    made = _made(deploy)
    claims = {each["metadata"]["name"] for each in deploy.base if each["kind"] == "PersistentVolumeClaim"}
    problems = []
    for where, pod in deploy.pods():
        spec = pod["spec"]
        volumes = {each["name"]: each for each in spec.get("volumes", [])}
        for container in spec["containers"]:
            problems += [
                f"{where}: {kind} {name} has no key {key}" if (kind, name) in made else f"{where}: no {kind} {name}"
                for kind, name, key in _named(container)
                if key not in made.get((kind, name), ())
            ]
            mounts = container.get("volumeMounts", [])
            problems += [f"{where}: no volume {m['name']}" for m in mounts if m["name"] not in volumes]
            problems += [
                f"{where}: ConfigMap {volumes[m['name']]['configMap']['name']} has no key {m['subPath']}"
                for m in mounts
                if "configMap" in volumes.get(m["name"], ())
                and "subPath" in m
                and m["subPath"] not in made.get(("ConfigMap", volumes[m["name"]]["configMap"]["name"]), ())
            ]
        used = {mount["name"] for container in spec["containers"] for mount in container.get("volumeMounts", [])}
        problems += [f"{where}: volume {name} is mounted nowhere" for name in volumes.keys() - used]
        for volume in volumes.values():
            if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in made:
                problems.append(f"{where}: no ConfigMap {volume['configMap']['name']}")
            if "persistentVolumeClaim" in volume and volume["persistentVolumeClaim"]["claimName"] not in claims:
                problems.append(f"{where}: no claim {volume['persistentVolumeClaim']['claimName']}")
    for where, spec in deploy.cluster_specs():
        if "auth_token" not in made.get(("Secret", spec["authOptions"]["secretName"]), ()):
            problems.append(f"{where}: no Secret {spec['authOptions']['secretName']} with key auth_token")
    return [*problems, *_compose_references(deploy)]


def _named(container: dict[str, Any]) -> list[tuple[str, str, str]]:
    sources = [each["valueFrom"] for each in container.get("env", []) if "valueFrom" in each]
    kinds = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
    return [(kinds[kind], ref["name"], ref["key"]) for source in sources for kind, ref in source.items()]


def _made(deploy: Deploy) -> dict[tuple[str, str], set[str]]:
    maps = [each for each in deploy.base if each["kind"] == "ConfigMap"]
    made = {("ConfigMap", each["metadata"]["name"]): set(each["data"]) for each in maps}
    for command in deploy.commands():
        if found := re.match(r"kubectl --namespace raybd create (secret generic|configmap) (\S+)(.*)", command):
            kind = "ConfigMap" if found[1] == "configmap" else "Secret"
            keys = set(re.findall(r"--from-literal=([\w-]+)=", found[3]))
            files = {path.rpartition("/")[2] for path in re.findall(r"--from-file=(\S+)", found[3])}
            made[kind, found[2]] = keys | files
    return made


def _compose_references(deploy: Deploy) -> list[str]:
    text, services = deploy.text("compose/compose.yaml"), deploy.compose["services"]
    known = set(re.findall(r"^([A-Z_0-9]+)=", deploy.text("compose/.env.example"), flags=re.MULTILINE))
    used = set(re.findall(r"\$\{([A-Z_0-9]+):\?", text))
    problems = [f"compose.yaml: {name} is not in .env.example" for name in used - known]
    problems += [f".env.example: {name} is used nowhere" for name in known - used]
    for name, service in services.items():
        problems += [
            f"compose.yaml {name}: no service {other}"
            for other in service.get("depends_on", {})
            if other not in services
        ]
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{[^}]*\}", "./any", volume).split(":")[0]
            if not source.startswith(".") and source not in deploy.compose["volumes"]:
                problems.append(f"compose.yaml {name}: no volume {source}")
            if source.startswith(".") and source != "./any" and not (deploy.folder / "compose" / source).exists():
                problems.append(f"compose.yaml {name}: no file {source}")
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy" and other in services:
                image = services[other]["image"]
                if "healthcheck" not in services[other] and not image.startswith("raybd:"):
                    problems.append(f"compose.yaml {name}: waits for the health of {other}, which has no healthcheck")
    others = deploy.yaml("compose/gpu.yaml")["services"].keys() - services.keys()
    return [*problems, *(f"gpu.yaml: no service {name}" for name in others)]


def slots(deploy: Deploy) -> list[str]:
    """A worker's GPUs and CPUs divide into whole trials, and requests equal limits, so that no pod is evicted first."""
    (study,) = [yaml.safe_load(files["study.yaml"]) for where, files in deploy.studies() if where.startswith("kuberay")]
    wanted = study["resources"]
    problems = []
    for where, spec in deploy.cluster_specs():
        if spec["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
            problems.append(f"{where}: trials would run on the head")
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            fit = float(limits["nvidia.com/gpu"]) / wanted["gpus_per_trial"]
            if fit != int(fit) or float(limits["cpu"]) != fit * wanted["cpus_per_trial"]:
                problems.append(
                    f"{where}: {fit:g} trials by GPU, {float(limits['cpu']) / wanted['cpus_per_trial']:g} by CPU"
                )
            if not 1 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
                problems.append(f"{where}: replicas of {group['groupName']} are out of order")
    uneven = [where for where, pod in deploy.pods() for c in pod["spec"]["containers"] if not _even(c["resources"])]
    return [*problems, *(f"{where}: requests differ from limits" for where in uneven)]


def _even(resources: dict[str, Any]) -> bool:
    return resources["requests"] == resources["limits"]


def hosts(deploy: Deploy) -> list[str]:
    """MLflow answers to the names under which the studies call it, and a service of that name and port is there."""
    options = deploy.values["server"]["value_options"]
    chart = (options["allowed_hosts"].split(","), deploy.values["fullnameOverride"], str(options["port"]))
    command = deploy.compose["services"]["mlflow"]["command"]
    flags = dict(part[2:].split("=", 1) for part in command if part.startswith("--"))
    single = (flags.get("allowed-hosts", "").split(","), "mlflow", flags["port"])
    problems = []
    for where, files in deploy.studies():
        allowed, service, port = chart if where.startswith("kuberay") else single
        host = urlsplit(yaml.safe_load(files["study.yaml"])["tracking"]["uri"]).netloc
        if not is_allowed_host_header(allowed, host):
            problems.append(f"{where}: MLflow would refuse the host {host}; allowed are {allowed}")
        if host not in {f"{service}:{port}", f"{service}.{NAMESPACE}:{port}", f"{service}.{NAMESPACE}.svc:{port}"}:
            problems.append(f"{where}: there is no service {host}")
    return problems


def one_cluster(deploy: Deploy) -> list[str]:
    """RayJob and RayCluster describe the same cluster; only the study's files are the job's own."""

    def bare(spec: dict[str, Any]) -> dict[str, Any]:
        spec = json.loads(json.dumps(spec))
        for template in (spec["headGroupSpec"]["template"], *(g["template"] for g in spec["workerGroupSpecs"])):
            pod = template["spec"]
            for owner, key in ((pod, "volumes"), (pod["containers"][0], "volumeMounts")):
                owner[key] = [each for each in owner[key] if each["name"] != "study"]
        return spec

    job, cluster = (bare(spec) for _, spec in deploy.cluster_specs())
    return [
        f"rayjob.yaml and raycluster.yaml differ in {key}" for key in job | cluster if job.get(key) != cluster.get(key)
    ]


def security(deploy: Deploy) -> list[str]:
    problems = []
    for where, pod in deploy.pods():
        spec = pod["spec"]
        context = spec["securityContext"]
        if not context.get("runAsNonRoot") or context.get("seccompProfile") != {"type": "RuntimeDefault"}:
            problems.append(f"{where}: may run as root, or without seccomp")
        for each in spec["containers"]:
            mine = each["securityContext"]
            if mine.get("allowPrivilegeEscalation") is not False or mine["capabilities"] != {"drop": ["ALL"]}:
                problems.append(f"{where}: {each['name']} keeps privileges")
    for where, spec in deploy.cluster_specs():
        pods = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
        shm = [v for pod in pods for v in pod["spec"]["volumes"] if v.get("emptyDir", {}).get("medium") == "Memory"]
        if len(shm) != len(pods):
            problems.append(f"{where}: a pod has no /dev/shm of its own")
        if any(map(_credentials, spec["workerGroupSpecs"])):
            problems.append(f"{where}: a worker is given credentials")
    return [*problems, *_network(deploy)]


def _credentials(group: dict[str, Any]) -> bool:
    """Whether a worker's pod is given variables or Secrets beyond the token that KubeRay gives every pod of Ray's."""
    pod = group["template"]["spec"]
    given = [c for c in (*pod["containers"], *pod.get("initContainers", [])) if c.get("env") or c.get("envFrom")]
    return bool(given) or any(volume.keys() & {"secret", "projected", "csi"} for volume in pod["volumes"])


def _network(deploy: Deploy) -> list[str]:
    policies = [each["spec"] for each in (*deploy.base, *deploy.tools) if each["kind"] == "NetworkPolicy"]
    problems = []
    for where, pod in deploy.pods():
        labels = pod["metadata"].get("labels", {})
        covering = [p for p in policies if p["podSelector"]["matchLabels"].items() <= labels.items()]
        if (
            not where.startswith("mlflow")
            and Counter(kind for p in covering for kind in p["policyTypes"])["Ingress"] < 1
        ):
            problems.append(f"{where}: no NetworkPolicy covers it")
    open_to_all = [rule for p in policies for rule in p.get("ingress", []) if not rule.get("from")]
    return [*problems, *("base.yaml: a NetworkPolicy lets everybody in" for _ in open_to_all)]


def ports(deploy: Deploy) -> list[str]:
    """Nothing is published beyond loopback: neither Ray nor MLflow nor a database."""
    published = [(name, port) for name, s in deploy.compose["services"].items() for port in s.get("ports", [])]
    wide = [f"compose.yaml {name}: {port}" for name, port in published if not port.startswith("127.0.0.1:")]
    kinds = {"NodePort", "LoadBalancer"}
    used = [name for name in deploy.files if kinds & set(re.findall(r"\w+", deploy.text(name)))]
    commands = [
        line for config in deploy.ray_up.values() for line in config["head_start_ray_commands"] if "--head" in line
    ]
    reachable = [line for line in commands if "--dashboard-host=127.0.0.1" not in line]
    return [*wide, *(f"{name}: publishes a service" for name in used), *(f"ray-up: {line}" for line in reachable)]


def secrets(deploy: Deploy) -> list[str]:
    """No file holds the value of a secret: it comes from a Secret, from .env, or from a variable of the shell."""
    problems = []
    word = r"[A-Za-z_-]*(?:PASSWORD|PASSWD|SECRET|TOKEN|ACCESS_KEY_ID|ACCESS_KEY|_KEY)[A-Z_]*"
    given = re.compile(rf"\b({word})(?:=|:[ \t]+)[\"']?([^\s\"',}}]+)")
    allowed = re.compile(r"\$|token$|\.\.\.$")  # a variable; RAY_AUTH_MODE's word; "and so on" in a comment
    for name in deploy.files:
        text = deploy.text(name)
        for key, value in given.findall(text):
            if not allowed.search(value):
                problems.append(f"{name}: {key} has the value {value[:3]}...")
        problems += [
            f"{name}: a password in {found[:12]}..." for found in re.findall(r"\w+://[^\s/:@]+:[^\s/@]+@", text)
        ]
        if re.search(r"^kind: Secret", text, flags=re.MULTILINE):
            problems.append(f"{name}: a Secret in a file")
    plain = [(where, each["name"]) for where, pod in deploy.pods() for each in _environment(pod) if "value" in each]
    problems += [f"{where}: {key} has a value" for where, key in plain if re.fullmatch(word, key)]
    filled = re.findall(r"^[A-Z_0-9]+=(.+)$", deploy.text("compose/.env.example"), flags=re.MULTILINE)
    return [*problems, *(f".env.example: holds a value, {value[:3]}..." for value in filled)]


def _environment(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for container in pod["spec"]["containers"] for each in container.get("env", [])]
