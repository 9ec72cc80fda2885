"""A search as a person watches it: a live table on a terminal, one plain line per trial elsewhere."""

import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from raybd.search.records import TrialRecord, front_of
from raybd.training import Epoch

LOG_SECONDS = 30.0
"""So often a log hears of a training under way."""
HANDFUL = 4
"""The time left is told from this trial on: the first to end says little of those that run beside it."""


def watch(console: Console) -> "PlainSearch":
    """Return what shows a search on `console`: live where it is a terminal, else plain lines."""
    return LiveSearch(console) if console.is_terminal else PlainSearch(console)


class Tally:
    """The counts of a search: what has ended, how fast, and how long the rest will take."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._start = now()
        self._here = 0
        self.trials: int | None = None
        self.records: list[TrialRecord] = []

    def begin(self, trials: int, records: Iterable[TrialRecord] = ()) -> None:
        """Note the budget and the trials that ended before; only those of this session give the speed."""
        self.trials, self.records = trials, list(records)
        self._start, self._here = self._now(), 0

    def add(self, record: TrialRecord) -> None:
        """Note an ended trial."""
        self.records.append(record)
        self._here += record.counts

    @property
    def done(self) -> int:
        """Trials that count against the budget: complete, collapsed ones among them, and pruned."""
        return sum(r.counts for r in self.records)

    @property
    def pruned(self) -> int:
        """Trials stopped for hopelessness."""
        return sum(r.state == "pruned" for r in self.records)

    @property
    def collapsed(self) -> int:
        """Complete trials whose model was destroyed."""
        return sum(r.collapsed for r in self.records)

    @property
    def failed(self) -> int:
        """Trials that an error of their own ended; they are repeated."""
        return sum(not r.counts and not r.interrupted for r in self.records)

    @property
    def interrupted(self) -> int:
        """Trials that ran when their search ended; they are repeated."""
        return sum(r.interrupted for r in self.records)

    @property
    def trials_per_hour(self) -> float | None:
        """The speed of this session; None before its first trial has ended."""
        elapsed = self._now() - self._start
        return 3600 * self._here / elapsed if self._here and elapsed > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """What the rest of the budget will take at this speed; None before a handful of trials gave one."""
        speed = self.trials_per_hour
        if self.trials is None or speed is None or self._here < min(HANDFUL, self.trials):
            return None
        return 3600 * max(0, self.trials - self.done) / speed

    def line(self) -> str:
        """Return all of it in one line."""
        budget = "" if self.trials is None else f" of {self.trials}"
        parts = [f"{self.done}{budget} trials done"]
        parts += [f"{n} {word}" for word, n in self._kinds().items()]
        if (speed := self.trials_per_hour) is not None:
            parts.append(f"{speed:,.0f} trials/h")
        if (left := self.seconds_left) is not None:
            parts.append(f"about {_duration(left)} left" if left else "finished")
        return " · ".join(parts)

    def _kinds(self) -> dict[str, int]:
        kinds = {"pruned": self.pruned, "collapsed": self.collapsed, "failed": self.failed}
        return kinds | ({"interrupted": self.interrupted} if self.interrupted else {})


class PlainSearch:
    """One line per ended trial, for logs and pipes."""

    def __init__(self, console: Console, tally: Tally | None = None) -> None:
        self._console = console
        self._tally = tally or Tally()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""

    def on_start(self, trials: int, records: Iterable[TrialRecord]) -> None:
        """Show the budget and what a resumed search begins with."""
        self._tally.begin(trials, records)
        if self._tally.records:
            self._print(f"resuming: {self._tally.line()}")

    def on_trial(self, record: TrialRecord) -> None:
        """Show an ended trial."""
        self._tally.add(record)
        self._print(f"trial {record.number}: {verdict(record)} | {self._tally.line()}")

    def on_progress(self, number: int, epoch: Epoch) -> None:
        """Show nothing: a log wants one line per trial."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveSearch(PlainSearch):
    """The counts, the current front and the trials under way, redrawn in place."""

    def __init__(self, console: Console, tally: Tally | None = None) -> None:
        super().__init__(console, tally)
        self._running: dict[int, Epoch] = {}
        self._live = Live(console=console, get_renderable=self._drawn, refresh_per_second=2, transient=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the last state on the screen."""
        self._running.clear()
        self._live.stop()

    def on_start(self, trials: int, records: Iterable[TrialRecord]) -> None:
        """Show the budget and what a resumed search begins with."""
        self._tally.begin(trials, records)

    def on_trial(self, record: TrialRecord) -> None:
        """Count an ended trial; show a failed one for good, for it needs a look."""
        self._running.pop(record.number, None)
        self._tally.add(record)
        if record.state == "failed" and not record.interrupted:
            self._print(f"trial {record.number}: {verdict(record)}")

    def on_progress(self, number: int, epoch: Epoch) -> None:
        """Show how far a trial is."""
        self._running[number] = epoch

    def _drawn(self) -> RenderableType:
        parts: list[RenderableType] = [Text(self._tally.line(), style="bold")]
        records = list(self._tally.records)
        front = set(front_of(records))
        if front:
            parts.append(_front_table([r for r in records if r.number in front]))
        for number, epoch in sorted(list(self._running.items())):  # noqa: C414 - drawn by another thread
            parts.append(
                Text(f"trial {number}: step {epoch.steps} of {epoch.total}, loss {epoch.loss:.3g}", style="dim")
            )
        return Group(*parts)


class Trainings:
    """One line on the training under way, redrawn on a terminal; in a log one now and then, and one at its end."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._last = -LOG_SECONDS

    def on_training(self, word: str, epoch: Epoch) -> None:
        """Show how far the training that `word` names is, and what the rest of it will take."""
        ended = epoch.steps >= epoch.total or bool(epoch.collapsed)
        live = self._console.is_terminal
        if not (live or ended or self._now() - self._last >= LOG_SECONDS):
            return
        self._last = self._now()
        left = epoch.seconds / epoch.steps * (epoch.total - epoch.steps)
        rest = f"took {_duration(epoch.seconds)}" if ended else f"about {_duration(left)} left"
        line = f"{word}: step {epoch.steps:,} of {epoch.total:,}, loss {epoch.loss:.3g}, {rest}"
        if not live:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        # Back to the start of the line, whose rest is wiped: the next stretch is written over it.
        self._console.file.write(f"\r{line}\x1b[K" + "\n" * ended)
        self._console.file.flush()


class Repeats:
    """One line after each of a stage's trainings: how many are done, and what the rest of them will take."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._start = now()

    def on_done(self, done: int, total: int) -> None:
        """Show that `done` of `total` trainings have ended; zero begins a new count."""
        if done == 0:
            self._start = self._now()
        took = self._now() - self._start
        rest = f", about {_duration(took / done * (total - done))} left" if 0 < done < total else ""
        self._console.print(f"{done} of {total} trainings done{rest}", markup=False, highlight=False, soft_wrap=True)


def _front_table(records: Iterable[TrialRecord]) -> Table:
    ordered = sorted(records, key=lambda r: r.attack_success_rate.rate if r.attack_success_rate else 1.0)
    feasible = any(r.feasible for r in ordered)
    table = Table(title="current front" if feasible else "current front (nothing feasible yet)", title_justify="left")
    for heading in ("trial", "ASR", "C-Acc", "drop"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("setting")  # one column, which may wrap: six of them would not fit 80 characters
    for record in ordered:
        table.add_row(str(record.number), *_figures(record), _setting(record))
    return table


def _figures(record: TrialRecord) -> tuple[str, str, str]:
    asr, accuracy, drop = record.attack_success_rate, record.clean_accuracy, record.accuracy_drop
    if asr is None or accuracy is None or drop is None:
        return "-", "-", "-"
    return f"{asr.rate:.1%}", f"{accuracy.rate:.1%}", f"{100 * drop.value:+.1f} points"


def verdict(record: TrialRecord) -> str:
    """Return how a trial ended, in a few words."""
    if record.interrupted:
        return "interrupted"
    if record.state == "failed":
        return f"failed ({record.error})"
    if record.state == "pruned":
        return f"pruned ({record.reason})"
    asr, accuracy, drop = _figures(record)
    told = f"collapsed, {record.reason}" if record.collapsed else "feasible" if record.feasible else "infeasible"
    seconds = record.training_seconds + record.evaluation_seconds
    return f"ASR {asr}, C-Acc {accuracy} (drop {drop}), {told}, {seconds:.1f} s; {_setting(record)}"


def _setting(record: TrialRecord) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in record.setting.items())


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if hours < 2 else f"{hours:.1f} h"
