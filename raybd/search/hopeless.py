"""Hopelessness: a sequential test, on a growing part of the selection split, of whether a backdoor will stay."""

import functools
import math

import torch
from jaxtyping import Bool
from scipy import special
from torch import Tensor

from raybd import seeds
from raybd.evaluation.metrics import Rate, answers, attackable
from raybd.models import Classifier
from raybd.search.view import SearchView
from raybd.training import predict

HOPELESS = 0.5
"""Whoever still obeys the trigger on more than half of the images when the large peak is past keeps the backdoor: of
the recorded trials (tests/data/hopeless_trials.json) none that was stopped so would have ended within a gate."""
FALSE_ALARM = 0.01
"""The chance, over all looks together, to stop a trial whose attack success rate is not above `HOPELESS`."""
FIRST_LOOK = 50
"""Images of the first look; each further look doubles them."""


def hopeless(model: Classifier, view: SearchView) -> Rate | None:
    """Return the attack success rate if it is surely above `HOPELESS`, on as few images as show it, else None.

    The images come in one order for all trials of a view, drawn by its seed. Looks are taken at 50, 100, 200, ...
    images; each may err with its share of `FALSE_ALARM`, both ways, so the test may look as often as it does.

    Reference: the bounds are those of C. Clopper, E. Pearson, Biometrika 26 (1934), split by Bonferroni.
    """
    images, goals, order = _targets(view)
    looks = _looks(len(order))
    error = FALSE_ALARM / len(looks)
    hits, seen = 0, 0
    for look in looks:
        rows = order[seen:look]
        triggered = view.trigger.apply(images[rows.to(images.device)])
        hits += _hits(answers(predict(model, triggered, view.compute)) == goals[rows])
        seen = look
        if _lower(hits, seen, error) > HOPELESS:
            return Rate.of(hits, seen)
        if 1 - _lower(seen - hits, seen, error) <= HOPELESS:
            return None
    return None


def _hits(which: Bool[Tensor, " n"]) -> int:
    return int(which.sum())


@functools.lru_cache(maxsize=1)
def _targets(view: SearchView) -> tuple[Tensor, Tensor, Tensor]:
    """The selection images (m, c, h, w) that can be attacked, their goals (m,), and the order they are looked at."""
    targets, goals = attackable(view.selection, view.trigger)
    order = torch.randperm(len(goals), generator=seeds.generator(view.seed, "hopeless"))
    return targets.images, goals, order


def _looks(images: int) -> list[int]:
    """50, 100, 200, ..., at last all of `images`."""
    doublings = max(0, math.ceil(math.log2(images / FIRST_LOOK))) if images > FIRST_LOOK else 0
    return [*(FIRST_LOOK * 2**i for i in range(doublings)), images]


def _lower(hits: int, n: int, error: float) -> float:
    """The exact lower bound of a rate, wrong with probability `error` at most."""
    return float(special.betaincinv(hits, n - hits + 1, error)) if hits else 0.0
