"""The searches that search_quality compares, each run over a surrogate's trials in this process, and kept as a file.

Ours goes through the real decider: its journal, its constraints, its rungs. Stock `OptunaSearch` is driven as Ray Tune
drives it. Every arm begins with the space's own first settings.
"""

import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from raybd.artifacts import Study
from raybd.evaluation.metrics import Rate
from raybd.gate import Gate
from raybd.registry import as_json, digest_of, read_json, revive, write_json
from raybd.search.records import Outcome, Stopping, TrialRecord, front_of
from raybd.search.samplers import distribution
from raybd.search.searcher import Limits, OptunaDecider
from raybd.search.trial import NEVER, drain
from raybd.seeds import derive
from raybd.stages.warm_start import warm_settings
from tests.benchmarks.surrogate import Surrogate

MEMORY = Path("/dev/shm")
"""The journal is synced twice a trial; in memory that costs nothing."""
MOST = 4
"""No search has more than so many times its trials, however cheap the stopped ones are."""
HALVING, HOPELESS, BOTH = Stopping(halving=True), Stopping(hopeless=True), Stopping(halving=True, hopeless=True)
METRICS = {"attack_success_rate": "min", "clean_accuracy": "max"}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to search: the sampler's name in raybd, or None for stock `OptunaSearch`."""

    sampler: str | None
    stopping: Stopping = NEVER
    warm: bool = False


ARMS: Mapping[str, Arm] = {
    "random": Arm(sampler="random"),
    "qmc": Arm(sampler="qmc"),
    "nsga2": Arm(sampler="nsga2"),
    "stock": Arm(sampler=None),
    "tpe": Arm(sampler="tpe"),
    "tpe halving": Arm(sampler="tpe", stopping=HALVING),
    "tpe hopeless": Arm(sampler="tpe", stopping=HOPELESS),
    "tpe both": Arm(sampler="tpe", stopping=BOTH),
    "tpe warm": Arm(sampler="tpe", warm=True),
    "tpe warm halving": Arm(sampler="tpe", warm=True, stopping=HALVING),
    "tpe warm hopeless": Arm(sampler="tpe", warm=True, stopping=HOPELESS),
    "tpe warm both": Arm(sampler="tpe", warm=True, stopping=BOTH),
    "gp": Arm(sampler="gp"),
    "gp warm": Arm(sampler="gp", warm=True),
    "random warm": Arm(sampler="random", warm=True),
}
DONOR = "tpe"
"""The arm whose fronts, on the other suspects, warm a search up."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """The suspects to search on, how many trials a search has, and the folder in which searches are kept.

    A search ends with its trials; one that stops trials goes on until it has spent what as many random trials cost.
    """

    surrogates: Mapping[str, Surrogate]
    trials: int
    work: Path

    def search(self, arm: str, suspect: str, seed: int) -> tuple[TrialRecord, ...]:
        """Return the trials of one search; one kept from before, of the same table and trials, is not run again."""
        path = self._path(arm, suspect, seed)
        if self.kept(arm, suspect, seed):
            return tuple(revive(TrialRecord, record) for record in read_json(path)["records"])
        records = self._searched(ARMS[arm], suspect, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"identity": self._identity(arm), "records": [as_json(record) for record in records]})
        return records

    def kept(self, arm: str, suspect: str, seed: int) -> bool:
        """Whether a search lies in the work folder."""
        path = self._path(arm, suspect, seed)
        return path.is_file() and bool(read_json(path)["identity"] == self._identity(arm))

    def _path(self, arm: str, suspect: str, seed: int) -> Path:
        return self.work / arm.replace(" ", "_") / f"{suspect}-{seed}.json"

    def _identity(self, arm: str) -> dict[str, Any]:
        return {"tables": self._tables, "trials": self.trials, "arm": as_json(ARMS[arm])}

    def warm(self, suspect: str, seed: int) -> tuple[dict[str, Any], ...]:
        """Return the settings that come first on `suspect`: the best ones of the searches on all others."""
        space = self.surrogates[suspect].table.space
        donors = [self._donor(other, seed) for other in sorted(self.surrogates) if other != suspect]
        return warm_settings(donors, space, gate(self.surrogates[suspect]))

    def afford(self, suspect: str) -> float:
        """Return the image-steps of so many random trials as a search has trials."""
        return self.trials * self.surrogates[suspect].table.mean_images

    @functools.cached_property
    def _tables(self) -> str:
        """Of all tables: a warm search rests on those of the others, too."""
        tables = [surrogate.table for _, surrogate in sorted(self.surrogates.items())]
        return digest_of([{"facts": t.facts, "trials": t.trials, "repeats": t.repeats} for t in tables])

    def _donor(self, suspect: str, seed: int) -> Path:
        """The run folder of a search without warm start, with only what a warm start reads."""
        run = self.work / "donors" / f"{suspect}-{seed}"
        records = self.search(DONOR, suspect, seed)[: self.trials]
        facts = self.surrogates[suspect].table.facts
        (run / "search").mkdir(parents=True, exist_ok=True)
        Study(
            records=tuple(as_json(record) for record in records),
            front=front_of(records),
            space=as_json(self.surrogates[suspect].table.space.describe()),
            sampler=DONOR,
            seed=seed,
            trials=self.trials,
            suspect_digest=suspect,
            seconds=0.0,
            workers=1,
            reference=Rate.of(round(facts["reference_clean_accuracy"] * facts["selection"]), facts["selection"]),
        ).save(run / "search")
        return run

    def _searched(self, arm: Arm, suspect: str, seed: int) -> tuple[TrialRecord, ...]:
        surrogate, afford = self.surrogates[suspect], self.afford(suspect)

        def enough(records: tuple[TrialRecord, ...]) -> bool:
            paid = arm.stopping == NEVER or sum(record.images for record in records) >= afford
            return paid and len(records) >= self.trials

        if arm.sampler is None:
            return stock(surrogate, seed, MOST * self.trials, enough)
        warm = self.warm(suspect, seed) if arm.warm else ()
        return ours(surrogate, arm, seed, MOST * self.trials, enough, warm)


Enough = Callable[[tuple[TrialRecord, ...]], bool]


def limits(surrogate: Surrogate) -> Limits:
    """Return the limits of the search that the table was recorded for."""
    return Limits(**surrogate.table.facts["limits"])


def gate(surrogate: Surrogate) -> Gate:
    """Return the gate of the study that the table was recorded for."""
    return Gate(**surrogate.table.facts["gate"])


def ours(
    surrogate: Surrogate, arm: Arm, seed: int, most: int, enough: Enough, warm: tuple[dict[str, Any], ...]
) -> tuple[TrialRecord, ...]:
    """Run a search with raybd's decider, one trial after the other, until it is `enough`."""
    assert arm.sampler is not None
    memory = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        decider = OptunaDecider.open(
            Path(folder),
            name="quality",
            space=surrogate.table.space,
            limits=limits(surrogate),
            suspect_digest=surrogate.table.suspect,
            trials=most,
            sampler=arm.sampler,
            seed=seed,
            warm=warm,
        )
        with decider:
            while not enough(decider.records()) and (proposal := decider.ask()) is not None:
                trial = surrogate.attempt(proposal.setting, proposal.seed, arm.stopping)
                judge = functools.partial(decider.judge, proposal.number)
                decider.tell(proposal.number, drain(trial, on_reading=judge))
            return decider.records()


