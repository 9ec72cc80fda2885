"""The benchmark of the paper's attacks: cells are studies that can be read; what is chosen without the trigger."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from raybd.evaluation.metrics import Difference, Rate
from raybd.registry import BadInput, read_json
from raybd.search.records import Outcome
from tests.benchmarks import paper_attacks, paper_moved, readme_claims, readme_paper
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


@pytest.mark.parametrize("scenario", paper_moved.ATTACKS)
def test_every_cell_under_another_task_is_a_study_that_can_be_read(scenario: str, tmp_path: Path) -> None:
    for attack in paper_moved.ATTACKS[scenario]:
        settings = paper_moved.study(scenario, attack, tmp_path, trials=3)
        assert settings.scenario == scenario
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
    monkeypatch.setitem(paper_moved.TRAINING, "transfer", {"epochs": 4, "lr": 0.1, "batch_size": 32})
    monkeypatch.setattr(paper_moved, "TRAIN_IMAGES", 500)
    write_digits(tmp_path / "images", "cifar10", "gtsrb")
    return tmp_path


def test_a_cell_is_planted_measured_and_not_done_again(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_cell_under_another_task_has_the_head_too(digits: Path) -> None:
    settings = paper_moved.study("transfer", "badnets", digits / "images", trials=1)
    paper_attacks.measure(settings, digits, "transfer/badnets", defend=True)
    card = read_json(digits / "results" / "transfer" / "badnets.json")
    assert card["defended"]["rows"].keys() == {"suspect", "head", "fine_tuning", "paper", "tuned"}
    assert card["undefended"]["upstream"]["poisoned"] == 50


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
    found = {"cifar10/badnets": {"study": study, "environment": environment, "refused": "the twin obeys"}}
    table = readme_paper.undefended(found)
    assert "Refused: CIFAR-10, badnets (10 %): the twin obeys." in table
    assert "Not measured yet: Fashion-MNIST badnets, " in table
    assert "CIFAR-10 badnets" not in table


def test_a_claim_is_confirmed_on_every_suspect_and_refuted_on_fewer_than_half() -> None:
    assert [readme_claims.judge(*each) for each in ((3, 3), (2, 3), (1, 2), (1, 3), (0, 0))] == [
        "confirmed",
        "undecided",
        "undecided",
        "refuted",
        "undecided",
    ]


def test_claims_are_judged_on_the_suspects_of_their_scenario() -> None:
    def row(asr: float) -> dict[str, Any]:
        return {"attack_success_rate": {"rate": asr}, "spread": None}

    found: dict[str, dict[str, Any]] = {
        "cifar10/badnets": {"defended": {"rows": {"fine_tuning": row(0.9), "paper": row(0.04)}}},
        "encoder/bad_encoder": {"defended": {"rows": {"fine_tuning": row(0.5), "head": row(1.0)}}},
        "transfer/latent": {"undefended": {}},
    }
    words = [line.split(" | ")[1:3] for line in readme_claims.table(found).splitlines()[2:]]
    assert words[:3] == [["confirmed", "1 of 1"]] * 3
    assert words[3:5] == [["undecided", "0 of 0"]] * 2
    assert words[5:] == [["confirmed", "1 of 1"], ["refuted", "0 of 1"]]
