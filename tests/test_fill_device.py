"""The ways to fill a device run the same jobs: fused, single and plain trainings agree; finished cells are kept."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd import training
from raybd.data import Augment
from raybd.defenses import SuperFineTuning
from raybd.evaluation.metrics import read
from raybd.models import Architecture
from raybd.registry import BadInput
from raybd.search.view import SearchView
from raybd.training import Compute, finished
from raybd.triggers import Patch
from raybd.weights import state_of
from tests.benchmarks import fill_device
from tests.benchmarks.device import cells, suspects
from tests.benchmarks.device.bench import Bench, Finished, Job, Round
from tests.benchmarks.device.cells import Cell, compare, rate
from tests.benchmarks.device.draws import Draws, augmented, padded
from tests.benchmarks.device.packs import Evaluation, Fused, Pack, Single
from tests.benchmarks.device.plain import Plain, trained
from tests.benchmarks.device.rounds import PackRunner
from tests.benchmarks.device.table import table, winner
from tests.benchmarks.device.ways import WAYS, Way
from tests.digits import CPU, TINY, stripes

AUGMENT = Augment(crop=1, flip=True)
DROPOUT = Architecture(name="small_convnet", arguments={"width": 4}, classes=3, shape=(1, 8, 8))
PEAKS = ((1e-3, 0.05, 1e-2), (5e-3, 0.2, 2e-2), (1e-2, 0.02, 0.1))


def bench(architecture: Architecture = TINY, compute: Compute = CPU) -> Bench:
    """Twelve steps a setting: two cycles of six; three settings."""
    data = stripes()
    settings = tuple(
        SuperFineTuning(
            lr_base=base,
            lr_max1=first,
            lr_max2=second,
            epochs=4,
            phase1_share=0.5,
            batch_size=16,
            ramp_up_steps=3,
            ramp_down_steps=3,
        )
        for base, first, second in PEAKS
    )
    view = SearchView(
        architecture=architecture,
        state=state_of(architecture.build(0)),
        clean_set=data,
        selection=data,
        trigger=Patch(target_label=0),
        augment=AUGMENT,
        compute=compute,
        seed=0,
        reference_correct=torch.ones(len(data), dtype=torch.bool),
    )
    return Bench(view=view.on_device(), settings=settings)


def plain_model(of: Bench, job: Job) -> nn.Module:
    """The model that raybd's own training makes of `job`."""
    defender = of.view.defender()
    finished(job.defense.sanitize(defender, compute=of.view.compute, seed=job.seed, subset_seed=0))
    return defender.model


def run_steps(pack: Pack, jobs: Sequence[Job]) -> None:
    pack.load(jobs)
    for _ in range(pack.bench.steps):
        pack.step()


def farthest(pack: Pack, index: int, model: nn.Module) -> float:
    """The largest difference in a parameter or a buffer between a member of a pack and `model`."""
    own = {**pack.member(pack.params, index), **pack.member(pack.buffers, index)}
    other = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    assert own.keys() == other.keys()
    return max((own[name].double() - other[name].double()).abs().max().item() for name in own)


def test_draws_made_ahead_are_those_of_fit() -> None:
    data, seed = stripes(), 7
    batches = training.Batches(data, 20, AUGMENT, CPU, seed)
    draws = Draws.of([3, seed], images=len(data), batch_size=20, steps=4, augment=AUGMENT)
    for step in range(4):
        parts = [part.view(2, -1)[1] for part in draws.at(torch.tensor([step]))]
        images = augmented(padded(data.images, AUGMENT), (8, 8), *parts)
        inputs, labels = batches.next()
        assert torch.equal(CPU.inputs(images), inputs)
        assert torch.equal(data.labels[parts[0]], labels)


@pytest.mark.parametrize("packed_last", [False, True])
def test_three_settings_fused_end_where_three_plain_trainings_end(packed_last: bool) -> None:
    own = bench()
    jobs = own.jobs(0, 3)
    pack = Fused(own, 3, packed_last=packed_last)
    run_steps(pack, jobs)
    models = [plain_model(own, job) for job in jobs]
    assert max(farthest(pack, i, model) for i, model in enumerate(models)) < 1e-4
    # The settings themselves end far apart, so that a swapped member would be seen.
    assert min(farthest(pack, i, models[(i + 1) % 3]) for i in range(3)) > 1e-2


def test_a_pack_of_one_ends_where_the_plain_training_ends_and_can_begin_again() -> None:
    own = bench()
    pack = Single(own)
    for job in own.jobs(0, 2):
        run_steps(pack, [job])
        assert farthest(pack, 0, plain_model(own, job)) < 1e-5


def test_in_bf16_a_fused_training_stays_near_the_plain_one() -> None:
    own = bench(compute=Compute(precision="bf16"))
    jobs = own.jobs(0, 2)
    pack = Fused(own, 2)
    run_steps(pack, jobs)
    distances = pack._distances()
    for i, job in enumerate(jobs):
        plain = trained(own, job).finished[0]
        assert distances[i] == pytest.approx(plain.distance, rel=0.1)


