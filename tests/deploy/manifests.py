"""The manifests of a `deploy/` folder, read once, and the pieces that the checks ask for."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """A deploy folder, the real one or a broken copy; what it must agree with is always the repository's."""

    folder: Path

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")

    def yaml(self, name: str) -> Any:
        return yaml.safe_load(self.text(name))

    @cached_property
    def files(self) -> list[str]:
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(self.folder)) for path in found)

    @cached_property
    def base(self) -> list[dict[str, Any]]:
        """What Kubernetes itself knows: namespace, network, data, study."""
        return list(yaml.safe_load_all(self.text("kuberay/base.yaml")))

    @cached_property
    def tools(self) -> list[dict[str, Any]]:
        """The pod for what is done by hand, and its network."""
        return list(yaml.safe_load_all(self.text("kuberay/tools.yaml")))

    @cached_property
    def job(self) -> dict[str, Any]:
        return self.yaml("kuberay/rayjob.yaml")

    @cached_property
    def cluster(self) -> dict[str, Any]:
        return self.yaml("kuberay/raycluster.yaml")

    @cached_property
    def values(self) -> dict[str, Any]:
        return self.yaml("mlflow/values.yaml")

    @cached_property
    def compose(self) -> dict[str, Any]:
        return self.yaml("compose/compose.yaml")

    @cached_property
    def ray_up(self) -> dict[str, dict[str, Any]]:
        return {name: self.yaml(f"ray-up/{name}.yaml") for name in ("aws", "local")}

    def cluster_specs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        yield "kuberay/rayjob.yaml", self.job["spec"]["rayClusterSpec"]
        yield "kuberay/raycluster.yaml", self.cluster["spec"]

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every pod that a manifest describes, as a pod of its own, by the place it stands in."""
        yield "kuberay/rayjob.yaml submitter", _pod(self.job["spec"]["submitterPodTemplate"])
        for name, spec in self.cluster_specs():
            yield f"{name} head", _pod(spec["headGroupSpec"]["template"])
            for group in spec["workerGroupSpecs"]:
                yield f"{name} {group['groupName']}", _pod(group["template"])
        yield from (("kuberay/tools.yaml", _pod(each)) for each in self.tools if each["kind"] == "Pod")
        yield "mlflow/values.yaml", self._mlflow_pod()

    def _mlflow_pod(self) -> dict[str, Any]:
        """What the chart's template makes of the values."""
        v = self.values
        uri = {"name": "MLFLOW_BACKEND_STORE_URI", "valueFrom": v["mlflow"]["backendStoreUriFrom"]}
        container = {
            "name": "mlflow",
            "image": f"{v['image']['repository']}:{v['image']['tag']}",
            "env": [uri, *v["env"]],
            "resources": v["resources"],
            "securityContext": v["securityContext"],
            "volumeMounts": v["extraVolumeMounts"],
        }
        spec = {"containers": [container], "volumes": v["extraVolumes"], "securityContext": v["podSecurityContext"]}
        return _pod({"spec": spec})

    def images(self) -> Iterator[tuple[str, str]]:
        for where, pod in self.pods():
            yield from ((where, container["image"]) for container in pod["spec"]["containers"])
        for file in ("compose/compose.yaml", "compose/gpu.yaml"):
            yield from ((f"{file} {name}", each["image"]) for name, each in self.yaml(file)["services"].items())
        for name, config in self.ray_up.items():
            yield f"ray-up/{name}.yaml", config["docker"]["image"]
        yield from (
            ("README.md", image) for image in re.findall(r"(?<=[ `])raybd:[\w.-]*\d[\w.-]*", self.text("README.md"))
        )
        yield from (("Dockerfile", image) for image in re.findall(r"(?<= )raybd:\S+", self.text("Dockerfile")))

    def studies(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Each study's files, by name."""
        (found,) = [each for each in self.base if each["kind"] == "ConfigMap"]
        yield "kuberay/base.yaml", found["data"]
        yield "compose/studies/smoke.yaml", {"study.yaml": self.text("compose/studies/smoke.yaml")}

    def commands(self) -> list[str]:
        """The runbook's commands, one each, without what is piped into or out of them."""
        blocks = re.findall(r"```sh\n(.*?)```", self.text("README.md"), flags=re.DOTALL)
        return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def _pod(template: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "checked", **template.get("metadata", {})},
        "spec": template["spec"],
    }


def pinned(package: str) -> str:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(rf"^{package}==(\S+)$", text, flags=re.MULTILINE)[1]
