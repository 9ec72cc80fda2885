"""Good files of every kind that raybd reads, small; whoever wants bad ones bends these."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from raybd.artifacts import Assessment, Bench, Study, Suspect
from raybd.data import Augment, ImageSet, Splits
from raybd.evaluation.assess import Row
from raybd.evaluation.intervals import Difference, Rate
from raybd.evaluation.metrics import ClassRate
from raybd.evaluation.sequela import Membership, Reinjection, Sequela
from raybd.gate import Check
from raybd.registry import as_json, write_json
from raybd.search.records import TrialRecord, front_of
from raybd.triggers import Patch
from raybd.weights import state_of
from tests.digits import CPU, TINY, stripes
from tests.search.fakes import SPACE, drive, measured, open_decider
from tests.studies import SPACE as STUDY_SPACE
from tests.studies import STUDY

RATE, DROP = Rate.of(9, 300), Difference(value=0.01, low=-0.01, high=0.03, n=300)


def state() -> dict[str, torch.Tensor]:
    return state_of(TINY.build(0))


def weights(folder: Path) -> None:
    save_file(state(), folder / "w.safetensors")
    torch.save(state(), folder / "w.pt")
    torch.save({"net": state(), "epoch": 3}, folder / "nested.pt")
    torch.save(state(), folder / "legacy.pth", _use_new_zipfile_serialization=False)


def bench() -> Bench:
    parts = {name: stripes(24, seed=i) for i, name in enumerate(("train", "clean_set", "selection", "test"))}
    splits = Splits(**parts, members=None, indices={name: list(range(24)) for name in parts}, warnings=())
    trigger = Patch(size=2, row=6, column=6, target_label=0)
    return Bench(architecture=TINY, splits=splits, trigger=trigger, augment=Augment(), compute=CPU, seed=0)


def suspect(folder: Path) -> None:
    made: ImageSet = stripes(3)
    facts = {"attack": {"kind": "badnets"}, "warnings": ["weak"], "poisoned_digest": made.digest()}
    Suspect(
        how="inject",
        bench=bench(),
        state=state(),
        knowledge="planted",
        twin=state(),
        poisoned=(1, 2, 3),
        made=made,
        facts=facts,
    ).save(folder)
    write_json(folder / "test_looks.json", {"looks": 1})


def study(folder: Path) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(STUDY), encoding="utf-8")
    adopted: dict[str, Any] = copy.deepcopy(STUDY)
    for key in ("model", "attack", "training"):
        del adopted[key]
    adopted["suspect"] = {"factory": "nets:build", "arguments": {"classes": 10}, "weights": "w.safetensors"}
    adopted["trigger"] = {"kind": "patch", "size": 2, "target_label": 0}
    adopted["data"]["members"] = {"from": "train"}
    adopted["tracking"]["uri"] = "http://127.0.0.1:5000"
    (folder / "adopted.yaml").write_text(yaml.safe_dump(adopted), encoding="utf-8")
    (folder / "space.yaml").write_text(yaml.safe_dump(STUDY_SPACE), encoding="utf-8")


def space(folder: Path) -> None:
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE.describe()), encoding="utf-8")


def npz(folder: Path) -> None:
    images, labels = stripes(12).images[:, 0].numpy(), np.arange(12) % 3
    parts = {"x_train": images, "y_train": labels, "x_test": images[:6], "y_test": labels[:6].astype(np.uint8)}
    np.savez(folder / "plain.npz", **parts)
    np.savez_compressed(folder / "packed.npz", **parts)


def pictures(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for label, ending in enumerate(("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm")):
        (folder / "images" / str(label % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / str(label % 2) / f"{label}.{ending}")
    np.save(folder / "pattern.npy", pixels.astype(np.float32))


def records() -> list[TrialRecord]:
    figures = [(0.04, 0.98), (0.01, 0.975), (0.5, 0.985)]
    return [
        TrialRecord.of(i, {**SPACE.first[0]}, i, measured(*figure), feasible=figure[0] <= 0.05)
        for i, figure in enumerate(figures)
    ]


def search(folder: Path) -> None:
    Study(
        records=tuple(as_json(record) for record in records()),
        front=front_of(records()),
        space=as_json(SPACE.describe()),
        sampler="tpe",
        seed=0,
        trials=3,
        suspect_digest="suspect",
        seconds=1.0,
        workers=1,
        reference=RATE,
    ).save(folder / "search")


def _row() -> Row:
    return Row(
        clean_accuracy=RATE,
        attack_success_rate=RATE,
        robust_accuracy=RATE,
        accuracy_drop=DROP,
        per_class=(ClassRate(label=0, n=50, rate=0.5, low=0.4, high=0.6),),
        training_seconds=1.0,
        images=10,
        spread=None,
        setting=None,
        collapsed=False,
    )


def cards(folder: Path) -> None:
    search(folder)
    check = Check(
        name="accuracy_drop", value=0.0, bound=0.0, limit=0.1, n=300, status="passed", detail="within its limit"
    )
    again = Reinjection(poisoned_samples=(0, 8), steps=5, lr=0.01, batch_size=8, curves={"candidate": (RATE, None)})
    Assessment(
        suspect=_row(),
        references={"fine_tuning": _row()},
        selected=_row(),
        never_poisoned=None,
        sequela=Sequela(membership=Membership(suspect_members=None, trained_on=None), reinjection=again),
        checks=(check,),
        membership_auc_rise=DROP,
        test_looks=1,
        weights_digest="w",
    ).save(folder / "assess")
    shown = {"number": 1, "setting": SPACE.first[0], "seeds": [5]}
    rates = {name: [as_json(RATE)] for name in ("clean_accuracy", "attack_success_rate", "robust_accuracy")}
    confirmed = {**shown, **rates, "scores": [0.5], "accuracy_drop": [as_json(DROP)], "training_seconds": [1.0]}
    selection = {"defense": {"kind": "super_fine_tuning"}, **shown, "shipped_seed": 5, "why": "it is the best"}
    selection |= {"confirmed": [{**confirmed, "images": [10]}], "training_seconds": 1.0, "images": 10}
    write_json(folder / "select" / "card.json", {**selection, "study_digest": "s", "weights_digest": "w"})
    promotion = {"name": "m", "alias": "a", "version": "1", "previous_version": None, "promoted": True, "refusals": []}
    write_json(folder / "promote" / "card.json", {**promotion, "weights_digest": "w"})


def journal(folder: Path) -> None:
    with open_decider(folder, trials=6) as decider:
        drive(decider)


def outbox(folder: Path) -> None:
    record = {"key": "k", "kind": "child", "name": "trial-0", "started": 1, "ended": 2, "params": {"a": "1"}}
    model = {**record, "key": "m", "kind": "model", "folder": "mlmodels/candidate-0"}
    lines = [{**record, "texts": {"row.json": "{}"}, "files": {"card.json": str(folder / "card.json")}}, model]
    (folder / "outbox.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    state = {"run_key": "abc", "parent_run_id": None, "study": "tiny", "uri": None}
    (folder / "tracking.json").write_text(json.dumps(state), encoding="utf-8")
