"""What the comparison with a stock pipeline rests on: both sides do the same work, the ratios are computed right."""

import argparse
import math
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from raybd.data import Augment, ImageSet
from raybd.defenses import SuperFineTuning
from raybd.evaluation.metrics import attackable, read
from raybd.images import pad_and_crop
from raybd.registry import BadInput, read_json, write_json
from raybd.settings import load_study
from raybd.stages import preparation
from raybd.training import steps_per_epoch
from raybd.triggers import Patch
from tests.benchmarks import stock_pipeline, stock_rows, stock_summary
from tests.benchmarks.stock_cases import Limits, add_patch, as_arrays, digits, plant_digits
from tests.benchmarks.stock_loop import Problem, accuracy, rate_schedule, super_fine_tune
from tests.benchmarks.where_time_goes import shares
from tests.digits import CPU, TINY, stripes

PATCH = Patch(target_label=1, size=2, row=5, column=3, value=200)
SETTING = {
    "lr_base": 1e-3, "lr_max1": 0.3, "lr_max2": 0.01, "epochs": 3, "phase1_share": 0.4, "batch_size": 10,
    "momentum": 0.9, "weight_decay": 5e-4, "ramp_up_steps": 3, "ramp_down_steps": 4,
}  # fmt: skip


def problem(images: ImageSet, crop: int = 0) -> Problem:
    model = TINY.build(0)
    return Problem(
        build=lambda: TINY.build(1),
        state=model.state_dict(),
        clean=as_arrays(images),
        selection=as_arrays(images),
        patch=add_patch(PATCH),
        target=PATCH.target_label,
        crop=crop,
    )


def colour(n: int = 6) -> ImageSet:
    stream = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=stream).to(torch.uint8)
    return ImageSet(images=images, labels=torch.arange(n) % 3, classes=3)


@pytest.mark.parametrize("images", [stripes(n=6), colour()], ids=["grey", "colour"])
def test_both_sides_trigger_the_same_images_the_same_way(images: ImageSet) -> None:
    theirs = problem(images).triggered_test()
    targets, goals = attackable(images, PATCH)
    ours = PATCH.apply(targets.images).float() / 255
    assert len(theirs) == len(targets)
    assert torch.equal(torch.stack([theirs[i][0] for i in range(len(theirs))]), ours)
    assert [theirs[i][1] for i in range(len(theirs))] == goals.tolist()


@pytest.mark.parametrize("patch", [Patch(target_label=0), Patch(target_label=0, row=1, column=-1)])
def test_a_patch_placed_from_the_lower_right_is_refused(patch: Patch) -> None:
    with pytest.raises(BadInput, match="trigger"):
        add_patch(patch)


def test_both_sides_shift_training_images_alike() -> None:
    one = colour(1)
    theirs = problem(one, crop=1).training_set()
    torch.manual_seed(0)
    seen = {theirs[0][0].mul(255).round().to(torch.uint8).numpy().tobytes() for _ in range(200)}
    many = pad_and_crop(one.images.expand(200, -1, -1, -1), 1, torch.Generator().manual_seed(0))
    assert len(seen) == 9
    assert seen == {image.numpy().tobytes() for image in many}
    assert not Augment().crop
    assert torch.equal(problem(one).training_set()[0][0], one.images[0].float() / 255)


@pytest.mark.parametrize("epochs", [1, 3, 8])
@pytest.mark.parametrize("images", [20, 48])
def test_a_setting_means_the_same_rates_on_both_sides(epochs: int, images: int) -> None:
    setting = {**SETTING, "epochs": epochs}
    ours, our_steps = SuperFineTuning(**setting).plan(images)
    theirs, their_steps = rate_schedule(setting, steps_per_epoch(images, setting["batch_size"]))
    assert their_steps == our_steps
    assert [theirs(step) for step in range(our_steps)] == [ours(step) for step in range(our_steps)]


