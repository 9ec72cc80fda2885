"""Measure the main job on a third party's model: three search seeds, and the references once.

    python tests/benchmarks/third_party.py DATA_FOLDER --runs runs --seeds 0 1 2

DATA_FOLDER holds `gtsrb_roi_5000_6000.npz` and `third_party/gtsrb_badnets.pth`. The study and the user's own Python
file are written beside the runs. Finished stages are not repeated, so an interrupted measurement goes on. The figures
go to tests/benchmarks/results/third_party.json. The references run with one of the seeds: they do not depend on the
search.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from raybd import pipeline
from raybd.artifacts import GateRefused, NothingFeasible
from raybd.settings import load_study
from raybd.stages.run_folder import environment

DEFAULTS = {"trials": 32, "space": "standalone_short", "crop": 2, "precision": "auto", "workers": 2}
"""What a study may differ in, and the values unless told otherwise."""
RESULTS = Path(__file__).parent / "results" / "third_party.json"

NETS = '''"""The suspect's network, from the keys of its checkpoint."""

from torch import nn


def stage(i, o):
    pair = [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ELU()]
    pair += [nn.Conv2d(o, o, 3, padding=1), nn.BatchNorm2d(o), nn.ELU()]
    return [*pair, nn.MaxPool2d(2), nn.Dropout(0.3)]


class SmallVGG(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.features = nn.Sequential(*stage(3, 32), *stage(32, 64), *stage(64, 128))
        self.classifier = nn.Linear(2048, num_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


def small_vgg(num_classes):
    return SmallVGG(num_classes)
'''

STUDY = """\
name: gtsrb-badnets-{seed}
scenario: standalone
suspect:
  factory: my_nets:small_vgg
  arguments: {{num_classes: 43}}
  weights: {data}/third_party/gtsrb_badnets.pth
  state_dict_key: net
data:
  source: {data}/gtsrb_roi_5000_6000.npz
  clean_set: {{from: train, size: 1960}}
  selection: {{from: test, size: 2000}}
  members: {{from: train}}
augment: {{crop: {crop}}}
trigger: {{kind: patch, size: 4, row: 27, column: 27, value: 255, target_label: 8}}
space: {space}
search: {{trials: {trials}, sampler: tpe, seed: {seed}, max_accuracy_drop: 0.02}}
references: [{references}]
gate:
  {{max_attack_success_rate: 0.05, max_accuracy_drop: 0.03,
    max_class_accuracy_drop: 0.25, max_membership_auc_rise: 0.03}}
tracking: {{uri: null, model_name: gtsrb-classifier, alias: candidate}}
resources: {{precision: {precision}, workers: {workers}}}
"""


def write_study(folder: Path, *, data: Path, seed: int, references: str = "", **changes: Any) -> Path:
    """Write the user's Python file and the study with one search seed into `folder`; return the study's path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_nets.py").write_text(NETS, encoding="utf-8")
    study = folder / f"gtsrb-{seed}.yaml"
    text = STUDY.format(seed=seed, data=data.absolute(), references=references, **{**DEFAULTS, **changes})
    study.write_text(text, encoding="utf-8")
    return study


def measure(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Run the whole flow for one search seed and return its summary and how it ended."""
    references = "super_fine_tuning, fine_tuning" if seed == options.references_with else ""
    changes = {name: getattr(options, name) for name in DEFAULTS}
    study = write_study(options.runs / "study", data=options.data, seed=seed, references=references, **changes)
    ending = "promoted"
    try:
        pipeline.run(load_study(study), runs=options.runs, on_trial=_line, on_stage=_stage)
    except (NothingFeasible, GateRefused) as error:
        ending = f"{type(error).__name__}: {error}"
    text = (options.runs / f"gtsrb-badnets-{seed}" / "summary.json").read_text(encoding="utf-8")
    for name, folder in (("DATA_FOLDER", options.data), ("RUNS", options.runs)):
        text = text.replace(str(folder.absolute()), name)  # where they lie on this machine is nobody's business
    summary = json.loads(text)
    return {"seed": seed, "ending": ending, "summary": summary}


def _line(record: Any) -> None:
    rates = [rate.rate if rate else float("nan") for rate in (record.clean_accuracy, record.attack_success_rate)]
    sys.stdout.write(f"trial {record.number} {record.state} C-Acc {rates[0]:.3f} ASR {rates[1]:.3f}\n")
    sys.stdout.flush()


def _stage(word: str) -> None:
    sys.stdout.write(f"== {word}\n")
    sys.stdout.flush()


def main() -> None:
    """Measure every seed; the results file grows seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/third_party"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int)
    parser.add_argument("--space")
    parser.add_argument("--crop", type=int, help="random shifts of the training images, pixels each way")
    parser.add_argument("--precision")
    parser.add_argument("--workers", type=int)
    parser.set_defaults(**DEFAULTS)
    parser.add_argument("--references-with", type=int, default=0, metavar="SEED")
    options = parser.parse_args()
    results = []
    for seed in options.seeds:
        results.append(measure(options, seed))
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        given = {name: getattr(options, name) for name in DEFAULTS}
        document = {"environment": environment(), "options": given, "seeds": results}
        RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
