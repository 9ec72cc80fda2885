"""The never-poisoned twin's check: what a trigger does to a model that never learnt it."""

from dataclasses import dataclass

from torch import nn

from raybd.data import ImageSet
from raybd.evaluation.metrics import Difference, Rate, answers, attackable, paired_drop
from raybd.training import Compute, predict
from raybd.triggers import Trigger

MAX_EXCESS = 0.03
"""An attack counts only if the trigger makes its twin give the goal label at most this much more often."""


@dataclass(frozen=True, kw_only=True)
class TwinCheck:
    """How often a never-poisoned model gives the goal label, with and without the trigger on the same images.

    Without this check a trigger that merely looks like the target class would count as a backdoor. `passed`
    is judged on the measured excess.
    """

    triggered: Rate
    clean: Rate
    excess: Difference
    passed: bool


def check_twin(twin: nn.Module, images: ImageSet, trigger: Trigger, compute: Compute) -> TwinCheck:
    """Compare the goal-label rate of `twin` on the triggered images with that on the same images as they are.

    Only images whose goal label differs from their true one count.

    Raises:
        BadInput: there is no such image.
    """
    targets, goals = attackable(images, trigger)
    with_trigger = answers(predict(twin, trigger.apply(targets.images), compute)) == goals
    without = answers(predict(twin, targets.images, compute)) == goals
    excess = paired_drop(with_trigger, without)
    return TwinCheck(
        triggered=Rate.of(int(with_trigger.sum()), len(goals)),
        clean=Rate.of(int(without.sum()), len(goals)),
        excess=excess,
        passed=excess.value <= MAX_EXCESS,
    )