def test_the_stock_loop_takes_the_rates_of_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noting(self: torch.optim.SGD, *args: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    list(super_fine_tune(problem(stripes()), SETTING, each_epoch=False))
    schedule, steps = rate_schedule(SETTING, steps_per_epoch(48, 10))
    assert rates == pytest.approx([schedule(i) for i in range(steps)])


def test_as_written_is_measured_after_every_pass_and_matched_once() -> None:
    given = problem(stripes())
    _, steps = rate_schedule(SETTING, steps_per_epoch(48, 10))
    passes = math.ceil(steps / steps_per_epoch(48, 10))
    assert passes > 2
    assert len(list(super_fine_tune(given, SETTING, each_epoch=True))) == passes
    assert len(list(super_fine_tune(given, SETTING, each_epoch=False))) == 1


def test_both_sides_read_the_same_rates_off_a_model() -> None:
    images = colour(60)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    given = problem(images)
    theirs = [
        accuracy(model, DataLoader(test, batch_size=7), "cpu") for test in (given.clean_test(), given.triggered_test())
    ]
    ours = read(model, images, PATCH, CPU)
    assert 0 < theirs[0] < 1
    assert 0 < theirs[1] < 1
    assert theirs == pytest.approx([ours.clean_accuracy.rate, ours.attack_success_rate.rate])


def test_the_digits_are_split_as_the_demo_splits_them(tmp_path: Path) -> None:
    case = digits(tmp_path)
    adopting = preparation.bench(case.settings("a", trials=1, seed=0, workers=1, precision="fp32"))
    planting = preparation.bench(load_study("demo"))
    for part in ("clean_set", "selection"):
        assert getattr(adopting.splits, part).digest() == getattr(planting.splits, part).digest()
    assert adopting.trigger is not None
    assert planting.trigger is not None
    shape = planting.architecture.shape
    assert adopting.trigger.digest(shape) == planting.trigger.digest(shape)


def test_both_sides_are_given_the_same_list_of_settings(tmp_path: Path) -> None:
    case = digits(tmp_path).narrowed((20, 22)).listed(3)
    space = case.settings("a", trials=3, seed=0, workers=1, precision="fp32").load_space()
    assert list(space.first) == list(case.space["first"])
    assert len({setting["lr_max1"] for setting in space.first}) == 3
    assert {setting["epochs"] for setting in space.first} <= {20, 21, 22}
    assert list(space.first) == list(digits(tmp_path).narrowed((20, 22)).listed(3).space["first"])


def test_feasible_means_that_both_limits_hold() -> None:
    limits = Limits(max_attack_success_rate=0.05, min_clean_accuracy=0.9)
    assert limits({"attack_success_rate": 0.05, "clean_accuracy": 0.9})
    assert not limits({"attack_success_rate": 0.06, "clean_accuracy": 0.9})
    assert not limits({"attack_success_rate": 0.05, "clean_accuracy": 0.89})


def row(*ends: float, began: float = 0.0, seconds: float | None = None, feasible: int | None = None) -> dict[str, Any]:
    trials = [
        {
            "end": end,
            "feasible": i == feasible,
            "setting": {"x": i},
            "clean_accuracy": 0.9,
            "attack_success_rate": 0.1,
        }
        for i, end in enumerate(ends)
    ]
    return {"seconds": seconds or max(ends), "began": began, "precision": "fp32", "trials": trials}


def document(**parts: Any) -> dict[str, Any]:
    return {"throughput": {}, "first_feasible": {}, **parts}


def test_ratios_are_of_medians() -> None:
    stock = [row(10, 60, seconds=72.0), row(10, 720), row(10, 80, began=8, seconds=100.0)]
    ours = [row(5, 30, seconds=36.0)]
    (pair,) = stock_summary.ratios(document(throughput={"stock x": stock, "raybd auto": ours})).values()
    assert pair["trials_per_hour"] == pytest.approx(100 / 36)
    assert pair["steady_trials_per_hour"] == pytest.approx(72 / 30)


def test_a_search_without_a_feasible_trial_counts_as_longest() -> None:
    stock = [row(10, 50), row(10, 40, feasible=1), row(10, 60)]
    ours = [row(2, 9, feasible=0), row(5, 9, feasible=0), row(4, 9, feasible=0)]
    times = {"stock x": stock, "raybd auto": ours}
    (pair,) = stock_summary.ratios(document(first_feasible=times)).values()
    assert pair == {"first_feasible": 50 / 4, "first_feasible_at_least": True}
    times["raybd auto"] = [row(1), row(2)]
    (pair,) = stock_summary.ratios(document(first_feasible=times)).values()
    assert pair["first_feasible"] is None
    times |= {"stock x": [row(8, 90, feasible=0), row(20, feasible=0), row(12, feasible=0)], "raybd auto": ours}
    (pair,) = stock_summary.ratios(document(first_feasible=times)).values()
    assert pair == {"first_feasible": 12 / 4, "first_feasible_at_least": False}


def test_trials_are_compared_by_setting_and_stopped_ones_left_out() -> None:
    ours, theirs = row(1, 2, 3), row(1, 2, 3)
    ours["trials"][0] |= {"collapsed": True, "clean_accuracy": 0.1}
    ours["trials"][1] |= {"clean_accuracy": 0.92}
    theirs["trials"].reverse()
    apart = stock_summary.agreement({"a": [ours], "b": [theirs]}, "a", "b")
    assert apart["trials"] == 2
    assert apart["clean_accuracy"] == pytest.approx(1.0)
    assert apart["clean_accuracy_spread"] == pytest.approx(2.0)
    assert apart["attack_success_rate"] == pytest.approx(0.0)


def test_agreement_is_over_all_repeats_and_bears_an_interval() -> None:
    ours, theirs = [row(1, 2), row(1, 2)], [row(1, 2), row(1, 2)]
    for repeat, rate in zip(ours, (0.92, 0.94), strict=True):
        repeat["trials"][0] |= {"clean_accuracy": rate}
    base = theirs[0]["trials"][0]["clean_accuracy"]
    apart = stock_summary.agreement({"a": ours, "b": theirs}, "a", "b")
    first = 100 * (0.93 - base)
    assert apart["repeats"] == 2
    assert apart["clean_accuracy"] == pytest.approx(first / 2)
    assert apart["clean_accuracy_half"] == pytest.approx(12.706 * abs(first) / 2, rel=1e-3)


def test_worker_time_is_training_evaluation_start_tail_and_what_each_trial_costs() -> None:
    records = tuple({"training_seconds": 6.0, "evaluation_seconds": 1.0, "images": 60} for _ in range(4))
    study = types.SimpleNamespace(workers=2, records=records)
    spent = shares(study, ends=[9.0, 10.0, 17.0, 19.0], starts=[2.0, 3.0], seconds=19.0)  # type: ignore[arg-type]
    assert spent["training_share"] == pytest.approx(24 / 38)
    assert spent["evaluation_share"] == pytest.approx(4 / 38)
    assert spent["start_share"] == pytest.approx(5 / 38)
    assert spent["tail_share"] == pytest.approx(2 / 38)
    assert spent["overhead_seconds_per_trial"] == pytest.approx((38 - 24 - 4 - 5 - 2) / 4)
    assert spent["images_per_second_of_training"] == pytest.approx(10)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_both_sides_search_from_end_to_end(tmp_path: Path) -> None:
    plant_digits(tmp_path)
    case = digits(tmp_path).narrowed((20, 21)).listed(2)
    given = {"trials": 2, "slots": 1, "seed": 0, "until_feasible": False}
    rows = {
        "stock": stock_rows.stock(case, **given, folder=tmp_path / "stock", each_epoch=False),
        "raybd": stock_rows.raybd(case, **given, folder=tmp_path / "raybd", precision="fp32"),
    }
    tried = {name: [t["setting"] for t in row["trials"]] for name, row in rows.items()}
    assert len(tried["stock"]) == 2
    assert sorted(map(str, tried["stock"])) == sorted(map(str, tried["raybd"]))
    assert all(0 < row["began"] < min(t["end"] for t in row["trials"]) <= row["seconds"] for row in rows.values())


def options(**given: Any) -> argparse.Namespace:
    nothing = dict.fromkeys(("data", "settings", "repeats", "seeds", "budget", "epochs"))
    return argparse.Namespace(**{**nothing, "quick": False, **given})


def test_quick_is_a_smaller_plan_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    full = stock_pipeline.plan(options(data=Path("x")))
    quick = stock_pipeline.plan(options(data=Path("x"), quick=True, budget=5))
    assert (full["throughput_on"], full["first_feasible_on"], full["repeats"]) == ("gtsrb", "gtsrb", 3)
    assert (quick["throughput_on"], quick["first_feasible_on"], quick["budget"]) == ("gtsrb", "digits", 5)
    measured = stock_pipeline.Measurement(tmp_path / "work", quick, 1, tmp_path / "r.json").document()
    assert "--quick leaves out" in "\n".join(stock_summary.lines(measured))


def test_what_is_measured_is_not_measured_again(tmp_path: Path) -> None:
    chosen = stock_pipeline.plan(options())
    measurement = stock_pipeline.Measurement(tmp_path / "work", chosen, 1, tmp_path / "r.json")
    kept = {"stock matched": row(50.0, 100.0), "raybd auto": row(5.0, 10.0)}
    for name, each in kept.items():
        write_json(tmp_path / "work" / "rows" / "throughput" / name / "0.json", each)
        measurement.take("throughput", name, 0, refuse, digits(tmp_path))
    results = read_json(tmp_path / "r.json")
    assert results["throughput"] == {name: [each] for name, each in kept.items()}
    assert results["ratios"]["raybd auto / stock matched"]["trials_per_hour"] == 10
    assert results["environment"]["torch"] == torch.__version__.partition("+")[0]
    last = stock_summary.lines(measurement.document())[-1]
    assert last.startswith("  raybd auto / stock matched: 10.00x the trials per hour")
    with pytest.raises(SystemExit, match="another plan"):
        stock_pipeline.Measurement(tmp_path / "work", {**chosen, "settings": 1}, 1, tmp_path / "r.json")


def refuse(*args: Any, **kwargs: Any) -> stock_rows.Row:
    raise AssertionError("measured again")
