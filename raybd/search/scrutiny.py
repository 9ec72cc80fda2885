"""A journal looked at before it is gone on with: lines as JSON of a sane size, trials as raybd writes them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from raybd.registry import BadInput, parse_json, revive
from raybd.search.records import Outcome, Reading
from raybd.search.rungs import RUNG, SHARES
from raybd.search.samplers import distribution
from raybd.search.space import Space

LINE_BYTES = 4 * 2**20
"""No line of ours has more than a few KB; the warm start's has the most."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a trial's journal says it tries."""

    setting: dict[str, Any]
    seed: int
    draw: int
    by: str


def check_lines(path: Path) -> None:
    """Refuse a journal with a line that is no JSON mapping; a last one cut short by a kill is another matter.

    Raises:
        BadInput: naming the line. The journal is only read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES), b""), start=1):
            last = file.tell() == size
            if not line.endswith(b"\n") and last:
                return
            try:
                held = parse_json(line)
            except ValueError as error:
                if last and _cut_short(line):
                    return
                raise BadInput(f"{path}: line {number} is not readable as JSON ({error})") from error
            if not isinstance(held, dict):
                raise BadInput(f"{path}: line {number} is no log of a search")


def _cut_short(line: bytes) -> bool:
    """Whether a last line is what a kill leaves, rather than JSON of a kind that we never write."""
    try:
        json.loads(line)
    except RecursionError:
        return False
    except ValueError:
        return True
    return False


def check_study(study: Study, space: Space, directions: Sequence[str]) -> None:
    """Refuse a study that no search of ours has written: Optuna replays whatever a journal says.

    Args:
        study: as Optuna read it.
        space: what is searched.
        directions: of the figures that the search steers by.

    Raises:
        BadInput: naming the trial and what is wrong with it.
    """
    found = [direction.name.lower() for direction in study.directions]
    trials = study.get_trials(deepcopy=False)
    if found != list(directions) or (trials and "identity" not in study.user_attrs):
        raise BadInput(f"the journal of '{study.study_name}' is damaged: it would {' and '.join(found)}, of no search")
    for trial in trials:
        try:
            fault = next(_faults(trial, space, len(directions)), None)
        except (BadInput, TypeError, ValueError, KeyError, AttributeError) as error:
            fault = str(error)
        if fault is not None:
            raise BadInput(f"the journal of '{study.study_name}' is damaged: trial {trial.number}: {fault}")


def _faults(trial: FrozenTrial, space: Space, objectives: int) -> Iterator[str]:
    attributes = trial.user_attrs
    plan = None if attributes.get("proposal") is None else revive(Plan, attributes["proposal"])
    if plan is not None and not 0 <= plan.draw <= trial.number:
        yield f"draw {plan.draw} cannot be"
    if plan is not None and plan.setting not in space:
        yield "its setting lies outside the space"
    if "outcome" in attributes:
        outcome = dict(attributes["outcome"])
        revive(bool, outcome.pop("interrupted"))
        revive(Outcome, outcome)
    for reading in (revive(Reading, kept) for name, kept in attributes.items() if name.startswith(RUNG)):
        if not 0 <= reading.rung < len(SHARES):
            yield f"there is no rung {reading.rung}"
    if plan is not None and trial.state.is_finished() and "outcome" not in attributes:
        yield "it has ended, but nothing says how"
    if plan is None and trial.state in (TrialState.WAITING, TrialState.COMPLETE, TrialState.PRUNED):
        yield "nothing says what it tries"
    distributions = {name: distribution(dimension) for name, dimension in space.search.items()}
    if any(distributions.get(name) != kept for name, kept in trial.distributions.items()):
        yield "it searched another space"
    values = revive(list[float] | None, trial.values)
    if trial.state == TrialState.COMPLETE and len(values or ()) != objectives:
        yield f"expected {objectives} values, got {values}"
    revive(dict[str, float], dict(trial.constraints))
