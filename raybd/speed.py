"""How fast this machine runs a study: the device's limits, training, evaluation, what is neither, and the hours."""

import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from scipy.stats import qmc
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raybd.artifacts import Bench, Suspect
from raybd.evaluation.metrics import read
from raybd.registry import BadInput
from raybd.search.records import TrialRecord
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.space import Space
from raybd.search.view import SearchView
from raybd.settings import StudySettings
from raybd.stages import execution, preparation
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import state_of

MATRIX = {"cpu": 1536, "cuda": 8192}
"""Rows and columns of the matrices that are multiplied."""
COPIED = {"cpu": 2**27, "cuda": 2**31}
"""Bytes that are copied: more than any cache holds."""
TRAINING_SECONDS = 10.0
OVERHEAD_TRIALS = 5
SPACE_DRAWS = 256
"""So many settings, spread evenly over the space, give the length of its average trial."""

OnStep = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured, in images, seconds, floating-point operations (FLOP) and bytes.

    `training_rate` and `evaluation_rate` are images/s of one trial on one worker; `flop_per_image` is that of a
    training step, forward and backward; `bytes_per_image` the least traffic with memory that such a step needs, an
    estimate: each layer's output written and read once on the way forward, and once on the way back.
    """

    device: str
    precision: str
    matmul_flops: float
    copy_bytes_per_second: float
    flop_per_image: float
    bytes_per_image: float
    training_rate: float
    evaluation_rate: float
    images_per_trial: float
    evaluation_seconds: float
    overhead_seconds: float
    trials: int
    workers: int

    @property
    def matmul_share(self) -> float:
        """Training's share of the rate at which this device multiplies matrices."""
        return self.training_rate * self.flop_per_image / self.matmul_flops

    @property
    def memory_share(self) -> float:
        """Training's share, at least, of the rate at which this device copies memory."""
        # A copy reads and writes each byte.
        return self.training_rate * self.bytes_per_image / (2 * self.copy_bytes_per_second)

    @property
    def training_seconds(self) -> float:
        """Of the space's average trial."""
        return self.images_per_trial / self.training_rate

    @property
    def seconds_per_trial(self) -> float:
        """Training, evaluation and overhead of the space's average trial."""
        return self.training_seconds + self.evaluation_seconds + self.overhead_seconds

    @property
    def hours(self) -> float:
        """Of the whole search, if no trial is stopped early and workers do not slow each other down."""
        return self.trials * self.seconds_per_trial / self.workers / 3600


def measure(
    settings: StudySettings, *, trials: int | None = None, workers: int | None = None, on_step: OnStep = lambda _: None
) -> Speed:
    """Measure this machine with a study's model, data and space; nothing is written but to a temporary folder.

    The weights are fresh ones, because speed does not depend on them, and so is the trigger where it is unknown.

    Args:
        settings: the study.
        trials: the number of trials to predict for, instead of the study's.
        workers: so many at once, instead of the study's or of as many as fit.
        on_step: called with what is measured next, in words.

    Raises:
        BadInput: whatever of the study cannot be used.
    """
    ready = preparation.bench(settings)
    if ready.trial_compute is not None:
        raise BadInput("resources.gpus_per_trial: none here, on a cluster's head; measure a worker")
    view = _view(ready, settings).on_device()
    space = settings.load_space()
    compute = view.compute
    on_step("matrix multiplication and memory")
    matmul, copied = _matmul_flops(compute), _copy_rate(compute)
    on_step("training")
    rate = _training_rate(view, space)
    flop, traffic = _step_cost(view)
    on_step("evaluation")
    evaluation = _evaluation_seconds(view)
    on_step("overhead of a trial")
    with execution.session(settings):
        slots = execution.slots(settings)
        overhead = _overhead_seconds(settings, view, space)
    return Speed(
        device=compute.device,
        precision=compute.precision,
        matmul_flops=matmul,
        copy_bytes_per_second=copied,
        flop_per_image=flop,
        bytes_per_image=traffic,
        training_rate=rate,
        evaluation_rate=2 * len(view.selection) / evaluation,
        images_per_trial=average_images(space, len(view.clean_set)),
        evaluation_seconds=evaluation,
        overhead_seconds=overhead,
        trials=trials or settings.search.trials,
        workers=workers or slots,
    )


def average_images(space: Space, clean_set: int) -> float:
    """Return the image-steps of the space's average trial on a clean set of so many images."""
    shares = qmc.Sobol(len(space.search), scramble=True, rng=0).random(SPACE_DRAWS).tolist()
    defenses = [space.build(space.at(share)) for share in shares]
    return statistics.mean(d.image_steps(max(1, round(d.clean_fraction * clean_set))) for d in defenses)


