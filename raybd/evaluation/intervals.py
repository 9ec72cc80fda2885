"""Rates and differences with their 95 % intervals, from counts alone: no model, no tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raybd.registry import BadInput

# The 97.5 % point of the normal distribution: every interval of raybd is a two-sided 95 % one.
Z = 1.959963984540054


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A share of `n` images, with its two-sided 95 % Wilson interval; all as fractions."""

    rate: float
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, hits: int, n: int) -> "Rate":
        """The rate of `hits` among `n` images.

        Raises:
            BadInput: there are no images, or more hits than images.

        Reference: E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
        JASA 22 (1927).
        """
        if n < 1:
            raise BadInput(f"a rate needs at least one image, got n = {n}")
        if not 0 <= hits <= n:
            raise BadInput(f"hits must lie in [0, {n}], got {hits}")
        low, high = _wilson(hits, n)
        return cls(rate=hits / n, n=n, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference measured on `n` images, with its two-sided 95 % interval; all as fractions."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class ClassDrop:
    """How much accuracy one class lost; `label` is None for the classes too small to stand alone, pooled."""

    label: int | None
    drop: Difference


MIN_CLASS_IMAGES = 50
"""A class with fewer test images is not judged alone: it is pooled with the others that are as small."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and sample standard deviation over seeds; `sd` is 0 for one seed."""

    mean: float
    sd: float
    seeds: int


def paired_difference(*, both: int, lost: int, won: int, neither: int) -> Difference:
    """The rate before minus the rate after, from the images right both times, before only, after only, never.

    The interval is never of zero width: it joins the two Wilson intervals by the correlation of the pairs.

    Raises:
        BadInput: there are no images.

    Reference: R. G. Newcombe, "Improved confidence intervals for the difference between binomial proportions
    based on paired data", Statistics in Medicine 17 (1998), method 10.
    """
    n = both + lost + won + neither
    if n < 1:
        raise BadInput("a paired difference needs at least one image, got none")
    hits_before, hits_after = both + lost, both + won
    before, after = hits_before / n, hits_after / n
    low_before, high_before = _wilson(hits_before, n)
    low_after, high_after = _wilson(hits_after, n)
    phi = _phi(both, lost, won, neither)
    value = (lost - won) / n
    return Difference(
        value=value,
        low=value - _joined(before - low_before, high_after - after, phi),
        high=value + _joined(after - low_after, high_before - before, phi),
        n=n,
    )


def spread(rates: Sequence[float]) -> Spread:
    """Mean and sample standard deviation of one figure over seeds.

    Raises:
        BadInput: `rates` is empty.
    """
    if not rates:
        raise BadInput("a spread needs at least one seed")
    sd = float(np.std(rates, ddof=1)) if len(rates) > 1 else 0.0
    return Spread(mean=float(np.mean(rates)), sd=sd, seeds=len(rates))


def _wilson(hits: int, n: int) -> tuple[float, float]:
    centre = (hits + Z**2 / 2) / (n + Z**2)
    half = Z / (n + Z**2) * math.sqrt(hits * (n - hits) / n + Z**2 / 4)
    # At the ends the formula gives exactly 0 and 1; rounding would leave 1e-17 or 1 + 1e-16.
    return (centre - half if hits else 0.0), (centre + half if hits < n else 1.0)


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _phi(both: int, lost: int, won: int, neither: int) -> float:
    """Correlation of the pairs with Newcombe's continuity correction, which only weakens a positive one."""
    n = both + lost + won + neither
    margins = (both + lost) * (won + neither) * (both + won) * (lost + neither)
    if margins == 0:
        return 0.0
    excess = both * neither - lost * won
    if excess > 0:
        return max(excess - n / 2, 0.0) / math.sqrt(margins)
    return excess / math.sqrt(margins)
