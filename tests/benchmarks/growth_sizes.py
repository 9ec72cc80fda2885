"""How much each part of the growth measurement measures: whole, and small enough for a test."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Points of each series.

    `worker_trials` train for `worker_epochs`; `slots` are those of the simulated cluster, `sleep` the seconds its
    trials last, `rounds` how many trials each slot runs; `longest_ask`, in seconds, ends a sampler's series; `memory`
    are the two counts of trials that are compared, both ends of segments.
    """

    trials: tuple[int, ...] = (10, 100, 1000)
    workers: tuple[int, ...] = (1, 2)
    worker_trials: int = 24
    worker_epochs: int = 40
    slots: tuple[int, ...] = (1, 4, 16, 32, 64)
    sleep: float = 2.0
    rounds: int = 6
    widths: tuple[int, ...] = (24, 48, 96, 192)
    image: int = 32
    width_images: int = 512
    clean_sets: tuple[int, ...] = (250, 500, 1000, 2000, 4000)
    epochs: int = 2
    repeats: int = 3
    asks: tuple[int, ...] = (10, 30, 100, 300, 1000)
    asked: int = 3
    longest_ask: float = 5.0
    memory: tuple[int, ...] = (500, 2000)


FULL = Sizes()
TINY = Sizes(
    trials=(3, 6),
    workers=(1, 2),
    worker_trials=4,
    worker_epochs=1,
    slots=(1, 2),
    sleep=0.1,
    rounds=2,
    widths=(2, 4, 8),
    image=8,
    width_images=64,
    clean_sets=(32, 64, 128),
    epochs=1,
    repeats=1,
    asks=(3, 12, 24),
    asked=2,
    memory=(4, 8),
)
