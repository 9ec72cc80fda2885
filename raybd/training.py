"""Training and prediction in plain torch: fit yields one stretch at a time, predict gives logits."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from raybd import schedules, seeds
from raybd.compute import Compute
from raybd.data import Augment, ImageSet
from raybd.registry import BadInput
from raybd.schedules import Schedule

__all__ = [
    "COLLAPSE_CYCLES",
    "CPU_EVALUATION_VALUES",
    "EVALUATION_BATCH",
    "FINITE_CHECK_STEPS",
    "Batches",
    "Compute",
    "Epoch",
    "Recipe",
    "check_not_negative",
    "check_positive",
    "collapse",
    "descend",
    "descend_passes",
    "finished",
    "fit",
    "not_finite",
    "predict",
    "steps_per_epoch",
]

FINITE_CHECK_STEPS = 10
"""Every so many steps the loss is looked at; one that is not finite is seen within twice as many, see `_Watch`."""

CPU_EVALUATION_VALUES = 400_000
"""So many input values make a batch of `predict` on a CPU, about 130 images of 3 x 32 x 32: what it computes stays in
the cache. Batches of 1,000 took 1.5 times as long in bf16, 1.7 times in fp32 (medians of 5 on one idle core of an
AMD EPYC, 1,960 images through the third party's network of tests/benchmarks)."""
EVALUATION_BATCH = 1000
"""At most so many images make a batch of `predict`."""

COLLAPSE_CYCLES = 3
"""After so many successive cycle ends without learning a training has collapsed. Of 72 recorded trials two would
stop two that recover to 61 and 76 % of the reference's accuracy (tests/data/collapse_trials.json)."""


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One stretch of training: an epoch, or one cycle of a cyclic schedule.

    `steps`, `images` and `seconds` count from the start of the training, which takes `total` steps; `loss` is the
    mean of the stretch's last quarter; `collapsed` names the reason if this stretch was the last because of a
    collapse.
    """

    index: int
    steps: int
    total: int
    images: int
    lr: float
    loss: float
    seconds: float
    collapsed: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained from scratch: SGD with a cosine rate. `lr` is the rate of the first step."""

    epochs: int
    lr: float
    batch_size: int
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "lr", "batch_size")
        check_not_negative(self, "momentum", "weight_decay")

    def fit(
        self, model: nn.Module, data: ImageSet, *, augment: Augment, compute: Compute, seed: int
    ) -> Iterator[Epoch]:
        """Train `model` in place on `data`, yielding each epoch."""
        steps = self.epochs * steps_per_epoch(len(data), self.batch_size)
        return fit(
            model,
            data,
            steps=steps,
            batch_size=self.batch_size,
            schedule=schedules.cosine(self.lr, steps),
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            augment=augment,
            compute=compute,
            seed=seed,
        )


def check_positive(component: object, *names: str) -> None:
    """Raise BadInput unless each named field of `component` is above zero."""
    for name in names:
        if not getattr(component, name) > 0:
            raise BadInput(f"{name}: expected a number above 0, got {getattr(component, name)!r}")


