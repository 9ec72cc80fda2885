"""A stand-in for a trial, made from a recorded table of real ones: what it would show, and when, without training.

    python -m tests.benchmarks.surrogate demo blended resnet      # how far it is from the trials themselves

It predicts clean accuracy and attack success rate at the end, at the rungs and past the large peak, from the setting
alone; how long a trial is follows from the setting. To that it adds what a seed changes, as two runs of one setting
differed: a surrogate's trial is as noisy as a real one, and the same for the same setting and seed. It does not end a
wrecked training early, as a real one does: 6 of 960 recorded trials collapsed.
"""

import argparse
import math
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import beta
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from raybd.defenses import SuperFineTuning
from raybd.evaluation.intervals import paired_difference
from raybd.evaluation.metrics import Difference, Rate, collapsed
from raybd.registry import BadInput, read_json
from raybd.search.hopeless import FALSE_ALARM, HOPELESS
from raybd.search.records import OBJECTIVES, Outcome, Reading, Stopping
from raybd.search.rungs import SHARES
from raybd.search.space import Choice, Dimension, Space
from raybd.search.trial import NEVER, drain
from raybd.seeds import derive
from tests.benchmarks.record_trials import PEAK_COLUMNS, RUNG_COLUMNS, TABLES

ALIKE = 8
"""What the seed changes is taken from one of so many repeated settings: those whose backdoor survived as much."""
FOLDS = 10
RUNS = 8
"""So many runs of each repeated setting show the surrogate's own noise."""

ACCURACY, SUCCESS = "clean_accuracy", "attack_success_rate"
TARGETS = (ACCURACY, SUCCESS, *(name for names in RUNG_COLUMNS for name in names[:2]), PEAK_COLUMNS[0])
"""The columns that are predicted, each a rate."""

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Recorded trials of one suspect.

    `trials` and `repeats` map a column to its values; the i-th repeat is the i-th trial with another seed.
    """

    suspect: str
    space: Space
    facts: Mapping[str, Any]
    trials: Mapping[str, Sequence[Any]]
    repeats: Mapping[str, Sequence[Any]]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the table that `record_trials` wrote."""
        return cls.parse(read_json(path))

    @classmethod
    def parse(cls, table: Mapping[str, Any]) -> Self:
        """Return the table of a parsed file.

        Raises:
            BadInput: if it was recorded without the looks on the way.
        """
        missing = [name for name in (*TARGETS, "images") if name not in table["columns"]]
        if missing:
            raise BadInput(f"{table['suspect']}: expected a table with {', '.join(missing)}; record it anew")
        return cls(
            suspect=table["suspect"],
            space=Space.parse(table["space"], where=table["suspect"]),
            facts={key: value for key, value in table.items() if key not in {"trials", "repeats"}},
            trials=_by_column(table["columns"], table["trials"]),
            repeats=_by_column(table["columns"], table["repeats"]),
        )

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The settings of the trials."""
        names = list(self.space.search)
        return [dict(zip(names, values, strict=True)) for values in zip(*(self.trials[n] for n in names), strict=True)]

    def places(self) -> Matrix:
        """Return the trials' settings as places in the space (n, dimensions)."""
        return np.array([place(self.space, setting) for setting in self.settings])

    def scores(self, rows: Mapping[str, Sequence[Any]]) -> Matrix:
        """Return the logits (n, targets) of the rates; a look that a collapse forestalled shows the end."""
        columns = []
        for name in TARGETS:
            end = rows[ACCURACY if name.startswith(ACCURACY) else SUCCESS]
            rates = [last if rate is None else rate for rate, last in zip(rows[name], end, strict=True)]
            columns.append(score(np.array(rates, dtype=np.float64), self.images_of(name)))
        return np.column_stack(columns)

    def images_of(self, target: str) -> int:
        """Return how many images a rate was measured on."""
        return int(self.facts["selection" if target.startswith(ACCURACY) else "attackable"])

    @property
    def mean_images(self) -> float:
        """The image-steps of a mean trial: the settings fill the space evenly, so it is a random one's."""
        return float(np.mean(self.trials["images"]))


def _by_column(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(columns)}


def place(space: Space, setting: Mapping[str, Any]) -> list[float]:
    """Return how far, from 0 to 1, a setting lies through each dimension; logarithmic where the search is."""
    return [_share(dimension, setting[name]) for name, dimension in space.search.items()]


def _share(dimension: Dimension, value: float) -> float:
    if isinstance(dimension, Choice):
        raise BadInput(f"a surrogate needs dimensions with an order, got {dimension}")
    read = math.log if dimension.log else float
    low, high = read(dimension.low), read(dimension.high)
    return (read(value) - low) / (high - low)


