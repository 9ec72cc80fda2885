"""What must hold of a run folder once its fault is lifted and the search resumed: `settled`, for every fault test."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna

from raybd.registry import revive
from raybd.search.opening import DATABASE, JOURNAL
from raybd.search.records import TrialRecord, front_of
from raybd.tracking.client import connect, resolve_uri
from raybd.tracking.records import TAG

ENDS = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
STATE_LINE, ENDED = 6, (1, 2, 3)
"""Of Optuna's journal: the operation that sets a trial's state, and the states that end it."""


def settled(run: Path, study: optuna.Study | None = None) -> None:
    """Check that nothing of the search in the run folder is lost, doubled or left open.

    Args:
        run: the run folder.
        study: the search's Optuna study, where that does not lie in the run folder's journal.
    """
    searched = json.loads((run / "search" / "card.json").read_text(encoding="utf-8"))
    if study is None:
        _told_once(run / "search" / JOURNAL)
        study = journalled(run)
    _ended_once(study, searched)
    _front_is_kept(run, searched)
    if (run / "tracking.json").is_file():
        _tracked_once(run, searched)


def journalled(run: Path) -> optuna.Study:
    """The study in the journal of a run folder, read without holding it."""
    backend = optuna.storages.journal.JournalFileBackend(str(run / "search" / JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    (name,) = [found.study_name for found in storage.get_all_studies()]
    return optuna.load_study(study_name=name, storage=storage)


def _told_once(journal: Path) -> None:
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    ends = Counter(e["trial_id"] for e in lines if e["op_code"] == STATE_LINE and e.get("state") in ENDED)
    assert set(ends.values()) <= {1}, f"told more than once: {ends}"


def _ended_once(study: optuna.Study, searched: dict[str, Any]) -> None:
    trials = study.get_trials(deepcopy=False)
    assert {t.state.name for t in trials} <= set(ENDS), "a trial was left running or waiting"
    # One that was killed before its setting was written down was never tried, and has no record.
    tried = {t.number: t for t in trials if "proposal" in t.user_attrs}
    records = {record["number"]: record for record in searched["records"]}
    assert {number: ENDS[t.state.name] for number, t in tried.items()} == {n: r["state"] for n, r in records.items()}
    counted = [t.user_attrs["proposal"]["draw"] for t in tried.values() if t.state.name != "FAIL"]
    assert len(set(counted)) == len(counted), "a setting ended well more than once"
    assert len(counted) == searched["trials"], "the budget is not met"
    assert all(r["training_seconds"] >= 0 and r["evaluation_seconds"] >= 0 for r in records.values())


def _front_is_kept(run: Path, searched: dict[str, Any]) -> None:
    records = [revive(TrialRecord, record) for record in searched["records"]]
    assert tuple(searched["front"]) == front_of(records)
    weights = {int(path.parent.name) for path in (run / "search" / "trials").glob("*/weights.safetensors")}
    assert weights == set(searched["front"])
    kept = {"card.json", "clock.json", "trials", JOURNAL, DATABASE}
    leftovers = {path.name for path in (run / "search").iterdir()} - kept
    assert not {name for name in leftovers if not name.startswith(".")}, leftovers


def _tracked_once(run: Path, searched: dict[str, Any]) -> None:
    """MLflow holds each trial, row and front model exactly once, and the registry what was selected."""
    assert not (run / "outbox.jsonl").exists(), "something still waits"
    state = json.loads((run / "tracking.json").read_text(encoding="utf-8"))
    client = connect(resolve_uri(state["uri"], run))
    (experiment,) = [client.get_experiment_by_name(f"raybd/{state['study']}").experiment_id]
    runs = list(client.search_runs([experiment], f"tags.`{TAG}` LIKE '{state['run_key']}:%'", max_results=1000))
    tags = Counter(each.data.tags[TAG] for each in runs)
    assert set(tags.values()) == {1}, f"delivered more than once: {tags}"
    names = Counter(each.info.run_name for each in runs)
    assert all(names[f"trial-{record['number']}"] == 1 for record in searched["records"])
    assert sum(name.startswith("trial-") for name in names.elements()) == len(searched["records"])
    assert all(each.info.end_time >= each.info.start_time for each in runs if each.info.end_time)
    models = Counter(m.name for m in client.search_logged_models([experiment]) if m.status.value == "READY")
    assert all(models[f"trial-{number}"] == 1 for number in searched["front"]), "front and MLflow disagree"
    promoted = run / "promote" / "card.json"
    if promoted.is_file():
        _registered_once(run, client, state["run_key"], json.loads(promoted.read_text(encoding="utf-8")))


def _registered_once(run: Path, client: Any, run_key: str, card: dict[str, Any]) -> None:
    ours = [v for v in client.search_model_versions(f"name = '{card['name']}'") if v.tags["raybd.run"] == run_key]
    assert [str(v.version) for v in ours] == ([card["version"]] if card["promoted"] else [])
    if card["promoted"]:
        (version,) = ours
        assert client.get_model_version_by_alias(card["name"], card["alias"]).version == version.version
        selected = json.loads((run / "select" / "card.json").read_text(encoding="utf-8"))
        assert version.tags["weights_digest"] == selected["weights_digest"] == card["weights_digest"]


def figures(run: Path) -> list[list[Any]]:
    """Settings and what was measured, of every trial that counts: what a fault must not change on one worker."""
    records = json.loads((run / "search" / "card.json").read_text(encoding="utf-8"))["records"]
    shown = ("setting", "seed", "state", "collapsed", "clean_accuracy", "attack_success_rate", "robust_accuracy")
    ended = [record for record in records if record["state"] != "failed"]
    return [[record[name] for name in shown] for record in ended]


def front(run: Path) -> list[dict[str, Any]]:
    """The settings of the front, in order of their seeds: a fault may shift the numbers of the trials, no more."""
    card = json.loads((run / "search" / "card.json").read_text(encoding="utf-8"))
    return [record["setting"] for record in card["records"] if record["number"] in card["front"]]
