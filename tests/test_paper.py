"""The benchmark of the paper's attacks: cells are studies that can be read; what is chosen without the trigger."""

from pathlib import Path
from typing import Any

import pytest

from raybd.evaluation.metrics import Difference, Rate
from raybd.search.records import Outcome
from tests.benchmarks import paper_cells, readme_paper
from tests.benchmarks.paper_others import best_of_others, choose


def trial(asr: float, drop: float, *, collapsed: bool = False, **setting: float) -> dict[str, Any]:
    return {"setting": setting, "attack_success_rate": asr, "accuracy_drop": drop, "collapsed": collapsed}


def cell(*trials: dict[str, Any]) -> dict[str, Any]:
    return {"defended": {"trials": list(trials)}}


def outcome(hits: int, drop: float) -> Outcome:
    difference = Difference(value=drop, low=drop - 0.01, high=drop + 0.01, n=100)
    return Outcome(state="complete", attack_success_rate=Rate.of(hits, 100), accuracy_drop=difference)


@pytest.mark.parametrize("data", paper_cells.DATA)
@pytest.mark.parametrize("attack", paper_cells.ATTACKS)
def test_every_cell_is_a_study_that_can_be_read(data: str, attack: str, tmp_path: Path) -> None:
    settings = paper_cells.study(data, attack, tmp_path, trials=3)
    assert settings.attack is not None
    assert settings.attack.kind == attack
    assert settings.search.trials == 3


def test_the_one_left_out_has_no_say_in_what_is_best_on_the_others() -> None:
    found = {
        "mine": cell(trial(0.0, 0.0, lr=9)),
        "theirs": cell(trial(0.02, 0.0, lr=1), trial(0.0, 0.0, collapsed=True, lr=2), trial(0.9, 0.0, lr=3)),
        "others": cell(trial(0.0, 0.01, lr=4), trial(0.0, 0.019, lr=1)),
    }
    # By the larger of ASR / 5 % and drop / 2 points: 0.4, 0.5, then the same setting again, then 18.
    assert [s["lr"] for s in best_of_others("mine", found, (0.05, 0.02))] == [1, 4, 3]


def test_the_lowest_mean_asr_wins_if_every_drop_is_inside_its_limit() -> None:
    outcomes = {
        "a": [outcome(4, 0.01), outcome(6, 0.02)],
        "b": [outcome(0, 0.01), outcome(0, 0.021)],
        "c": [outcome(3, 0.0), outcome(5, 0.01)],
    }
    assert choose(outcomes, 0.02) == "c"
    assert choose({"b": outcomes["b"]}, 0.02) is None


def test_a_suspect_on_which_a_setting_fails_rules_it_out() -> None:
    failed = Outcome(state="failed", error="out of memory")
    assert choose({"a": [outcome(0, 0.0), failed]}, 0.02) is None


def test_the_tables_say_what_is_not_measured_and_what_was_refused() -> None:
    study = {"attack": {"poison_ratio": 0.1}}
    environment = {"cores": 2, "cpu": "CPU", "gpu": "none", "torch": "2", "ray": "2", "optuna": "5"}
    cells = {"cifar10/badnets": {"study": study, "environment": environment, "refused": "the twin obeys"}}
    table = readme_paper.undefended(cells)
    assert "Refused: CIFAR-10, badnets (10 %): the twin obeys." in table
    assert "Not measured yet: Fashion-MNIST badnets, " in table
    assert "CIFAR-10 badnets" not in table