def _view(ready: Bench, settings: StudySettings) -> SearchView:
    model = ready.architecture.build(0)
    trigger = ready.trigger or Patch(target_label=0, size=1)
    if not trigger.aimed:
        trigger = trigger.aimed_at(0)  # any label is as fast; what it pulls to is known once the suspect is there
    suspect = Suspect(
        how="adopt", bench=replace(ready, trigger=trigger), state=state_of(model), knowledge=settings.trigger_knowledge
    )
    return preparation.search_view(suspect)


def _best_seconds(act: Callable[[], object], compute: Compute, repeats: int = 5) -> float:
    """The shortest of several calls, after one to warm up, in seconds."""
    act()
    taken = []
    for _ in range(repeats):
        _wait(compute)
        start = time.perf_counter()
        act()
        _wait(compute)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _wait(compute: Compute) -> None:
    if compute.device == "cuda":
        torch.cuda.synchronize()


def _matmul_flops(compute: Compute) -> float:
    size = MATRIX[compute.device]
    kind = torch.bfloat16 if compute.precision == "bf16" else torch.float32
    one = torch.ones(size, size, dtype=kind, device=compute.device)
    return 2 * size**3 / _best_seconds(lambda: one @ one, compute)


def _copy_rate(compute: Compute) -> float:
    size = COPIED[compute.device]
    source = torch.ones(size, dtype=torch.uint8, device=compute.device)
    target = torch.empty_like(source)
    return size / _best_seconds(lambda: target.copy_(source), compute)


def _training_rate(view: SearchView, space: Space) -> float:
    """Images/s of the space's middle setting: the median of its stretches, the first to warm up left out."""
    defense = space.build(space.at([0.5] * len(space.search)))
    rates: list[float] = []
    end = time.perf_counter() + TRAINING_SECONDS
    while not rates or time.perf_counter() < end:
        images, seconds = 0, 0.0
        for epoch in defense.sanitize(view.defender(), compute=view.compute, seed=0, subset_seed=view.seed):
            rates.append((epoch.images - images) / (epoch.seconds - seconds))
            images, seconds = epoch.images, epoch.seconds
            if time.perf_counter() > end:
                break
    return statistics.median(rates[1:] or rates)


def _step_cost(view: SearchView, batch: int = 8) -> tuple[float, float]:
    """(FLOP, least bytes of memory traffic) of a training step, per image."""
    model = view.compute.place(view.defender().model).train()
    inputs = view.compute.inputs(view.clean_set.images[:1].repeat(batch, 1, 1, 1))
    written = 0

    def note(_: nn.Module, __: object, output: object) -> None:
        nonlocal written
        if isinstance(output, torch.Tensor):
            written += output.numel() * output.element_size()

    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [leaf.register_forward_hook(note) for leaf in leaves]
    with FlopCounterMode(display=False) as counter, view.compute.autocast():
        model(inputs).float().sum().backward()
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() / batch, 4 * written / batch


def _evaluation_seconds(view: SearchView) -> float:
    model = view.defender().model
    return _best_seconds(lambda: read(model, view.selection, view.trigger, view.compute), view.compute, repeats=2)


def _overhead_seconds(settings: StudySettings, view: SearchView, space: Space) -> float:
    """Seconds from one trial's end to the next one's that were neither training nor evaluation; the median."""
    ends: list[tuple[float, float]] = []

    def note(record: TrialRecord) -> None:
        ends.append((time.perf_counter(), record.training_seconds + record.evaluation_seconds))

    few = view.part(50)
    alone = settings.model_copy(update={"resources": settings.resources.model_copy(update={"workers": 1})})
    with TemporaryDirectory() as scratch:
        decider = OptunaDecider.open(
            Path(scratch),
            name="speed",
            space=_shortest(space),
            limits=Limits(max_attack_success_rate=0.05, max_accuracy_drop=0.02),
            suspect_digest="",
            trials=OVERHEAD_TRIALS + 2,
            sampler=settings.search.sampler,
        )
        with decider:
            execution.executor_over(alone, few).run(decider, trials=Path(scratch) / "trials", on_trial=note)
    gaps = [after - before - work for (before, _), (after, work) in itertools.pairwise(ends[1:])]
    return max(0.0, statistics.median(gaps))


def _shortest(space: Space) -> Space:
    """A space whose trials are all as short as this one's can be; what does not change their length is searched."""
    lowest = {name: dimension.at(0.0) for name, dimension in space.search.items()}
    length = space.build(lowest).image_steps(1000)
    free = {
        name: dimension
        for name, dimension in space.search.items()
        if all(space.build({**lowest, name: v}).image_steps(1000) == length for v in dimension.corners())
        and name != "clean_fraction"
    }
    fixed = {name: value for name, value in lowest.items() if name not in free}
    return replace(space, fixed={**space.fixed, **fixed}, search=free, first=())