def score(rates: Matrix, n: int) -> Matrix:
    """Return the logits of rates among `n` images, finite for 0 and 1 too."""
    return np.asarray(logit((rates * n + 0.5) / (n + 1)))


def rate_of(logits: Matrix | float, n: int) -> Any:
    """Return the rates whose logits `score` gives, not yet whole images."""
    return np.clip((expit(logits) * (n + 1) - 0.5) / n, 0.0, 1.0)


def regressor() -> ExtraTreesRegressor:
    """Return the model: leaves of two, so that it does not learn each recorded trial's own luck by heart."""
    return ExtraTreesRegressor(100, min_samples_leaf=2, random_state=0)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """Trials of one suspect without training; `attempt` stands in for `raybd.search.trial.attempt`."""

    table: Table

    @cached_property
    def _model(self) -> ExtraTreesRegressor:
        return regressor().fit(self.table.places(), self.table.scores(self.table.trials))

    @cached_property
    def _differences(self) -> tuple[Matrix, Matrix]:
        """What a seed changes (repeats, targets), and the middle of the two backdoors' logits (repeats,)."""
        again = self.table.scores(self.table.repeats)
        first = self.table.scores(self.table.trials)[: len(again)]
        end = TARGETS.index(SUCCESS)
        return (again - first) / math.sqrt(2), (again[:, end] + first[:, end]) / 2

    def expected(self, settings: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
        """Return the attack success rates and accuracy drops that settings give but for the luck of a seed."""
        reference = self.table.facts["reference_clean_accuracy"]
        found = [self._rates(scores) for scores in self._predict(settings)]
        return [(rates[SUCCESS], reference - rates[ACCURACY]) for rates in found]

    def attempt(
        self, setting: Mapping[str, Any], seed: int, stopping: Stopping = NEVER
    ) -> Generator[Reading, None, Outcome]:
        """Yield a reading at each rung and return how the trial ends, as a real trial does."""
        defense = self.table.space.build(dict(setting))
        assert isinstance(defense, SuperFineTuning)
        rates = self._rates(self._noisy(self._predict([setting])[0], seed))
        images = min(defense.batch_size, self.table.facts["clean_set"])
        for step, rung in looks(defense, self.table.facts["clean_set"], stopping):
            cost = {"steps": step, "images": step * images}
            if rung is None:
                rate = self._figures(rates, PEAK_COLUMNS[0])
                if stays(rate):
                    reason = "the backdoor stays"
                    return Outcome(state="pruned", reason=reason, attack_success_rate=rate, **cost)
            else:
                shown = self._shown(rates, *RUNG_COLUMNS[rung][:2])
                yield Reading(rung=rung, training_seconds=0.0, evaluation_seconds=0.0, worker="", **shown, **cost)
        steps = defense.phases(self.table.facts["clean_set"])[1]
        return self._ended(self._shown(rates, ACCURACY, SUCCESS), steps, images)

    def _predict(self, settings: Sequence[Mapping[str, Any]]) -> Matrix:
        return np.asarray(self._model.predict([place(self.table.space, setting) for setting in settings]))

    def _noisy(self, scores: Matrix, seed: int) -> Matrix:
        differences, middles = self._differences
        stream = np.random.default_rng(derive(seed, "surrogate"))
        alike = np.argsort(np.abs(middles - scores[TARGETS.index(SUCCESS)]), kind="stable")[:ALIKE]
        return scores + stream.choice([-1.0, 1.0]) * differences[stream.choice(alike)]

    def _rates(self, scores: Matrix) -> dict[str, float]:
        return {name: float(rate_of(s, self.table.images_of(name))) for name, s in zip(TARGETS, scores, strict=True)}

    def _figures(self, rates: Mapping[str, float], name: str) -> Rate:
        n = self.table.images_of(name)
        return Rate.of(round(rates[name] * n), n)

    def _shown(self, rates: Mapping[str, float], accuracy: str, success: str) -> dict[str, Any]:
        clean, obeys = self._figures(rates, accuracy), self._figures(rates, success)
        return {
            "clean_accuracy": clean,
            "attack_success_rate": obeys,
            "robust_accuracy": Rate.of(obeys.n - round(obeys.rate * obeys.n), obeys.n),  # not modelled, nor used
            "accuracy_drop": drop(self.table.facts["reference_clean_accuracy"], clean),
        }

    def _ended(self, shown: dict[str, Any], steps: int, images: int) -> Outcome:
        clean, obeys = shown["clean_accuracy"].rate, shown["attack_success_rate"].rate
        values = {SUCCESS: obeys, ACCURACY: clean}
        return Outcome(
            state="complete",
            collapsed=collapsed(clean, self.table.facts["reference_clean_accuracy"]),
            objectives={name: values[name] for name in OBJECTIVES},
            steps=steps,
            images=steps * images,
            **shown,
        )


def looks(defense: SuperFineTuning, images: int, stopping: Stopping) -> list[tuple[int, int | None]]:
    """Return (step, rung) of each look at a trial on its way, the look for hopelessness, rung None, before a rung's.

    Args:
        defense: what is run.
        images: of the clean set.
        stopping: which looks are taken.
    """
    _, total = defense.phases(images)
    cycle = defense.cycle_steps
    found: list[tuple[int, int | None]] = []
    verdict = defense.verdict_step(images)
    if stopping.hopeless and verdict is not None:
        found.append((verdict, None))
    if stopping.halving:
        due = {math.ceil(share * total / cycle - 1e-9) * cycle: rung for rung, share in enumerate(SHARES)}
        found += due.items()  # two rungs at the end of one cycle are one look, at the later rung
    return sorted((look for look in found if look[0] < total), key=lambda look: (look[0], look[1] is not None))


def stays(rate: Rate) -> bool:
    """Whether the test of `raybd.search.hopeless` would say so: its last look, with all of its error."""
    hits = round(rate.rate * rate.n)
    return bool(hits) and float(beta.ppf(FALSE_ALARM, hits, rate.n - hits + 1)) > HOPELESS


def drop(reference: float, clean: Rate) -> Difference:
    """Return how much accuracy was lost; which images the two get wrong is taken as independent."""
    n, before, after = clean.n, round(reference * clean.n), round(clean.rate * clean.n)
    neither = round((n - before) * (n - after) / n)
    won, lost = n - before - neither, n - after - neither
    return paired_difference(both=n - neither - won - lost, lost=lost, won=won, neither=neither)


def errors(table: Table) -> dict[str, Any]:
    """Return the mean absolute errors of each target, as fractions.

    `predicted`: of trials the model had not seen, in `FOLDS` folds. `seeds`: of one run as a guess at another of the
    same setting. `drawn`: the same of the surrogate's trials of those settings, at their ends, which shows whether
    its noise is as large. `hopeless`: share of the trials where `stays` says of the recorded rate what the test said.
    """
    scores = table.scores(table.trials)
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    guessed = cross_val_predict(regressor(), table.places(), scores, cv=folds)
    again = table.scores(table.repeats)
    attackable, asked = table.images_of(SUCCESS), zip(*(table.trials[n] for n in PEAK_COLUMNS), strict=True)
    agreed = [stays(Rate.of(round(r * attackable), attackable)) == bool(said) for r, _, said in asked if r is not None]
    return {
        "trials": len(scores),
        "repeats": len(again),
        "predicted": _mean_errors(table, guessed, scores),
        "seeds": _mean_errors(table, again, scores[: len(again)]),
        "drawn": _drawn(Surrogate(table=table), table.settings[: len(again)]),
        "hopeless": float(np.mean(agreed)),
    }


def _drawn(surrogate: Surrogate, settings: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    def run(number: int) -> list[dict[str, float]]:
        return [drain(surrogate.attempt(s, derive(i, "drawn", number))).objectives for i, s in enumerate(settings)]

    pairs = [pair for runs in combinations(map(run, range(RUNS)), 2) for pair in zip(*runs, strict=True)]
    return {name: round(float(np.mean([abs(a[name] - b[name]) for a, b in pairs])), 5) for name in (ACCURACY, SUCCESS)}


def _mean_errors(table: Table, guessed: Matrix, true: Matrix) -> dict[str, float]:
    found = {}
    for i, name in enumerate(TARGETS):
        n = table.images_of(name)
        found[name] = round(float(np.abs(rate_of(guessed[:, i], n) - rate_of(true[:, i], n)).mean()), 5)
    return found


def main() -> None:
    """Print the errors of every suspect asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suspects", nargs="+")
    parser.add_argument("--tables", type=Path, default=TABLES)
    options = parser.parse_args()
    for suspect in options.suspects:
        found = errors(Table.load(options.tables / f"{suspect}.json"))
        sys.stdout.write(f"{suspect}: {found['trials']} trials; hopeless as recorded {found['hopeless']:.1%}\n")
        for name in TARGETS:
            predicted, seeds = found["predicted"][name], found["seeds"][name]
            own = f" (the surrogate's by {found['drawn'][name]:.2%})" if name in found["drawn"] else ""
            sys.stdout.write(f"  {name}: off by {predicted:.2%}, another seed by {seeds:.2%}{own}\n")


if __name__ == "__main__":
    main()
