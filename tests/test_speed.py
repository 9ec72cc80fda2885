"""Claims about the prediction: its arithmetic, its idea of an average trial, and that measuring leaves no trace."""

import dataclasses
from pathlib import Path

import pytest
from torch import nn

from raybd import speed
from raybd.models import Classifier
from raybd.search.space import FloatRange, IntRange, Space
from raybd.speed import Speed, average_images, measure
from raybd.stages import preparation
from tests.search.fakes import tiny_view
from tests.stages import test_downstream as downstream
from tests.studies import adopting, contents, study

KNOWN = Speed(
    device="cpu",
    precision="fp32",
    matmul_flops=1e9,
    copy_bytes_per_second=1e9,
    flop_per_image=2e6,
    bytes_per_image=4e6,
    training_rate=100.0,
    evaluation_rate=400.0,
    images_per_trial=3000.0,
    evaluation_seconds=5.0,
    overhead_seconds=1.0,
    trials=100,
    workers=2,
)


def test_hours_follow_from_the_rates() -> None:
    assert KNOWN.training_seconds == 30
    assert KNOWN.seconds_per_trial == 36
    assert KNOWN.hours == pytest.approx(0.5)
    assert dataclasses.replace(KNOWN, workers=1).hours == pytest.approx(1.0)


def test_shares_are_of_the_measured_limits() -> None:
    assert KNOWN.matmul_share == pytest.approx(0.2)
    assert KNOWN.memory_share == pytest.approx(0.2), "a copied byte is read and written"


def test_the_average_trial_is_that_of_the_space() -> None:
    fixed = {"lr_base": 1e-3, "lr_max1": 0.1, "lr_max2": 0.01, "batch_size": 10, "ramp_up_steps": 1}
    space = Space(
        defense="super_fine_tuning",
        fixed={**fixed, "ramp_down_steps": 1, "phase1_share": 0.5},
        search={"epochs": IntRange(low=2, high=10), "momentum": FloatRange(low=0.1, high=0.9)},
    )
    assert average_images(space, 100) == pytest.approx(600, rel=0.03)
    halves = dataclasses.replace(space, fixed={**space.fixed, "clean_fraction": 0.5})
    # 50 images are 5 steps an epoch; whole cycles of 2 round an odd number of steps up.
    assert average_images(halves, 100) == pytest.approx(305, rel=0.03)


def test_flop_and_traffic_of_a_linear_layer_are_those_of_its_sizes() -> None:
    view = tiny_view()
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4, bias=False))

    class Linear(type(view)):  # type: ignore[misc]
        def defender(self) -> object:
            return dataclasses.replace(super().defender(), model=Classifier(body))

    flop, traffic = speed._step_cost(Linear(**{f.name: getattr(view, f.name) for f in dataclasses.fields(view)}))
    # Forward, and the weight's gradient; the images need none.
    assert flop == 2 * 2 * 64 * 4
    assert traffic == 4 * 4 * (64 + 4), "four passes of four bytes over what both layers give"


@pytest.mark.parametrize("adopted", [False, True])
def test_a_trigger_whose_pull_on_the_users_task_is_not_known_yet_can_be_timed(tmp_path: Path, adopted: bool) -> None:
    settings = downstream.study(tmp_path, **downstream.ADOPTED | {"upstream": {"classes": 10}} if adopted else {})
    ready = preparation.bench(settings)
    assert ready.trigger is not None
    assert not ready.trigger.aimed
    assert speed._view(ready, settings).trigger.aimed


@pytest.mark.parametrize("trigger", ["known", "unknown"])
def test_measuring_gives_positive_figures_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trigger: str
) -> None:
    monkeypatch.setattr(speed, "TRAINING_SECONDS", 0.5)
    monkeypatch.setattr(speed, "OVERHEAD_TRIALS", 2)
    monkeypatch.setitem(speed.MATRIX, "cpu", 64)
    monkeypatch.setitem(speed.COPIED, "cpu", 2**16)
    monkeypatch.chdir(tmp_path)
    unknown = {"suspect": {"name": "small_convnet", "weights": "none.pth"}, "trigger": "unknown"}
    settings = study(tmp_path / "study") if trigger == "known" else adopting(tmp_path / "study", **unknown)
    before = contents(tmp_path)
    steps: list[str] = []
    found = measure(settings, trials=10, workers=3, on_step=steps.append)
    figures = dataclasses.asdict(found)
    assert all(value > 0 for name, value in figures.items() if isinstance(value, float) and name != "overhead_seconds")
    assert found.overhead_seconds >= 0
    assert (found.trials, found.workers) == (10, 3)
    assert steps == ["matrix multiplication and memory", "training", "evaluation", "overhead of a trial"]
    assert contents(tmp_path) == before
