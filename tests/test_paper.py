"""The benchmark of the paper's attacks: cells are studies that can be read; what is chosen without the trigger."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raybd.evaluation.metrics import Difference, Rate
from raybd.registry import BadInput, read_json
from raybd.search.records import Outcome
from raybd.stages.suspects import NoBackdoor
from tests.benchmarks import (
    paper_attacks,
    paper_clean,
    paper_longer,
    paper_moved,
    paper_others,
    readme_claims,
    readme_paper,
    readme_tables,
)
from tests.benchmarks import paper_cells as cells
from tests.benchmarks.paper_others import best_of_others, choose


def write_digits(folder: Path, *names: str) -> None:
    """The digits as benchmark data: the same images under each name."""
    found = load_digits()
    images = np.rint(found.images * (255 / 16)).astype(np.uint8)
    folder.mkdir()
    for name in names:
        parts = {"x_train": images[:900], "x_test": images[900:]}
        labels = {"y_train": found.target[:900], "y_test": found.target[900:]}
        np.savez(folder / f"{name}.npz", **parts, **labels)


def trial(asr: float, drop: float, *, collapsed: bool = False, **setting: float) -> dict[str, Any]:
    return {"setting": setting, "attack_success_rate": asr, "accuracy_drop": drop, "collapsed": collapsed}


def cell(*trials: dict[str, Any]) -> dict[str, Any]:
    return {"defended": {"trials": list(trials)}}


def outcome(hits: int, drop: float) -> Outcome:
    difference = Difference(value=drop, low=drop - 0.01, high=drop + 0.01, n=100)
    return Outcome(state="complete", attack_success_rate=Rate.of(hits, 100), accuracy_drop=difference)


@pytest.mark.parametrize("data", cells.DATA)
@pytest.mark.parametrize("attack", cells.ATTACKS)
def test_every_cell_is_a_study_that_can_be_read(data: str, attack: str, tmp_path: Path) -> None:
    settings = cells.study(data, attack, tmp_path, trials=3)
    assert settings.attack is not None
    assert settings.attack.kind == attack
    assert settings.search.trials == 3


@pytest.mark.parametrize("name", paper_moved.CASES)
def test_every_cell_under_another_task_is_a_study_that_can_be_read(name: str, tmp_path: Path) -> None:
    for attack in paper_moved.CASES[name].attacks:
        settings = paper_moved.study(name, attack, tmp_path, trials=3)
        assert settings.scenario == paper_moved.CASES[name].scenario
        assert settings.attack is not None
        assert settings.attack.kind == attack


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The benchmarks at the smallest scale: digits for every data set, one trial, a short training."""
    monkeypatch.setattr(paper_attacks, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(cells, "CLEAN_IMAGES", 60)
    monkeypatch.setattr(cells, "SELECTION_IMAGES", 200)
    monkeypatch.setattr(cells, "FIXED", dict.fromkeys(cells.FIXED, "super_fine_tuning"))
    monkeypatch.setattr(cells, "AUGMENT", {})
    monkeypatch.setitem(cells.DATA, "cifar10", {**cells.DATA["cifar10"], "epochs": 4})
    short = replace(paper_moved.CASES["transfer"], training={"epochs": 4, "lr": 0.1, "batch_size": 32})
    monkeypatch.setitem(paper_moved.CASES, "transfer", short)
    monkeypatch.setattr(paper_moved, "TRAIN_IMAGES", 500)
    write_digits(tmp_path / "images", "cifar10", "gtsrb")
    return tmp_path


def test_cells_are_measured_once_and_their_trials_serve_the_other_tables(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = cells.study("cifar10", "badnets", digits / "images", trials=1)
    for _ in range(2):
        paper_attacks.measure(settings, digits, "cifar10/badnets", defend=True)
        monkeypatch.setattr(cells, "plant", None)  # it is not called again
    card = read_json(digits / "results" / "cifar10" / "badnets.json")
    assert card["undefended"]["rows"]["suspect"]["attack_success_rate"]["rate"] > 0.5
    assert card["defended"]["rows"].keys() == {"suspect", "fine_tuning", "paper", "tuned"}
    assert len(card["defended"]["trials"]) == 1
    other = cells.study("cifar10", "badnets", digits / "images", trials=2)
    with pytest.raises(BadInput, match="measured with another study"):
        paper_attacks.measure(other, digits, "cifar10/badnets", defend=True)


def test_what_builds_on_the_cells_goes_from_end_to_end(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = digits / "results"
    for module in (paper_clean, paper_longer, paper_others):
        monkeypatch.setattr(module, "RESULTS", results)
    monkeypatch.setattr(cells, "PAPERS", ("badnets", "blended"))
    monkeypatch.setattr(cells, "SEEDS", dict.fromkeys(cells.SEEDS, 1))

    def run(main: Callable[[], None], *words: str) -> None:
        monkeypatch.setattr("sys.argv", ["prog", "cifar10", str(digits), *words])
        main()

    images = ["--images", "unused"]  # the part of it that is used lies there already
    run(paper_attacks.main, *images, "--attacks", "badnets", "blended", "--trials", "2")
    monkeypatch.setattr(paper_others, "TRIALS", 2)
    run(paper_others.main, *images)
    assert read_json(results / "others_cifar10.json")["left_out"].keys() == {"badnets", "blended"}
    run(paper_longer.main, "--attacks", "blended", "--trials", "1")
    again = read_json(results / "longer_cifar10.json")["attacks"]["blended"]
    assert again["rows"].keys() == {"suspect", "tuned"}
    run(paper_clean.main, "--trials", "1")
    clean = read_json(results / "clean_cifar10.json")
    assert clean["rows"].keys() == {"suspect", "paper"}
    assert "the given trigger is weak on this suspect" in clean["warnings"][0]


def test_a_suspect_of_another_attack_or_training_is_not_taken_for_this_one(digits: Path) -> None:
    settings = cells.study("cifar10", "badnets", digits / "images", trials=1)
    cells.plant(settings, digits / "home", digits / "twins")
    assert cells.kept(settings, digits / "home") is not None
    cells.DATA["cifar10"]["epochs"] += 1  # a copy of the fixture's own
    other = cells.study("cifar10", "badnets", digits / "images", trials=1)
    with pytest.raises(BadInput, match="planted with training"):
        cells.kept(other, digits / "home")
    assert cells.twin_file(other, digits) != cells.twin_file(settings, digits)


def test_a_refused_trigger_is_written_as_refused_and_other_faults_are_raised(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = cells.study("cifar10", "badnets", digits / "images", trials=1)

    def refuse(*_: object) -> None:
        raise NoBackdoor("the twin obeys")

    monkeypatch.setattr(cells, "plant", refuse)
    paper_attacks.measure(settings, digits, "cifar10/badnets", defend=True)
    assert read_json(digits / "results" / "cifar10" / "badnets.json")["refused"] == "the twin obeys"

    def fail(*_: object) -> None:
        raise BadInput("training: it collapsed")

    monkeypatch.setattr(cells, "plant", fail)
    with pytest.raises(BadInput, match="collapsed"):
        paper_attacks.measure(settings, digits, "cifar10/badnets", defend=True)


def test_a_cell_under_another_task_has_the_head_too(digits: Path) -> None:
    settings = paper_moved.study("transfer", "badnets", digits / "images", trials=1)
    paper_attacks.measure(settings, digits, "transfer/badnets", defend=True)
    card = read_json(digits / "results" / "transfer" / "badnets.json")
    assert card["defended"]["rows"].keys() == {"suspect", "head", "fine_tuning", "paper", "tuned"}
    assert card["undefended"]["upstream"]["poisoned"] == 50


def test_halves_of_the_classes_are_two_tasks_with_labels_from_zero(tmp_path: Path) -> None:
    write_digits(tmp_path / "data", "whole")
    first, last = tmp_path / "first.npz", tmp_path / "last.npz"
    paper_moved.halves(tmp_path / "data" / "whole.npz", first, last)
    with np.load(tmp_path / "data" / "whole.npz") as whole, np.load(first) as lower, np.load(last) as upper:
        assert set(lower["y_train"]) == set(upper["y_train"]) == set(range(5))
        assert len(lower["y_test"]) + len(upper["y_test"]) == len(whole["y_test"])
        sevens = whole["x_train"][whole["y_train"] == 7]
        assert np.array_equal(upper["x_train"][upper["y_train"] == 2], sevens)


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


ENVIRONMENT = {"cores": 2, "cpu": "CPU", "gpu": "none", "torch": "2", "ray": "2", "optuna": "5"}


def test_the_tables_say_what_is_not_measured_and_what_was_refused() -> None:
    attack = {"kind": "wanet", "poison_ratio": 0.1, "s": 1.0}
    study = {"attack": attack}
    found = {"cifar10/wanet": {"study": study, "environment": ENVIRONMENT, "refused": "the twin obeys"}}
    table = readme_paper.undefended(found)
    assert "Refused: CIFAR-10, wanet (10 %, s 1): the twin obeys." in table
    assert "Not measured yet: Fashion-MNIST, badnets; " in table
    assert "CIFAR-10, wanet;" not in table


def row(
    low: float, high: float, *, collapsed: bool = False, spread: tuple[float, float] | None = None, drop: float = 0.0
) -> dict[str, Any]:
    """A measured row whose ASR has the bounds `low` and `high`, and over seeds mean and deviation `spread`."""
    rates = {key: {"rate": 0.9} for key in ("clean_accuracy", "robust_accuracy")}
    several = None if spread is None else {"attack_success_rate": {"mean": spread[0], "sd": spread[1]}}
    return {
        **rates,
        "attack_success_rate": {"rate": (low + high) / 2, "low": low, "high": high},
        "accuracy_drop": {"value": drop},
        "training_seconds": 1.0,
        "spread": several,
        "collapsed": collapsed,
    }


def test_a_claim_is_confirmed_on_every_suspect_and_refuted_on_more_than_half() -> None:
    judged = [readme_claims.judge(*each) for each in ((3, 0, 3), (2, 1, 3), (1, 2, 3), (1, 0, 2), (1, 0, 1), (0, 0, 0))]
    assert judged[:4] == ["confirmed", "undecided", "refuted", "undecided"]
    assert judged[4:] == ["confirmed (one suspect only)", "undecided: no working backdoor measured"]


def test_a_backdoor_is_removed_if_the_whole_interval_says_so_and_the_model_still_works() -> None:
    assert readme_claims.removed(row(0.01, 0.04)) is True
    assert readme_claims.removed(row(0.06, 0.08)) is False
    assert readme_claims.removed(row(0.01, 0.06)) is None
    assert readme_claims.removed(row(0.01, 0.04, spread=(0.04, 0.03))) is None
    assert readme_claims.removed(row(0.0, 0.01, collapsed=True)) is False
    assert readme_claims.less(row(0.1, 0.2), row(0.3, 0.4)) is True
    assert readme_claims.less(row(0.1, 0.35), row(0.3, 0.4)) is None


def test_claims_are_judged_on_the_suspects_whose_backdoor_worked() -> None:
    twin = {"undefended": {"rows": {"twin": row(0.0, 0.02)}}}
    obeying = {"rows": {"twin": row(0.0, 0.95)}}
    worked = {"rows": {"suspect": row(0.9, 1.0), "fine_tuning": row(0.8, 0.9), "paper": row(0.0, 0.01)}}
    found: dict[str, dict[str, Any]] = {
        "cifar10/badnets": {"defended": worked, **twin},
        "cifar10/blended": {"defended": worked, "undefended": obeying},
        "transfer/latent": twin,
    }
    words = [line.split(" | ")[1:3] for line in readme_claims.table(found).splitlines()[2:]]
    assert words[:3] == [["confirmed (one suspect only)", "1 / 0 / 0"]] * 3
    assert words[3:] == [["undecided: no working backdoor measured", "0 / 0 / 0"]] * 5


def test_rows_above_ten_percent_are_listed_with_what_was_tried() -> None:
    study = {
        "attack": {"kind": "blended", "poison_ratio": 0.1},
        "gate": {"max_attack_success_rate": 0.05, "max_accuracy_drop": 0.02},
        "space": "standalone",
    }
    rows = {name: row(0.3, 0.5, drop=0.03) for name in readme_paper.SHOWN}
    cell = {"rows": rows, "trials": [], "feasible_trials": 0, "met_the_gate_on_selection": False}
    found = {"cifar10/blended": {"study": study, "defended": cell}}
    table = readme_paper.defended(found, {})
    assert "missed: ASR over 5 %, loss over 2 points |" in table
    assert "CIFAR-10, blended: nothing else yet" in table
    again = {"cifar10": {"attacks": {"blended": {"study": study, **cell}}}}
    assert "CIFAR-10, blended: 0 trials in `standalone`, 0 feasible" in readme_paper.defended(found, again)


def test_the_table_of_clean_suspects_bears_a_run_without_a_candidate() -> None:
    said = {"verdict": {"word": "No candidate", "sentence": "None."}, "warnings": ["Weak."], "environment": ENVIRONMENT}
    rows = {"suspect": {**row(0.0, 0.01), "accuracy_drop": None}, "paper": row(0.0, 0.01, drop=0.02)}
    table = readme_paper.never_poisoned(
        {"cifar10": {"selected": None, "ended": "NothingFeasible: x", "rows": rows, **said}}
    )
    assert "| lost 2.0 points: C-Acc 90.0 %, ASR 0.5 %, R-Acc 90.0 %, 1 s | no candidate | NothingFeasible |" in table
    assert "“Weak.”" in table


def test_a_block_without_a_place_in_the_readme_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readme_tables, "blocks", lambda: {"paper-new": "text"})
    assert (
        readme_tables.filled("<!-- paper-new -->\nold\n<!-- /paper-new -->")
        == "<!-- paper-new -->\ntext\n<!-- /paper-new -->"
    )
    with pytest.raises(ValueError, match="0 places for paper-new"):
        readme_tables.filled("nothing")