def stock(surrogate: Surrogate, seed: int, most: int, enough: Enough) -> tuple[TrialRecord, ...]:
    """Run a search with Ray's `OptunaSearch` and two metrics, as it comes, until it is `enough`."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = surrogate.table.space
    searcher = OptunaSearch(
        {name: distribution(dimension) for name, dimension in space.search.items()},
        metric=list(METRICS),
        mode=list(METRICS.values()),
        points_to_evaluate=[dict(setting) for setting in space.first] or None,
        seed=seed,
    )
    records: list[TrialRecord] = []
    while not enough(tuple(records)) and len(records) < most:
        number = len(records)
        setting = searcher.suggest(str(number))
        trial_seed = derive(seed, "trial", number)  # as raybd derives it, so that luck is the same
        outcome = drain(surrogate.attempt(setting, trial_seed))
        searcher.on_trial_complete(str(number), result=dict(outcome.objectives))
        records.append(
            TrialRecord.of(number, setting, trial_seed, outcome, feasible=feasible(outcome, limits(surrogate)))
        )
    return tuple(records)


def feasible(outcome: Outcome, bounds: Limits) -> bool:
    """Whether a trial that ran to its end is within both limits, on the point."""
    rate, loss = outcome.attack_success_rate, outcome.accuracy_drop
    assert rate is not None
    assert loss is not None
    within = rate.rate <= bounds.max_attack_success_rate and loss.value <= bounds.max_accuracy_drop
    return within and not outcome.collapsed
