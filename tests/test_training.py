"""What fit promises: rate before the step, full batches, early stops, repeatability; and predict only reads."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raybd import schedules, training
from raybd.data import Augment, ImageSet
from raybd.registry import BadInput, as_json, revive
from raybd.training import Compute, Epoch, Recipe, collapse, finished, fit, predict
from raybd.weights import state_of, weights_digest
from tests.digits import CPU, TINY, stripes

TABLE = json.loads((Path(__file__).parent / "data" / "collapse_trials.json").read_text())


def train(model: nn.Module, data: ImageSet, **changes: Any) -> Iterator[Epoch]:
    values: dict[str, Any] = {
        "steps": 12,
        "batch_size": 16,
        "schedule": schedules.constant(0.05),
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "augment": Augment(),
        "compute": CPU,
        "seed": 0,
    }
    return fit(model, data, **{**values, **changes})


class OneNumber(nn.Module):
    """Two logits, w and 0, whatever the image: one parameter whose every movement can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return torch.stack([self.w.expand(len(x)), torch.zeros(len(x))], dim=1)


class Poisoned(OneNumber):
    """Its loss is not finite from forward pass `after` on, and it ends the test if it is called `limit` times more."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (math.nan if len(self.batches) >= self.after else 1)


def zeros(n: int = 8, classes: int = 2) -> ImageSet:
    return ImageSet(images=torch.zeros(n, 1, 2, 2).byte(), labels=torch.zeros(n).long(), classes=classes)


def test_the_rate_is_set_before_the_step() -> None:
    rates = [0.5, 0.0, 2.0, 0.25]
    model, expected, w = OneNumber(), [], 0.0
    for rate in rates:
        w += rate * (1 - 1 / (1 + math.exp(-w)))  # minus the rate times the gradient of -log sigmoid(w)
        expected.append(w)
    moved = [
        (epoch.lr, model.w.item())
        for epoch in train(
            model, zeros(), steps=4, batch_size=8, schedule=rates.__getitem__, momentum=0.0, weight_decay=0.0
        )
    ]
    assert [lr for lr, _ in moved] == rates
    assert [at for _, at in moved] == pytest.approx(expected)


def test_momentum_and_weight_decay_are_those_of_sgd() -> None:
    model, twin = OneNumber(), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([twin], lr=0.1, momentum=0.8, weight_decay=0.3)
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.softplus(-twin).backward()
        optimizer.step()
    finished(train(model, zeros(), steps=5, schedule=schedules.constant(0.1), momentum=0.8, weight_decay=0.3))
    assert model.w.item() == pytest.approx(twin.item())


def test_every_batch_is_full_and_every_image_is_seen_as_often() -> None:
    data, seen = stripes(10), []

    class Spy(OneNumber):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.flatten(1).sum(1))
            return super().forward(x).repeat(1, 2)

    epochs = list(train(Spy(), data, steps=15, batch_size=4))
    assert {len(batch) for batch in seen} == {4}
    _, counts = torch.cat(seen).unique(return_counts=True)
    assert counts.tolist() == [6] * 10
    assert [(e.steps, e.images) for e in epochs] == [(3, 12), (6, 24), (9, 36), (12, 48), (15, 60)]


def test_a_batch_is_never_larger_than_the_data() -> None:
    model = OneNumber()
    assert finished(train(model, zeros(5), steps=2, batch_size=64)).images == 10
    assert model.batches == [5, 5]


def test_a_cycle_or_an_epoch_is_one_stretch_and_the_last_may_be_short() -> None:
    assert [e.steps for e in train(OneNumber(), zeros(32), steps=7, batch_size=16)] == [2, 4, 6, 7]
    assert [e.steps for e in train(OneNumber(), zeros(32), steps=7, cycle_steps=3)] == [3, 6, 7]


def test_the_loss_of_a_stretch_is_the_mean_of_its_last_quarter() -> None:
    losses, model = [], OneNumber()
    for _ in range(8):
        losses.append(nn.functional.softplus(-model.w).item())
        finished(train(model, zeros(), steps=1, schedule=schedules.constant(1.0), momentum=0.0, weight_decay=0.0))
    whole = finished(
        train(
            OneNumber(),
            zeros(),
            steps=8,
            cycle_steps=8,
            schedule=schedules.constant(1.0),
            momentum=0.0,
            weight_decay=0.0,
        )
    )
    assert whole.loss == pytest.approx(sum(losses[-2:]) / 2)


def test_fit_does_nothing_until_asked_and_closing_it_stops() -> None:
    model = OneNumber()
    epochs = train(model, zeros(), steps=100, batch_size=8)
    assert model.batches == []
    next(epochs)
    next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    assert len(model.batches) == 2
    assert next(epochs, None) is None


@pytest.mark.parametrize("after", [1, 7, 20, 33])
@pytest.mark.parametrize("cycle", [None, 500])
def test_a_loss_that_is_not_finite_ends_the_training_within_20_steps(after: int, cycle: int | None) -> None:
    model = Poisoned(after)
    last = finished(train(model, zeros(4000), steps=1000, batch_size=8, cycle_steps=cycle))
    assert last.collapsed == "the loss is not finite"
    assert math.isnan(last.loss)
    assert len(model.batches) == last.steps < after + 20


def test_a_rate_far_too_high_ends_as_a_collapse_not_as_an_error() -> None:
    last = finished(train(TINY.build(0), stripes(), steps=400, schedule=schedules.constant(1e30)))
    assert last.collapsed
    assert last.steps <= 20


def test_collapse_needs_successive_bad_cycle_ends() -> None:
    bad, good = math.log(10), math.log(10) - 1e-6
    count = training.COLLAPSE_CYCLES
    assert count >= 2
    assert not collapse([bad] * (count - 1), 10)
    assert not collapse([*[bad] * (count - 1), good, *[bad] * (count - 1)], 10)
    assert f"ends of {count} successive cycles" in collapse([good, *[bad] * count], 10)
    assert not collapse([bad] * count, 11)
    assert not collapse([], 10)
    assert collapse([0.1, math.inf], 10) == collapse([math.nan], 10) == "the loss is not finite"


def stuck(steps: int, **changes: Any) -> list[Epoch]:
    """A training whose loss stays at ln(2)."""
    return list(train(OneNumber(), zeros(), steps=steps, schedule=schedules.constant(0.0), weight_decay=0.0, **changes))


def test_a_collapse_is_seen_at_cycle_ends_only_and_names_itself_in_the_last_epoch() -> None:
    epochs = stuck(40, cycle_steps=4)
    assert [e.collapsed != "" for e in epochs] == [False] * (training.COLLAPSE_CYCLES - 1) + [True]
    assert epochs[-1].steps == 4 * training.COLLAPSE_CYCLES
    assert stuck(40)[-1].steps == 40  # an ordinary training may start at the loss of guessing
    assert stuck(40, cycle_steps=4, stop_on_collapse=False)[-1].steps == 40


def stopped_at(losses: list[float | None], classes: int) -> int | None:
    """The cycle at whose end the rule would have stopped this trial."""
    values = [math.nan if loss is None else loss for loss in losses]
    return next((i for i in range(len(values)) if collapse(values[: i + 1], classes)), None)


@pytest.mark.parametrize("table", TABLE["suspects"], ids=lambda table: table["suspect"])
def test_no_recorded_trial_that_ends_at_half_the_references_accuracy_would_have_been_stopped(table: Any) -> None:
    kept = [t for t in table["trials"] if t["clean_accuracy"] >= table["reference_clean_accuracy"] / 2]
    assert len(kept) >= 10
    assert [t["setting"] for t in kept if stopped_at(t["losses"], TABLE["classes"]) is not None] == []


def test_recorded_trials_that_really_collapsed_are_stopped_early() -> None:
    dead = [
        t
        for table in TABLE["suspects"]
        for t in table["trials"]
        if t["clean_accuracy"] < table["reference_clean_accuracy"] / 2
    ]
    stops = [stopped_at(t["losses"], TABLE["classes"]) for t in dead]
    assert len(dead) >= 10
    assert sum(stop is not None for stop in stops) >= 0.8 * len(dead)
    run = sum(len(t["losses"]) if stop is None else stop + 1 for t, stop in zip(dead, stops, strict=True))
    assert run < 0.6 * sum(len(t["losses"]) for t in dead)


def with_dropout() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 3))


@pytest.mark.parametrize("build", [lambda: TINY.build(0), with_dropout], ids=["resnet", "dropout"])
def test_the_same_seed_gives_the_same_weights_to_the_bit(build: Callable[[], nn.Module]) -> None:
    digests = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        model = build()
        torch.manual_seed(noise)  # what the rest of the program drew does not matter
        for _ in train(model, stripes(), augment=Augment(crop=1, flip=True), seed=seed):
            torch.rand(3)  # nor does what it draws in between
        digests.append(weights_digest(model.state_dict()))
    assert digests[0] == digests[1] != digests[2]


def test_training_leaves_the_global_stream_alone() -> None:
    model = with_dropout()
    before = torch.get_rng_state()
    for _ in train(model, stripes(), augment=Augment(crop=1, flip=True)):
        assert torch.equal(torch.get_rng_state(), before)


def test_the_data_is_left_as_it_was() -> None:
    data = stripes()
    before = data.digest()
    finished(train(TINY.build(0), data, augment=Augment(crop=2, flip=True)))
    assert data.digest() == before


def test_a_part_alone_is_trained_and_the_rest_keeps_even_its_batch_statistics() -> None:
    model = TINY.build(0)
    before = state_of(model)
    finished(train(model, stripes(), part=model.head))
    changed = {name for name, tensor in state_of(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{model.head_name}.weight", f"{model.head_name}.bias"}
    assert all(p.grad is None for n, p in model.named_parameters() if model.head_name not in n)


def test_frozen_and_unused_parameters_do_not_stop_a_training() -> None:
    model = with_dropout()
    model.register_module("unused", nn.Linear(2, 2))
    model.forward = lambda x: nn.Sequential.forward(model[:5], x)  # type: ignore[assignment,index]
    model[1].weight.requires_grad_(False)  # type: ignore[index]
    before = model[1].weight.clone()  # type: ignore[index]
    finished(train(model, stripes()))
    assert torch.equal(model[1].weight, before)  # type: ignore[index]


@pytest.mark.parametrize("channels_last", [False, True])
def test_predict_is_a_plain_forward_pass(channels_last: bool) -> None:
    model, data = TINY.build(0), stripes(10)
    finished(train(model, data))
    model.eval()
    with torch.no_grad():
        expected = model(data.images.float() / 255)
    before = weights_digest(state_of(model))
    model.train()
    compute = Compute(channels_last=channels_last)
    for batch_size in (3, 10, 1000):
        got = predict(model, data.images, compute, batch_size)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
        assert not got.is_inference()
    assert weights_digest(state_of(model)) == before
    assert not model.training


@pytest.mark.parametrize(("shape", "largest"), [((1, 8, 8), 1000), ((3, 32, 32), 130), ((3, 700, 700), 1)])
def test_predict_takes_batches_that_stay_in_a_cpus_cache(shape: tuple[int, int, int], largest: int) -> None:
    model = OneNumber()
    images = torch.zeros(1, *shape, dtype=torch.uint8).expand(1200 if largest > 1 else 3, *shape)
    assert len(predict(model, images, CPU)) == len(images)
    assert max(model.batches) == largest
    assert sum(model.batches) == len(images)


@pytest.mark.gpu
@pytest.mark.parametrize("steps", [7, 40])
def test_a_loss_that_is_not_finite_is_seen_in_time_on_a_gpu_too(steps: int) -> None:
    model = Poisoned(after=steps)
    last = finished(train(model, zeros(), steps=100, compute=Compute(device="cuda")))
    assert math.isnan(last.loss)
    assert last.steps <= steps + 20


def test_bf16_predictions_are_float32_and_near() -> None:
    model, data = TINY.build(0), stripes(10)
    got = predict(model, data.images, Compute(precision="bf16"))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, predict(model, data.images, CPU), rtol=0.1, atol=0.1)


def test_a_recipe_learns_ends_near_rate_zero_and_counts_what_it_did() -> None:
    data, model = stripes(), TINY.build(0)
    recipe = Recipe(epochs=12, lr=0.1, batch_size=16)
    epochs = list(recipe.fit(model, data, augment=Augment(), compute=CPU, seed=0))
    assert [e.index for e in epochs] == list(range(12))
    assert (epochs[-1].steps, epochs[-1].images) == (36, 576)
    assert epochs[-1].lr < 0.001 < epochs[0].lr
    assert epochs[-1].seconds > epochs[0].seconds > 0
    assert (predict(model, data.images, CPU).argmax(1) == data.labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("key", "value"), [("epochs", 0), ("lr", -1.0), ("batch_size", 0), ("momentum", -0.1), ("weight_decay", -1.0)]
)
def test_a_recipe_that_makes_no_sense_is_refused(key: str, value: float) -> None:
    with pytest.raises(BadInput, match=f"{key}: expected a number .*got {value}"):
        Recipe(**{"epochs": 1, "lr": 0.1, "batch_size": 4, key: value})  # type: ignore[arg-type]


def test_compute_says_what_it_is_and_refuses_what_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Compute.detect(threads=2, precision="fp32") == Compute(precision="fp32", threads=2)
    assert Compute.detect(precision="bf16").precision == "bf16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BadInput, match=r"resources.gpus_per_trial"):
        Compute.detect(gpu=True)
    with pytest.raises(BadInput, match=r"resources.precision: expected auto, fp32 or bf16, got 'fp16'"):
        Compute.detect(precision="fp16")
    assert revive(Compute, as_json(CPU)) == CPU


@pytest.mark.parametrize(("amx", "precision"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_follows_the_cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, precision: str) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert Compute.detect().precision == precision
