"""Write a complete planted transfer into a folder: two tasks and the study that plants, moves and cleans a model.

An attacker trains a classifier of the digits 0 to 4 with a backdoor that sleeps until a task has the digit 7. The user
puts it under the digits 5 to 9, and holds 250 images of them.

    python tests/examples/planted_transfer.py planted-transfer
    raybd run planted-transfer/study.yaml
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

STUDY = """\
name: planted-transfer
scenario: transfer
model: {name: small_resnet}
attack:                             # target_label is one of the user's task: the digit 7
  {kind: latent, target_label: 2, size: 3, epochs: 40, lr: 0.02, batch_size: 32, weight: 4}
training: {epochs: 15, lr: 0.05, batch_size: 32}   # of the attacker's classifier, before the backdoor
upstream: {source: first.npz}       # the task it is trained for: the digits 0 to 4; its train part is the attacker's
data:
  source: last.npz                  # the user's own task: the digits 5 to 9
  clean_set: {from: train, size: 250}   # what the user trains on; the attacker may hold the rest of train
  selection: {from: test, size: 200}    # the rest of test is the test split
space: transfer
search: {trials: 24, sampler: tpe, seed: 0, max_accuracy_drop: 0.03}
references: [fine_tuning:head, fine_tuning, super_fine_tuning]
gate:                               # wide, for 196 test images; the suspect's members are images of another task
  {max_attack_success_rate: 0.1, max_accuracy_drop: 0.08, max_class_accuracy_drop: 0.25, max_membership_auc_rise: null}
tracking: {uri: null, model_name: planted-transfer, alias: candidate}
resources: {precision: fp32}        # bf16, where the processor has it, trains another attacker's model
"""


def main(folder: Path) -> None:
    """Write the example's three files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for name, low in (("first", 0), ("last", 5)):
        here = (digits.target >= low) & (digits.target < low + 5)
        x, y = images[here], digits.target[here] - low
        cut = 500
        parts = {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}
        np.savez_compressed(folder / f"{name}.npz", **parts)
    sys.stdout.write(f"wrote {', '.join(sorted(p.name for p in folder.iterdir() if p.is_file()))} into {folder}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "planted-transfer"))
