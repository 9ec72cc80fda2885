"""Write the README's own-model example into a folder: data, weights, a 15-line Python file and a study.

The data are scikit-learn's digits; the model is trained here, on poisoned images, and then treated as a stranger's:
what is written is what a team holds that was handed a checkpoint.

    python tests/examples/own_model.py own-model
    raybd run own-model/study.yaml
"""

import sys
from pathlib import Path

import numpy as np
import torch

from raybd.attacks import BadNets, Workshop
from raybd.data import Augment, Part, SplitPlan, load_source, split
from raybd.models import Architecture
from raybd.training import Compute, Recipe
from raybd.weights import state_of

NETS = '''"""The suspect's network: the part that only its owner knows."""

from torch import nn


def block(channels_in, channels_out):
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ELU(), nn.MaxPool2d(2))


def small_vgg(num_classes):
    features = [block(1, 24), block(24, 48), nn.Flatten(), nn.Dropout(0.2)]
    return nn.Sequential(*features, nn.Linear(48 * 2 * 2, num_classes))
'''

STUDY = """\
name: own-model
scenario: standalone
suspect:
  factory: my_nets:small_vgg          # my_nets.py beside this file
  arguments: {num_classes: 10}
  weights: suspect.pth
  state_dict_key: net                 # the checkpoint is {net, epoch}
data:
  source: digits.npz
  clean_set: {from: train, size: 250}
  selection: {from: test, size: 400}  # the rest of test is the test split
  members: {from: train}              # what the suspect was trained on, minus clean_set
trigger: {kind: patch, size: 2, row: 6, column: 6, value: 255, target_label: 3}
space: demo                           # suits a few hundred images; `raybd list spaces`
search: {trials: 32, sampler: tpe, seed: 0, max_accuracy_drop: 0.03}
references: [super_fine_tuning, fine_tuning]
gate:
  {max_attack_success_rate: 0.05, max_accuracy_drop: 0.05, max_class_accuracy_drop: 0.25, max_membership_auc_rise: 0.06}
tracking: {uri: null, model_name: own-model, alias: candidate}
"""


def main(folder: Path) -> None:
    """Write the example's four files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my_nets.py").write_text(NETS, encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    parts = SplitPlan(
        clean_set=Part(origin="train", size=10),
        selection=Part(origin="train", size=10),
        test=Part(origin="train", size=837),
    )
    digits = split(load_source("digits", folder=folder), parts, seed=0)
    arrays = {"x_train": digits.train.images[:, 0], "y_train": digits.train.labels}
    arrays |= {"x_test": digits.test.images[:, 0], "y_test": digits.test.labels}
    np.savez_compressed(folder / "digits.npz", **{name: tensor.numpy() for name, tensor in arrays.items()})

    compute = Compute.detect()
    compute.apply()
    network = Architecture(
        classes=10, shape=(1, 8, 8), factory="my_nets:small_vgg", arguments={"num_classes": 10}, folder=folder
    )
    workshop = Workshop(
        train=digits.train,
        fresh_model=network.build,
        recipe=Recipe(epochs=30, lr=0.05, batch_size=64),
        augment=Augment(),
        compute=compute,
    )
    planted = BadNets(target_label=3, poison_ratio=0.1, size=2).plant(workshop, seed=0)
    torch.save({"net": state_of(planted.model), "epoch": 30}, folder / "suspect.pth")
    sys.stdout.write(f"wrote {', '.join(sorted(p.name for p in folder.iterdir() if p.is_file()))} into {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "own-model"))