def check_not_negative(component: object, *names: str) -> None:
    """Raise BadInput unless each named field of `component` is zero or above."""
    for name in names:
        if not getattr(component, name) >= 0:
            raise BadInput(f"{name}: expected a number of at least 0, got {getattr(component, name)!r}")


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Return how many steps see about every image once; batches are always full, see `fit`."""
    return max(1, math.ceil(images / batch_size))


def collapse(stretch_losses: Iterable[float], classes: int) -> str:
    """Return why training has collapsed, or '' if it has not.

    A loss that is not finite is a collapse. So is a loss at or above ln(classes), what guessing costs, at the ends
    of `COLLAPSE_CYCLES` successive cycles: phase 1 wrecks good trials on purpose, so a bad end or two do not count.
    """
    last = deque(stretch_losses, maxlen=COLLAPSE_CYCLES)
    if last and (reason := not_finite(last)):
        return reason
    if len(last) == COLLAPSE_CYCLES and min(last) >= math.log(classes):
        limit = f"ln({classes}) = {math.log(classes):.2f}"
        return f"the loss was at or above {limit} at the ends of {COLLAPSE_CYCLES} successive cycles"
    return ""


def not_finite(stretch_losses: Sequence[float]) -> str:
    """Return that the last loss is not finite, or '' if it is."""
    return "" if math.isfinite(stretch_losses[-1]) else "the loss is not finite"


def fit(
    model: nn.Module,
    data: ImageSet,
    *,
    steps: int,
    batch_size: int,
    schedule: Schedule,
    momentum: float,
    weight_decay: float,
    augment: Augment,
    compute: Compute,
    seed: int,
    part: nn.Module | None = None,
    cycle_steps: int | None = None,
    stop_on_collapse: bool = True,
) -> Iterator[Epoch]:
    """Train `model` in place with SGD and cross-entropy, yielding after each epoch or, if given, each cycle.

    Batches come from one shuffled stream without end, so each is full (of `data` if that is smaller). The rate is
    set before the step. A loss that is not finite ends the training within 20 steps; with `cycle_steps`, a
    collapse by `collapse` ends it too. The last Epoch then names the reason.

    Args:
        model: trained on `compute.device`; it stays there.
        data: images (n, c, h, w) uint8 and labels (n,).
        steps: optimiser steps in all.
        batch_size: images per step.
        schedule: learning rate of each step.
        momentum: of SGD.
        weight_decay: of SGD.
        augment: applied to each batch.
        compute: device, precision, threads.
        seed: of order, augmentation and dropout.
        part: the layer to train; the rest stays as it is, batch statistics included. All layers by default.
        cycle_steps: steps of one cycle of the schedule, if it has cycles.
        stop_on_collapse: False only to record what would have become of a collapsing run.
    """
    compute.place(model)
    trained = model if part is None else part
    weights = list(trained.parameters())
    optimizer = torch.optim.SGD(weights, lr=schedule(0), momentum=momentum, weight_decay=weight_decay)
    batches = Batches(data, batch_size, augment, compute, seed)

    def begin() -> None:
        model.eval()
        trained.train()

    def loss_of_step() -> Tensor:
        inputs, labels = batches.next()
        with compute.autocast():
            return nn.functional.cross_entropy(model(inputs), labels)

    def verdict(ends: Sequence[float]) -> str:
        return collapse(ends if cycle_steps else ends[-1:], data.classes) if stop_on_collapse else ""

    yield from descend(
        loss_of_step,
        optimizer,
        steps=steps,
        stretch=cycle_steps or batches.per_pass,
        batch_size=batches.size,
        schedule=schedule,
        compute=compute,
        seed=seed,
        begin=begin,
        verdict=verdict,
    )


def descend(
    loss_of_step: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    stretch: int,
    batch_size: int,
    schedule: Schedule,
    compute: Compute,
    seed: int,
    begin: Callable[[], object],
    verdict: Callable[[Sequence[float]], str] = not_finite,
) -> Iterator[Epoch]:
    """Take down any loss, yielding after each stretch: what `fit` does, and trainings whose loss is their own.

    Args:
        loss_of_step: draws the next batch and returns its loss.
        optimizer: of all that is trained.
        steps: optimiser steps in all.
        stretch: steps between two Epochs.
        batch_size: images per step, for the count.
        schedule: learning rate of each step, set before it.
        compute: device, precision, threads.
        seed: of what the layers draw.
        begin: called before each stretch, to set what the layers do in training: whoever got the Epoch may have
            changed it.
        verdict: says from the loss of every stretch so far why to stop, or ''.
    """
    randomness = seeds.IsolatedRandom(seeds.derive(seed, "layers"))
    ends: list[float] = []
    seconds = 0.0
    done = 0
    while done < steps:
        start = time.perf_counter()
        until = min(steps, done + stretch)
        with randomness:
            begin()
            done, loss = _run_stretch(loss_of_step, optimizer, schedule, compute, done, until)
        ends.append(loss)
        seconds += time.perf_counter() - start
        reason = verdict(ends)
        yield Epoch(
            index=len(ends) - 1,
            steps=done,
            total=steps,
            images=done * batch_size,
            lr=schedule(done - 1),
            loss=loss,
            seconds=seconds,
            collapsed=reason,
        )
        if reason:
            return


def descend_passes(
    loss_of_step: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: "Batches",
    *,
    epochs: int,
    lr: float,
    compute: Compute,
    seed: int,
    begin: Callable[[], object],
) -> Iterator[Epoch]:
    """Take down any loss at the constant rate `lr` for whole passes over `batches`, yielding each; see `descend`."""
    yield from descend(
        loss_of_step,
        optimizer,
        steps=epochs * batches.per_pass,
        stretch=batches.per_pass,
        batch_size=batches.size,
        schedule=schedules.constant(lr),
        compute=compute,
        seed=seed,
        begin=begin,
    )


class Batches:
    """Augmented batches on the device, from an endless stream of shuffles of resident uint8 images."""

    def __init__(self, data: ImageSet, batch_size: int, augment: Augment, compute: Compute, seed: int) -> None:
        self._images = data.images.to(compute.device)
        self._labels = data.labels.to(compute.device)
        self._generator = seeds.generator(seed, "batches")
        self._augment = augment
        self._compute = compute
        self._order = torch.empty(0, dtype=torch.int64, device=compute.device)
        self.size = min(batch_size, len(data))
        self.per_pass = steps_per_epoch(len(data), batch_size)

    def next(self) -> tuple[Tensor, Tensor]:
        """Return inputs (b, c, h, w) float and labels (b,)."""
        images, labels = self.next_images()
        return self._compute.inputs(images), labels

    def next_images(self) -> tuple[Tensor, Tensor]:
        """Return the same as images (b, c, h, w) uint8, for what must be done to them first, and labels (b,)."""
        while len(self._order) < self.size:
            shuffle = torch.randperm(len(self._labels), generator=self._generator)
            # Not blocking: else the host would wait here for every step that the device has not taken yet.
            self._order = torch.cat([self._order, shuffle.to(self._order.device, non_blocking=True)])
        chosen, self._order = self._order[: self.size], self._order[self.size :]
        return self._augment(self._images[chosen], self._generator), self._labels[chosen]


def _run_stretch(
    loss_of_step: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    compute: Compute,
    done: int,
    until: int,
) -> tuple[int, float]:
    """Take steps `done` to `until`; return (steps taken in all, mean loss of the last quarter)."""
    losses: list[Tensor] = []
    watch = _Watch(compute.device)
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    for step in range(done, until):
        for group in optimizer.param_groups:
            group["lr"] = schedule(step)
        loss = loss_of_step()
        optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=trained)  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        if (step + 1) % FINITE_CHECK_STEPS == 0 and not watch.finite(losses[-1]):
            return step + 1, math.nan
    quarter = losses[-max(1, (until - done) // 4) :]
    return until, torch.stack(quarter).float().mean().item()


class _Watch:
    """Says whether losses were finite; on a GPU of the loss before, so that the host need not wait for this one."""

    def __init__(self, device: str) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None
        self._asynchronous = device == "cuda"

    def finite(self, loss: Tensor) -> bool:
        """Whether `loss` is finite; on a GPU, whether that of the last call was, True in the first."""
        if not self._asynchronous:
            return math.isfinite(loss.item())
        before, self._pending = self._pending, self._copied(loss)
        if before is None:
            return True
        value, copied = before
        copied.synchronize()
        return math.isfinite(value.item())

    @staticmethod
    def _copied(loss: Tensor) -> tuple[Tensor, torch.cuda.Event]:
        value = torch.empty((), dtype=torch.float32, pin_memory=True)
        value.copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return value, copied


def predict(
    model: nn.Module, images: UInt8[Tensor, "n c h w"], compute: Compute, batch_size: int | None = None
) -> Float[Tensor, "n classes"]:
    """Return the logits of `images`, on the CPU in float32; the model is left in evaluation mode.

    `batch_size` is by default what suits the device.
    """
    compute.place(model)
    if batch_size is None:
        fits = CPU_EVALUATION_VALUES // max(1, images[:1].numel()) if compute.device == "cpu" else EVALUATION_BATCH
        batch_size = min(EVALUATION_BATCH, max(1, fits))
    model.eval()
    with torch.inference_mode(), compute.autocast():
        outputs = [model(compute.inputs(batch)).float().cpu() for batch in torch.split(images, batch_size)]
    return torch.cat(outputs).clone()


def finished(epochs: Iterator[Epoch]) -> Epoch:
    """Run a training to its end and return the last Epoch."""
    return deque(epochs, maxlen=1)[0]
