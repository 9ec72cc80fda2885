"""Learning rate as a pure function of the step: constant, cosine, triangular, super-fine-tuning."""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]
"""The learning rate of step 0, 1, 2, ...; set before that step is taken."""


def constant(lr: float) -> Schedule:
    """Return a schedule that always gives `lr`."""
    return lambda step: lr


def cosine(lr: float, steps: int) -> Schedule:
    """Return a schedule that falls from `lr` to zero over `steps` along half a cosine (arXiv 1608.03983)."""
    return lambda step: 0.5 * lr * (1 + math.cos(math.pi * min(step, steps) / steps))


def triangular(base: float, peak: float, ramp_up_steps: int, ramp_down_steps: int) -> Schedule:
    """Return straight ramps from `base` up to `peak` and down again, repeated (arXiv 1506.01186).

    Step 0 is at `base`, step `ramp_up_steps` at `peak`, step `ramp_up_steps + ramp_down_steps` at `base` again.
    """
    cycle = ramp_up_steps + ramp_down_steps

    def at(step: int) -> float:
        s = step % cycle
        share = s / ramp_up_steps if s < ramp_up_steps else (cycle - s) / ramp_down_steps
        return base + (peak - base) * share

    return at


def super_fine_tuning(
    lr_base: float,
    lr_max1: float,
    lr_max2: float,
    ramp_up_steps: int,
    ramp_down_steps: int,
    phase1_steps: int,
) -> Schedule:
    """Return the two-phase triangular schedule of super-fine-tuning (arXiv 2212.09067).

    The first `phase1_steps` steps swing between `lr_base` and `lr_max1` (forget the trigger), the later ones
    between `lr_base` and `lr_max2` (keep accuracy). The cycle runs on across the change; `whole_cycles` gives a
    `phase1_steps` at which a cycle ends.
    """
    first = triangular(lr_base, lr_max1, ramp_up_steps, ramp_down_steps)
    second = triangular(lr_base, lr_max2, ramp_up_steps, ramp_down_steps)
    return lambda step: first(step) if step < phase1_steps else second(step)


def whole_cycles(steps: int, phase1_share: float, cycle_steps: int) -> tuple[int, int]:
    """Return (steps of phase 1, steps in all), each phase rounded up to whole cycles, at least one.

    Whole cycles matter: a run that stops half-way up a ramp ends at a high rate and is judged there.
    """
    cycles = max(2, math.ceil(steps / cycle_steps - 1e-9))
    first = min(max(1, math.ceil(phase1_share * cycles - 1e-9)), cycles - 1)
    return first * cycle_steps, cycles * cycle_steps
