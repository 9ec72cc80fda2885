"""Is each manifest well formed? Every check returns what is wrong, one line each."""

import copy
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import ray.autoscaler
import yaml

from tests.deploy.manifests import HERE, Deploy


def against(schema: dict[str, Any], document: Any, where: str) -> list[str]:
    errors = jsonschema.Draft202012Validator(schema).iter_errors(document)
    best = (jsonschema.exceptions.best_match([error]) for error in errors)
    return [f"{where}: {'/'.join(map(str, error.absolute_path))}: {error.message}" for error in best]


def shipped_schema(name: str) -> dict[str, Any]:
    return json.loads((HERE / f"{name}.schema.json").read_text(encoding="utf-8"))


def kubernetes(deploy: Deploy) -> list[str]:
    """Kubernetes' own kinds, and every pod template as a pod, strictly: an unknown field is an error."""
    kinds = [(f"kuberay/base.yaml {each['kind']}", each) for each in deploy.base]
    kinds += [(f"kuberay/tools.yaml {each['kind']}", each) for each in deploy.tools]
    problems = []
    for where, document in [*kinds, *deploy.pods()]:
        try:
            kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{where}: {error}")
    return problems


def kuberay(deploy: Deploy) -> list[str]:
    schema = shipped_schema("kuberay")
    one_of = schema.pop("oneOf")
    by_kind = dict(zip(("RayJob", "RayCluster"), one_of, strict=True))
    documents = {"kuberay/rayjob.yaml": deploy.job, "kuberay/raycluster.yaml": deploy.cluster}
    return [
        problem
        for where, document in documents.items()
        for problem in against({**schema, **by_kind[document["kind"]]}, document, where)
    ]


def kuberay_crds(deploy: Deploy, folder: Path) -> list[str]:
    """Against the real definitions: `ray.io_rayjobs.yaml` and `ray.io_rayclusters.yaml` of KubeRay's repository."""
    problems = []
    for name, document in (("rayjobs", deploy.job), ("rayclusters", deploy.cluster)):
        crd = yaml.safe_load((folder / f"ray.io_{name}.yaml").read_text(encoding="utf-8"))
        (version,) = [each for each in crd["spec"]["versions"] if each["name"] == "v1"]
        problems += against(closed(version["schema"]["openAPIV3Schema"]), document, name)
    return problems


def closed(schema: Any, *, top: bool = True) -> Any:
    """An OpenAPI schema as a JSON schema that refuses unknown fields; `metadata` is open, as in Kubernetes."""
    if isinstance(schema, list):
        return [closed(each, top=False) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = copy.copy(schema)
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    if "properties" in schema:
        schema["properties"] = {name: closed(each, top=False) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf"):
        if key in schema:
            schema[key] = closed(schema[key], top=False)
    if top:
        schema["properties"]["metadata"] = {"type": "object"}
    return schema


def compose(deploy: Deploy) -> list[str]:
    schema = shipped_schema("compose")
    files = ("compose/compose.yaml", "compose/gpu.yaml")
    return [problem for name in files for problem in against(schema, deploy.yaml(name), name)]


def helm(deploy: Deploy) -> list[str]:
    return against(shipped_schema("mlflow_values"), deploy.values, "mlflow/values.yaml")


def ray_up(deploy: Deploy) -> list[str]:
    """Against Ray's own schema, as `ray up` would after filling in its defaults."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text(encoding="utf-8"))
    problems = []
    for name, config in deploy.ray_up.items():
        problems += against(schema, config, f"ray-up/{name}.yaml")
        if not problems:
            problems += [f"ray-up/{name}.yaml: {error}" for error in _refused_by_ray(config)]
    return problems


def _refused_by_ray(config: dict[str, Any]) -> Iterator[str]:
    try:
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError:  # private: where it has moved, the schema above remains
        return
    try:
        validate_config(prepare_config(copy.deepcopy(config)))
    except (ValueError, jsonschema.ValidationError) as error:
        yield str(error)


def shell(deploy: Deploy) -> list[str]:
    scripts = [name for name in deploy.files if name.endswith((".sh", ".sbatch"))]
    problems = []
    for name in scripts:
        read = subprocess.run(["bash", "-n", deploy.folder / name], capture_output=True, text=True, check=False)
        problems += [f"{name}: {read.stderr}"] * (read.returncode != 0)
    return problems
