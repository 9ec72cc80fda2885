"""Front, ranks and hypervolume of points whose coordinates are all to be small: pure functions."""

from collections.abc import Sequence

import numpy as np


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Indices, ascending, of the points that no other point dominates (is nowhere larger than and somewhere smaller).

    Equal points stay together, on the front or off it. A point with a NaN coordinate is never on it.
    """
    if not len(points):
        return []
    values = np.asarray(points, dtype=np.float64)
    measured = np.flatnonzero(~np.isnan(values).any(axis=1))
    # In lexicographic order whatever dominates a point comes before it: it must only beat the kept ones.
    order = measured[np.lexsort(values[measured].T[::-1])]
    kept = np.empty_like(values)
    found: list[int] = []
    for index in order:
        rivals = kept[: len(found)]
        no_worse = rivals[(rivals <= values[index]).all(axis=1)]
        if not (no_worse < values[index]).any():
            kept[len(found)] = values[index]
            found.append(int(index))
    return sorted(found)


def ranks(points: Sequence[Sequence[float]]) -> list[int]:
    """For each point the number of fronts to take away before it is on one; points with a NaN come after all others.

    Reference: K. Deb and others, "A fast and elitist multiobjective genetic algorithm: NSGA-II", IEEE Transactions
    on Evolutionary Computation 6 (2002), non-dominated sorting.
    """
    found = [len(points)] * len(points)
    left, rank = list(range(len(points))), 0
    while best := front([points[i] for i in left]):
        for place in best:
            found[left[place]] = rank
        left = [i for place, i in enumerate(left) if place not in set(best)]
        rank += 1
    return found


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The area between the front of two-coordinate `points` and `reference`, the corner worse than all.

    Points that are not better than `reference` in both coordinates, or hold a NaN, add nothing.

    Raises:
        ValueError: `reference` or a point does not have two coordinates.

    Reference: E. Zitzler, L. Thiele, "Multiobjective optimization using evolutionary algorithms",
    PPSN V (1998).
    """
    right, top = reference
    inside = sorted((x, y) for x, y in points if x < right and y < top)
    area, ceiling = 0.0, top
    for x, y in inside:
        if y < ceiling:
            area += (right - x) * (ceiling - y)
            ceiling = y
    return area
