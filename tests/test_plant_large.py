"""Planting at BackdoorBench's scale: it runs with torch alone, goes on where it stopped, and keeps one twin."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import plant_large
from tests.digits import splits


@pytest.fixture
def images(tmp_path: Path) -> Path:
    file, parts = tmp_path / "digits.npz", {"train": splits().train, "test": splits().test}
    arrays = {f"x_{n}": s.images[:, 0].numpy() for n, s in parts.items()}
    np.savez(file, **arrays, **{f"y_{n}": s.labels.numpy() for n, s in parts.items()})
    return file


def run(images: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *attacks: str) -> None:
    arguments = [str(images), str(out), "--epochs", "1", "--model", "small_convnet", "--attacks", *attacks]
    monkeypatch.setattr(sys, "argv", ["plant_large", *arguments])
    plant_large.main()


def test_an_interrupted_run_goes_on_and_trains_its_twin_once(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(images, out, monkeypatch, "badnets")
    first = (out / "badnets.json").read_bytes()
    run(images, out, monkeypatch, "badnets", "blended")
    assert capsys.readouterr().out.count("never-poisoned twin") == 1
    assert (out / "badnets.json").read_bytes() == first
    held = json.loads((out / "blended.json").read_text(encoding="utf-8"))
    assert held["suspect"]["clean_accuracy"]["n"] == len(splits().test)
    assert held["published"] == pytest.approx({"clean_accuracy": 0.935, "attack_success_rate": 0.999})


def test_every_attack_on_a_standalone_model_has_its_published_figures_or_none_exist() -> None:
    assert set(plant_large.PUBLISHED) == set(plant_large.ORDER)
    assert plant_large.ORDER[:4] == ("badnets", "blended", "wanet", "input_aware")
