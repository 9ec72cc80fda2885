"""The checks can fail: each refuses a copy of deploy/ in which one thing is wrong."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy import commands, forms, machines, sense
from tests.deploy.manifests import ROOT, Deploy

Check = Callable[[Deploy], list[str]]
JOB, CLUSTER, BASE = "kuberay/rayjob.yaml", "kuberay/raycluster.yaml", "kuberay/base.yaml"
VALUES, COMPOSE, ENV = "mlflow/values.yaml", "compose/compose.yaml", "compose/.env.example"
TOOLS, LOCAL = "kuberay/tools.yaml", "ray-up/local.yaml"
AWS, SBATCH, RUNBOOK = "ray-up/aws.yaml", "slurm/raybd.sbatch", "README.md"

# file, what is replaced, by what, the check that must refuse it, a word of its complaint
BROKEN: list[tuple[str, str, str, Check, str]] = [
    # a misspelt key
    (BASE, "policyTypes: [Egress]", "policyType: [Egress]", forms.kubernetes, "policyType"),
    (JOB, "containerPort: 6379", "containerport: 6379", forms.kubernetes, "containerport"),
    (VALUES, "mountPath: /etc/mlflow", "mountpath: /etc/mlflow", forms.kubernetes, "mountpath"),
    (JOB, "  backoffLimit: 3", "  backofflimit: 3", forms.kuberay, "backofflimit"),
    (CLUSTER, "minReplicas: 1", "minReplica: 1", forms.kuberay, "minReplica"),
    (CLUSTER, "idleTimeoutSeconds", "idleTimeoutSecond", forms.kuberay, "idleTimeoutSecond"),
    (COMPOSE, "healthcheck:", "healthchecks:", forms.compose, "healthchecks"),
    ("compose/gpu.yaml", "capabilities: [gpu]", "capability: [gpu]", forms.compose, "capability"),
    (VALUES, "artifactsDestination", "artifactDestination", forms.helm, "artifactDestination"),
    (AWS, "idle_timeout_minutes", "idle_timeout_minute", forms.ray_up, "idle_timeout_minute"),
    # a wrong type or value
    (BASE, "port: 8265", "port: [8265]", forms.kubernetes, "8265"),
    (JOB, 'num-cpus: "0"', "num-cpus: 0", forms.kuberay, "num-cpus"),
    (JOB, "apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", forms.kuberay, "apiVersion"),
    (CLUSTER, "mode: token", "mode: disabled", forms.kuberay, "mode"),
    (CLUSTER, "maxReplicas: 4", "maxReplicas: many", forms.kuberay, "maxReplicas"),
    (COMPOSE, "retries: 12", "retries: often", forms.compose, "retries"),
    (VALUES, "enabled: true", "enabled: false", forms.helm, "enabled"),
    (VALUES, '"mlflow:5000,', '"*,mlflow:5000,', forms.helm, "allowed_hosts"),
    (AWS, "max_workers: 4\nidle", "max_workers: four\nidle", forms.ray_up, "max_workers"),
    (AWS, "head_node_type: head", "head_node_type: boss", forms.ray_up, "head_node_type"),
    (SBATCH, "\nfi\n", "\n", forms.shell, "raybd.sbatch"),
    (TOOLS, "command: [sleep", "commands: [sleep", forms.kubernetes, "commands"),
    (JOB, "runtimeEnvYAML", "runtimeEnvYaml", forms.kuberay, "runtimeEnvYaml"),
    # another version
    (JOB, 'rayVersion: "2.60.0"', 'rayVersion: "2.59.0"', sense.versions, "2.59.0"),
    (CLUSTER, "raybd:0.1.0-ray2.60.0-cuda", "raybd:0.1.0-ray2.59.0-cuda", sense.versions, "ray2.59.0"),
    (VALUES, "0.1.0-ray2.60.0-cuda", "0.0.9-ray2.60.0-cuda", sense.versions, "0.0.9"),
    (COMPOSE, "0.1.0-ray2.60.0-cuda", "0.1.0-ray2.60.0-cpu", sense.versions, "plain build"),
    (TOOLS, "raybd:0.1.0-ray2.60.0-cuda", "raybd:latest", sense.versions, "latest"),
    (COMPOSE, "postgres:17.6-bookworm", "postgres:latest", sense.versions, "latest"),
    (AWS, "raybd:0.1.0-ray2.60.0-cuda", "raybd:latest", sense.versions, "latest"),
    (RUNBOOK, "MLflow 3.17.2", "MLflow 3.16.0", sense.versions, "3.16.0"),
    (RUNBOOK, "--tag raybd:0.1.0-ray2.60.0-cuda", "--tag raybd:0.1.0-ray2.58.0-cuda", sense.versions, "2.58.0"),
    ("Dockerfile", "BASE=python:3.11", "BASE=python:3.12", sense.versions, "3.12"),
    # an image that is looser than it should be
    ("Dockerfile", "USER 1000:1000", "USER root", sense.dockerfile, "root"),
    ("Dockerfile", "HEALTHCHECK", "LABEL", sense.dockerfile, "HEALTHCHECK"),
    ("Dockerfile", "--constraint constraints.txt hatchling", "hatchling", sense.dockerfile, "not pinned"),
    ("Dockerfile", "COPY raybd raybd", "COPY raybdd raybd", sense.dockerfile, "raybdd"),
    ("Dockerfile.dockerignore", "!deploy/entrypoint.py", "", sense.dockerfile, "hides"),
    # something named that is not there
    (RUNBOOK, "secret generic raybd-s3", "secret generic raybd-s4", sense.references, "no Secret raybd-s3"),
    (RUNBOOK, "--from-literal=auth_token", "--from-literal=token", sense.references, "auth_token"),
    (RUNBOOK, "--from-literal=flask-secret-key", "--from-literal=flask", sense.references, "flask-secret-key"),
    (JOB, "claimName: raybd-data", "claimName: raybd-date", sense.references, "raybd-date"),
    (JOB, "configMap: {name: raybd-study}", "configMap: {name: raybd-studies}", sense.references, "raybd-studies"),
    (JOB, "subPath: my_nets.py", "subPath: nets.py", sense.references, "nets.py"),
    (CLUSTER, "- {name: shm, mountPath", "- {name: shn, mountPath", sense.references, "shn"),
    (VALUES, "configMap: {name: mlflow-auth-config}", "configMap: {name: other}", sense.references, "other"),
    (COMPOSE, "- s3:/data", "- s4:/data", sense.references, "s4"),
    (COMPOSE, "bucket: {condition", "buckets: {condition", sense.references, "buckets"),
    (COMPOSE, "${RAY_AUTH_TOKEN:?", "${RAY_TOKEN:?", sense.references, "RAY_TOKEN"),
    (COMPOSE, "./databases.sh:", "./database.sh:", sense.references, "database.sh"),
    (ENV, "S3_ACCESS_KEY=", "", sense.references, "S3_ACCESS_KEY"),
    # resources that do not add up
    (BASE, "gpus_per_trial: 0.25", "gpus_per_trial: 0.3", sense.slots, "by GPU"),
    (JOB, 'cpu: "8", memory: 32Gi', 'cpu: "6", memory: 32Gi', sense.slots, "by CPU"),
    (JOB, 'num-cpus: "0"', 'num-cpus: "4"', sense.slots, "head"),
    (JOB, "minReplicas: 1", "minReplicas: 0", sense.slots, "replicas"),
    (CLUSTER, 'limits: {cpu: "4", memory: 16Gi}', 'limits: {cpu: "4", memory: 24Gi}', sense.slots, "requests"),
    # too little room, or a room never used
    (BASE, ", workers: 16}", "}", machines.scale, "is None"),
    (BASE, "workers: 16", "workers: 4", machines.scale, "room for 16"),
    (JOB, "maxReplicas: 4", "maxReplicas: 8", machines.scale, "room for 32"),
    (JOB, "sizeLimit: 4Gi", "sizeLimit: 3Gi", machines.stores, "head"),
    (CLUSTER, '{object-store-memory: "7516192768"}', "{}", machines.stores, "any size"),
    (CLUSTER, "7516192768", "10000000000", machines.stores, "10000000000"),
    (COMPOSE, "shm_size: 4gb", "shm_size: 2gb", machines.stores, "compose.yaml"),
    (COMPOSE, ", --object-store-memory=3221225472]", "]", machines.stores, "any size"),
    (LOCAL, "  run_options:\n", "  run_options:\n    - --shm-size=4g\n", machines.ray_up, "--shm-size"),
    # a file that is not there, or not to be read
    (LOCAL, "/home/ubuntu/raybd.env", "/etc/raybd/secrets.env", machines.ray_up, "is not ubuntu's"),
    (AWS, " > /home/ubuntu/raybd.env", " > /home/ubuntu/other.env", machines.ray_up, "head never fetches"),
    (AWS, "s3://raybd/data /mnt/data", "s3://raybd/data /mnt/other", machines.ray_up, "gpu never fetches /mnt/data"),
    (AWS, "    initialization_commands:\n", "    worker_setup_commands:\n", machines.ray_up, "gpu fetches"),
    (AWS, "IamInstanceProfile: {Name: raybd-worker}", "EbsOptimized: true", machines.ray_up, "no role"),
    ("Dockerfile", "WORKDIR /\n", "WORKDIR /runs\n", machines.runs, "/runs/runs"),
    (JOB, "study.yaml\n  metadata", "study.yaml --runs /runs\n  metadata", machines.runs, "place"),
    # a host that MLflow refuses, or that is not there
    (VALUES, '"mlflow:5000,', '"mlflow,', sense.hosts, "refuse"),
    (COMPOSE, "--allowed-hosts=mlflow:5000,", "--allowed-hosts=", sense.hosts, "refuse"),
    (BASE, "http://mlflow:5000", "http://mlflow-mlflow:5000", sense.hosts, "mlflow-mlflow"),
    (VALUES, "fullnameOverride: mlflow", "fullnameOverride: tracking", sense.hosts, "no service"),
    ("compose/studies/smoke.yaml", "http://mlflow:5000", "http://mlflow:5001", sense.hosts, "5001"),
    # a door left open
    (CLUSTER, "maxReplicas: 4", "maxReplicas: 5", sense.one_cluster, "workerGroupSpecs"),
    (JOB, "runAsNonRoot: true", "runAsNonRoot: false", sense.security, "root"),
    (VALUES, "capabilities: {drop: [ALL]}", "capabilities: {drop: [NET_RAW]}", sense.security, "privileges"),
    (JOB, "emptyDir: {medium: Memory, sizeLimit: 8Gi}", "emptyDir: {sizeLimit: 8Gi}", sense.security, "/dev/shm"),
    (JOB, "part-of: raybd, app.kubernetes.io/component: worker", "part-of: x", sense.security, "NetworkPolicy"),
    (BASE, "    - from: # it submits", "    - to: # it submits", sense.security, "everybody"),
    (JOB, "- name: ray-worker\n", "- name: ray-worker\n                env: [{name: A}]\n", sense.security, "worker"),
    (
        JOB,
        "- name: ray-worker\n",
        "- name: ray-worker\n                envFrom: [{secretRef: {name: raybd-s3}}]\n",
        sense.security,
        "worker",
    ),
    (
        CLUSTER,
        "volumes:\n            - {name: shm",
        "volumes:\n            - {name: s, secret: {secretName: raybd-s3}}\n            - {name: shm",
        sense.security,
        "worker",
    ),
    (TOOLS, "labels: {app.kubernetes.io/part-of: raybd-tools}", "labels: {}", sense.security, "NetworkPolicy"),
    (COMPOSE, "127.0.0.1:8265:8265", "8265:8265", sense.ports, "raybd"),
    (COMPOSE, "127.0.0.1:5000:5000", "0.0.0.0:5000:5000", sense.ports, "mlflow"),
    (AWS, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", sense.ports, "ray start"),
    (VALUES, "fullnameOverride", "service: {type: LoadBalancer}\nfullnameOverride", sense.ports, "values.yaml"),
    # a secret in a file
    (ENV, "RAY_AUTH_TOKEN=", "RAY_AUTH_TOKEN=hunter2", sense.secrets, "hun"),
    (COMPOSE, "PGPASSWORD: ${RAYBD_DB_PASSWORD:?set it in .env}", "PGPASSWORD: hunter2", sense.secrets, "PGPASSWORD"),
    (
        JOB,
        "PGPASSWORD, valueFrom: {secretKeyRef: {name: raybd-postgres, key: password}}",
        "PGPASSWORD, value: x",
        sense.secrets,
        "PGPASSWORD",
    ),
    (BASE, "postgresql://raybd@", "postgresql://raybd:hunter2@", sense.secrets, "a password"),
    (BASE, "kind: PersistentVolumeClaim", "kind: Secret", sense.secrets, "a Secret"),
    # a command that does not exist
    (
        RUNBOOK,
        "raybd submit STUDY.yaml\nraybd status",
        "raybd submitt STUDY.yaml\nraybd status",
        commands.runbook,
        "submitt",
    ),
    (RUNBOOK, "exec raybd raybd validate", "exec raybd raybd valid", commands.runbook, "valid"),
    (RUNBOOK, "exec raybd raybd validate", "exec rayb raybd validate", commands.runbook, "rayb "),
    (RUNBOOK, "-- mlflow db upgrade", "-- mlflow db migrate", commands.runbook, "migrate"),
    (RUNBOOK, "ray up --yes", "ray up --please", commands.runbook, "--please"),
    (RUNBOOK, "-- pg_restore --clean", "-- pg_unload --clean", commands.runbook, "pg_unload"),
    (RUNBOOK, "--container raybd-db", "--container raybd-database", commands.runbook, "raybd-database"),
    (RUNBOOK, "raybd-job /studies/smoke.yaml", "raybd-job /studies/smoke.yaml --runs /r", machines.runs, "place"),
    (RUNBOOK, "restart raybd", "restart ray", commands.runbook, "service ray"),
    (
        RUNBOOK,
        "sync --delete s3://raybd/runs backup/runs",
        "sync s3://raybd/mlflow backup/mlflow",
        commands.backup,
        "order",
    ),
    (COMPOSE, "--allowed-hosts=", "--allow-hosts=", commands.manifests, "--allow-hosts"),
    (VALUES, "app_name:", "app:", commands.manifests, "--app"),
    (AWS, "--num-cpus=0", "--cpus=0", commands.manifests, "--cpus"),
    (SBATCH, "ray start --block", "ray start --blocking", commands.manifests, "--blocking"),
    (SBATCH, "--include-dashboard=false", "--dashboard=false", commands.manifests, "--dashboard"),
    (SBATCH, 'kill "${children[@]}"', "ray stop", commands.manifests, "ray stop"),
    (JOB, "entrypoint: exec raybd-job", "entrypoint: raybd-job", commands.manifests, "entrypoint"),
    (JOB, "entrypoint: exec raybd-job", "entrypoint: exec raybd run", commands.manifests, "entrypoint"),
]


def named(case: Any) -> str:
    return case.__name__ if callable(case) else ""


@pytest.mark.parametrize(("file", "old", "new", "check", "word"), BROKEN, ids=named)
def test_a_broken_manifest_is_refused(file: str, old: str, new: str, check: Check, word: str, tmp_path: Path) -> None:
    folder = tmp_path / "deploy"
    shutil.copytree(ROOT / "deploy", folder)
    text = (folder / file).read_text(encoding="utf-8")
    assert old in text
    (folder / file).write_text(text.replace(old, new), encoding="utf-8")
    problems = check(Deploy(folder=folder))
    assert any(word in problem for problem in problems), problems


def test_the_real_definitions_are_closed_before_they_are_asked(tmp_path: Path) -> None:
    """With a definition of the same form as KubeRay's: a misspelt field and a wrong type are found."""
    count = {"type": "integer"}
    spec = {"type": "object", "properties": {"replicas": count, "port": {"x-kubernetes-int-or-string": True}}}
    schema = forms.closed({"type": "object", "properties": {"spec": spec, "metadata": {"type": "object"}}})
    assert forms.against(schema, {"metadata": {"name": "x"}, "spec": {"replicas": 1, "port": "http"}}, "") == []
    assert len(forms.against(schema, {"spec": {"replica": 1}}, "")) == 1
    assert len(forms.against(schema, {"spec": {"replicas": "one"}}, "")) == 1
    crds = {
        name: {
            "spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object", "properties": {}}}}]}
        }
        for name in ("rayjobs", "rayclusters")
    }
    for name, crd in crds.items():
        (tmp_path / f"ray.io_{name}.yaml").write_text(yaml.safe_dump(crd), encoding="utf-8")
    assert any("spec" in problem for problem in forms.kuberay_crds(Deploy(folder=ROOT / "deploy"), tmp_path))
