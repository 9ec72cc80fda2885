"""The schedule of super-fine-tuning as it runs, its published settings in full, and what it does to a backdoor."""

import copy
from typing import Any

import pytest
import torch

from raybd.data import Augment, DefenderView
from raybd.defenses import PRESETS, FineTuning, SuperFineTuning
from raybd.evaluation.metrics import Readings, read
from raybd.registry import BadInput, describe
from raybd.training import Epoch
from tests.digits import CPU, DIGITS, splits, victim

SHARED = {
    "kind": "super_fine_tuning",
    "clean_fraction": 1.0,
    "batch_size": 128,
    "ramp_up_steps": 10,
    "ramp_down_steps": 10,
}
TOOLBOX = {"epochs": 100, "phase1_share": 0.4, "momentum": 0.0, "weight_decay": 0.0}
PUBLISHED: dict[str, dict[str, Any]] = {
    "paper": {
        "lr_base": 3e-4,
        "lr_max1": 0.1,
        "lr_max2": 1e-3,
        "epochs": 6,
        "phase1_share": 0.5,
        "momentum": 0.9,
        "weight_decay": 5e-4,
    },
    "toolbox_cifar10": {"lr_base": 3e-2, "lr_max1": 2.5, "lr_max2": 0.05, **TOOLBOX},
    "toolbox_gtsrb": {"lr_base": 3e-3, "lr_max1": 0.25, "lr_max2": 0.005, **TOOLBOX},
}


def test_the_published_settings_are_complete_and_as_published() -> None:
    presets = {name: describe(defense) for name, defense in PRESETS["super_fine_tuning"].items()}
    assert presets == {name: {**SHARED, **setting} for name, setting in PUBLISHED.items()}


def made(**changes: Any) -> SuperFineTuning:
    return SuperFineTuning(**{**PUBLISHED["paper"], **changes})


def test_the_plan_at_start_peaks_troughs_phase_change_and_end() -> None:
    rate, steps = made(epochs=8).plan(1280)  # 80 steps: four cycles of 20, two in each phase
    assert steps == 80
    assert [rate(s) for s in (0, 20, 40, 60)] == pytest.approx([3e-4] * 4)
    assert [rate(s) for s in (10, 30, 50, 70)] == pytest.approx([0.1, 0.1, 1e-3, 1e-3])
    assert rate(39) == pytest.approx(3e-4 + (0.1 - 3e-4) / 10)
    assert rate(41) == pytest.approx(3e-4 + (1e-3 - 3e-4) / 10)
    assert rate(79) == pytest.approx(3e-4 + (1e-3 - 3e-4) / 10)
    assert max(rate(s) for s in range(80)) == pytest.approx(0.1)
    assert min(rate(s) for s in range(80)) == pytest.approx(3e-4)


@pytest.mark.parametrize(
    ("images", "epochs", "run"),
    [(150, 6, 20.0), (150, 20, 20.0), (1000, 6, 7.5), (1000, 5, 5.0), (1280, 6, 6.0), (100, 1, 40.0)],
)
def test_the_epochs_that_are_run_are_whole_cycles_and_never_fewer_than_asked(
    images: int, epochs: int, run: float
) -> None:
    assert made(epochs=epochs).epochs_run(images) == run
    assert FineTuning(epochs=epochs).epochs_run(images) == epochs


def test_the_toolbox_plan_is_the_toolboxs() -> None:
    """2,000 images: 16 steps an epoch, 1,600 in all, 40 epochs = 32 cycles of phase 1 (method.md 1.2)."""
    defense = PRESETS["super_fine_tuning"]["toolbox_cifar10"]
    assert isinstance(defense, SuperFineTuning)
    rate, steps = defense.plan(2000)
    assert steps == 1600
    assert (rate(630), rate(650)) == pytest.approx((2.5, 0.05))


@pytest.mark.parametrize(
    ("images", "epochs", "share", "expected"),
    [
        (100, 1, 0.5, (20, 40)),  # at least a cycle in each phase
        (1280, 6, 0.5, (40, 60)),  # 60 steps are three cycles: phase 1 is rounded up
        (1280, 7, 0.5, (40, 80)),
        (1280, 6, 0.95, (40, 60)),
    ],
)
def test_a_run_lasts_whole_cycles(images: int, epochs: int, share: float, expected: tuple[int, int]) -> None:
    rate, steps = made(epochs=epochs, phase1_share=share).plan(images)
    change = next(s for s in range(10, steps, 20) if rate(s) == pytest.approx(1e-3)) - 10
    assert (change, steps) == expected


def test_any_order_of_positive_rates_is_legal() -> None:
    rate, _ = made(lr_base=0.1, lr_max1=1e-3, lr_max2=0.5).plan(1280)
    assert [rate(s) for s in (0, 10, 50)] == pytest.approx([0.1, 1e-3, 0.5])


@pytest.mark.parametrize("share", [0, 1, -0.2, 1.2])
def test_both_phases_have_a_share(share: float) -> None:
    with pytest.raises(BadInput, match="phase1_share: expected between 0 and 1, got"):
        made(phase1_share=share)


def sanitized(**changes: Any) -> tuple[Readings, list[Epoch]]:
    """A digits BadNets suspect, after super-fine-tuning with the demo's batch and cycle."""
    defense = made(**{"batch_size": 32, "ramp_up_steps": 8, "ramp_down_steps": 8, **changes})
    data = splits()
    view = DefenderView(
        model=copy.deepcopy(victim().planted.model),
        fresh_model=DIGITS.build,
        clean_set=data.clean_set,
        training_set=None,
        augment=Augment(),
    )
    epochs = list(defense.sanitize(view, compute=CPU, seed=0, subset_seed=0))
    return read(view.model, data.selection, victim().planted.trigger, CPU), epochs


def test_each_cycle_is_yielded_and_the_rate_reported_is_the_one_used() -> None:
    _, epochs = sanitized(epochs=2)
    assert [e.steps for e in epochs] == [16, 32]
    assert [e.lr for e in epochs] == pytest.approx([3e-4 + (0.1 - 3e-4) / 8, 3e-4 + (1e-3 - 3e-4) / 8])


def test_a_high_peak_removes_a_backdoor_that_the_published_values_leave() -> None:
    suspect = read(victim().planted.model, splits().selection, victim().planted.trigger, CPU)
    published, _ = sanitized(batch_size=128, ramp_up_steps=10, ramp_down_steps=10)
    tuned, _ = sanitized(epochs=25, lr_max1=0.35, lr_max2=0.02, phase1_share=0.4)
    assert suspect.attack_success_rate.rate > 0.9
    assert published.attack_success_rate.rate > 0.8
    assert tuned.attack_success_rate.rate < 0.1
    assert tuned.clean_accuracy.rate > suspect.clean_accuracy.rate - 0.1


def test_the_suspect_these_tests_share_is_still_the_suspect() -> None:
    before = {n: t.clone() for n, t in victim().planted.model.state_dict().items()}
    sanitized(epochs=1)
    assert all(torch.equal(t, before[n]) for n, t in victim().planted.model.state_dict().items())