def test_the_rate_vector_follows_the_schedule_of_each_setting() -> None:
    own = bench()
    jobs = own.jobs(0, 3)
    pack = Fused(own, 3)
    seen: list[Tensor] = []
    update = pack._update
    pack._update = lambda params, grads, momenta, rates, *rest: (
        seen.append(rates[0].flatten().clone()),
        update(params, grads, momenta, rates, *rest),
    )
    run_steps(pack, jobs)
    schedules = [job.defense.plan(len(own.view.clean_set))[0] for job in jobs]
    expected = torch.tensor([[schedule(step) for schedule in schedules] for step in range(own.steps)])
    assert torch.equal(torch.stack(seen), expected)
    assert len({tuple(column) for column in expected.T.tolist()}) == 3


def test_fused_members_draw_dropout_of_their_own() -> None:
    own = bench(DROPOUT)
    pack = Fused(own, 2)
    pack.load([own.job(0), own.job(0)])
    pack.step()
    first, second = pack.losses[0].tolist()
    assert first != second


def test_a_runner_reads_the_figures_that_the_plain_way_reads() -> None:
    own = bench()
    pack = Fused(own, 3)
    runner = PackRunner(own, [pack], pack.step)
    jobs = own.jobs(3, 3)  # the next seed
    done = runner.round(jobs, seconds=100)
    assert done.steps == own.steps
    for job, one in zip(jobs, done.finished, strict=True):
        plain = trained(own, job).finished[0]
        assert (one.index, one.clean_accuracy) == (job.index, pytest.approx(plain.clean_accuracy, abs=0.021))
        assert one.attack_success_rate == pytest.approx(plain.attack_success_rate, abs=0.032)
        assert one.loss == pytest.approx(plain.loss, rel=1e-3)
        assert one.distance == pytest.approx(plain.distance, rel=1e-3)


def test_a_round_that_is_cut_short_gives_a_rate_and_no_figures() -> None:
    own = bench()
    pack = Single(own)
    done = PackRunner(own, [pack], pack.step).round(own.jobs(0, 1), seconds=0)
    assert 0 < done.steps < own.steps
    assert done.finished == ()
    cut = Round(start_seconds=1, training_seconds=2, steps=4, evaluation_seconds=3)
    assert rate([cut], steps=20, size=4)["settings_per_hour"] == pytest.approx(3600 * 4 / (1 + 10 + 3))


def test_a_round_ends_when_no_setting_has_a_finite_loss() -> None:
    own = bench()
    pack = Fused(own, 2)
    runner = PackRunner(own, [pack], lambda: (pack.losses.fill_(float("nan")), pack.at.add_(1)))
    done = runner.round(own.jobs(0, 2), seconds=100)
    assert done.steps == training.FINITE_CHECK_STEPS < own.steps
    assert [one.loss for one in done.finished] == [None, None]


def test_evaluation_counts_like_raybds_own() -> None:
    own = bench()
    pack = Single(own)
    pack.load(own.jobs(0, 1))
    accuracy, success = Evaluation(own).of(pack.logits)
    readings = read(own.suspect(), own.view.selection, own.view.trigger, CPU)
    assert accuracy == [pytest.approx(readings.clean_accuracy.rate)]
    assert success == [pytest.approx(readings.attack_success_rate.rate)]


def test_settings_that_do_not_fit_into_one_pack_are_refused() -> None:
    own = bench()
    longer = SuperFineTuning(lr_base=1e-3, lr_max1=0.1, lr_max2=0.01, epochs=9, phase1_share=0.5, batch_size=16)
    with pytest.raises(BadInput, match="equal steps"):
        Bench(view=own.view, settings=(*own.settings, longer))


