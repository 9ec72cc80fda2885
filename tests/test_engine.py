"""The engine runs on a bare machine: without ray, optuna, mlflow, pydantic, rich and typer."""

import subprocess
import sys
from pathlib import Path

BARE = """
import importlib, sys

MISSING = {"ray", "optuna", "mlflow", "pydantic", "pydantic_core", "rich", "typer"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in MISSING:
            raise ModuleNotFoundError(f"not on this machine: {name}", name=name)

sys.meta_path.insert(0, Missing())
for room in ROOMS:
    importlib.import_module(room)

import torch
from raybd.defenses import FineTuning
from raybd.models import Architecture
from raybd.search.local import map_jobs
from raybd.search.records import Job
from raybd.search.space import Space
from raybd.search.view import SearchView
from raybd.data import Augment, ImageSet
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import state_of

small = Architecture(name="small_resnet", arguments={"width": 4}, classes=2, shape=(1, 8, 8))
images = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
data = ImageSet(images=images, labels=torch.arange(8) % 2, classes=2)
view = SearchView(
    architecture=small, state=state_of(small.build(0)), clean_set=data, selection=data,
    trigger=Patch(target_label=0), augment=Augment(), compute=Compute(), seed=0,
    reference_correct=torch.ones(8, dtype=torch.bool),
)
outcome, = map_jobs(view, [Job(defense=FineTuning(epochs=1, batch_size=4), seed=0, weights=None)])
assert outcome.state == "complete", outcome
assert not MISSING & {name.partition(".")[0] for name in sys.modules}
print("ran")
"""
ROOMS = [
    *(f"raybd.{name}" for name in ("artifacts", "gate", "pareto", "scenarios", "attacks", "defenses", "triggers")),
    *(f"raybd.search.{name}" for name in ("space", "trial", "local", "view")),
    *(f"raybd.evaluation.{name}" for name in ("assess", "reinjection", "twin", "sequela")),
]


def test_the_engine_and_its_local_search_run_without_the_libraries_around_it(tmp_path: Path) -> None:
    script = BARE.replace("ROOMS", repr(ROOMS), 1)
    repository = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {repository!r})\n{script}"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "ran"