def job_ended(index: int, accuracy: float) -> Finished:
    return Finished(index=index, clean_accuracy=accuracy, attack_success_rate=0.5, loss=1.0, distance=1.0)


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [(0.005, 0.0, "equal"), (0.05, 0.0, "differs"), (0.05, 0.2, "undecided")],
)
def test_a_way_is_judged_by_the_mean_difference_on_the_same_jobs(shift: float, spread: float, verdict: str) -> None:
    ended = tuple(job_ended(i, 0.8 + spread * (i // 2)) for i in range(4))  # two settings, two seeds
    plain = Cell(model="m", way="plain", size=1, suspect="s", finished=ended)
    shifted = tuple(job_ended(one.index, one.clean_accuracy - shift) for one in ended)
    way = Cell(model="m", way="w", size=4, suspect="s", finished=shifted)
    compared = compare(plain, way, settings=2, synthetic=False)
    judged = Cell(model="m", way="w", size=4, settings_per_hour=9.0, comparisons=compared)
    assert judged.verdict == verdict
    slower = Cell(model="m", way="plain", size=1, settings_per_hour=1.0)
    said = winner([slower, judged])
    assert said.startswith("wins: w" if verdict == "equal" else "wins: plain")
    assert ("faster, but undecided" in said) == (verdict == "undecided")


def test_a_way_whose_figures_were_not_checked_does_not_win() -> None:
    plain = Cell(model="m", way="plain", size=1, settings_per_hour=1.0)
    said = winner([plain, Cell(model="m", way="fused", size=64, settings_per_hour=9.0)])
    assert said == "wins: plain 1, 1 settings/h (the reference); faster, but not checked: fused 64, 9 settings/h"


def test_figures_on_another_suspect_are_not_compared() -> None:
    plain = Cell(model="m", way="plain", size=1, suspect="s", finished=(job_ended(0, 0.5),))
    way = Cell(model="m", way="w", size=1, suspect="t", finished=(job_ended(0, 0.5),))
    assert compare(plain, way, settings=1, synthetic=False) == ()
    assert way.verdict == "not checked"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that were opened, in a script whose jobs are tiny and whose second way always fails."""
    seen: list[str] = []

    def opens(name: str, open_: Any) -> Any:
        return lambda own, size: (seen.append(name), open_(own, size))[1]

    def broken(own: Bench, size: int) -> Any:
        raise RuntimeError("out of memory")

    table_ = {
        "plain": Way(about="plain", open=opens("plain", Plain)),
        "broken": Way(about="fails", open=opens("broken", broken)),
        "graphs": Way(about="graphs", open=opens("graphs", broken), needs="cuda"),
    }
    monkeypatch.setattr(fill_device, "WAYS", table_)
    monkeypatch.setattr(suspects, "build", lambda *given: bench())
    return seen


def options(folder: Path, *more: str) -> argparse.Namespace:
    given = ["--synthetic", "--device", "cpu", "--quick", "--precision", "fp32", "--models", "small_resnet"]
    places = ["--out", str(folder / "cells.json"), "--work", str(folder)]
    parsed = fill_device.arguments([*given, *places, *more])
    parsed.ways = list(fill_device.WAYS)
    return parsed


def test_a_second_run_goes_on_with_what_is_missing(tmp_path: Path, opened: list[str]) -> None:
    late = fill_device.run(options(tmp_path, "--minutes", "0"))
    assert opened == []
    assert "no time left" in late
    first = fill_device.run(options(tmp_path))
    assert opened == ["plain", "broken"]
    assert "needs CUDA" in first
    assert "RuntimeError: out of memory" in first
    assert fill_device.run(options(tmp_path)) == first
    assert opened == ["plain", "broken"]
    fill_device.run(options(tmp_path, "--retry"))
    assert opened == ["plain", "broken", "broken"]
    fill_device.run(options(tmp_path, "--precision", "bf16"))  # other options: nothing of the above counts
    assert opened == ["plain", "broken", "broken", "plain", "broken"]


def test_a_reference_on_another_suspect_is_measured_again(tmp_path: Path, opened: list[str]) -> None:
    own = options(tmp_path)
    fill_device.run(own)
    store = cells.Store(own.out, fill_device.facts(own, Compute()))
    store.put(Cell(model="small_resnet", way="plain", size=1, suspect="another"))
    fill_device.run(options(tmp_path, "--retry"))
    assert opened == ["plain", "broken", "plain", "broken"]


def test_the_table_names_every_cell() -> None:
    measured = {"settings_per_hour": 100.0, "steps_per_second": 5.0, "prepare_seconds": 1.0}
    plain = Cell(model="m", way="plain", size=1, **measured)
    shown = table("m", [plain], {("fused", 2): "no time left: run again"}, WAYS)
    assert "plain" in shown
    assert "no time left" in shown
    assert shown.endswith("wins: plain 1, 100 settings/h (the reference)")


def test_the_third_partys_network_is_read_from_its_own_benchmark(tmp_path: Path) -> None:
    model = suspects.architecture("small_vgg", suspects.QUICK, tmp_path).build(0)
    assert model.head.in_features == 2048
    assert 2.5e5 < sum(p.numel() for p in model.parameters()) < 3.5e5


@pytest.mark.slow
def test_ways_in_processes_and_the_script_as_a_whole(tmp_path: Path) -> None:
    given = options(tmp_path, "--sizes", "1", "2")
    given.ways = ["plain", "processes", "workers", "fused"]
    shown = fill_device.run(given)
    held = cells.Store(given.out, fill_device.facts(given, Compute())).cells()
    assert [(cell.way, cell.size, cell.error) for cell in held] == [
        ("plain", 1, ""),
        ("processes", 1, ""),
        ("workers", 2, ""),
        ("fused", 2, ""),
    ]
    assert [cell.verdict for cell in held[1:]] == ["equal"] * 3
    assert "Images were noise" in shown


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["graphs", "fused_graphs", "streams", "stream_graphs"])
def test_on_a_gpu_the_other_ways_end_where_the_plain_training_ends(name: str) -> None:
    own = bench(compute=Compute(device="cuda"))
    own.view.compute.apply()
    size = 1 if name == "graphs" else 3
    runner = WAYS[name].open(own, size)
    jobs = own.jobs(0, size)
    for job, one in zip(jobs, runner.round(jobs, seconds=100).finished, strict=True):
        plain = trained(own, job).finished[0]
        assert one.loss == pytest.approx(plain.loss, rel=1e-2)
        assert one.distance == pytest.approx(plain.distance, rel=1e-2)
