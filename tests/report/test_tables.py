"""summary.json and the terminal's table hold what the cards hold."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from raybd.report import ReportInput, summarise, table_rows, write
from raybd.report.page import context
from raybd.report.verdict import verdict


def test_summary_json_holds_every_field_of_the_contract(run: ReportInput, tmp_path: Path) -> None:
    write(run, tmp_path)
    data = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))

    rates = {"clean_accuracy", "attack_success_rate", "robust_accuracy"}
    for row in (data["suspect"], data["selected"], *data["references"].values()):
        assert all({"rate", "n", "low", "high"} <= row[name].keys() for name in rates)
    assert data["selected"]["setting"]["kind"] == "super_fine_tuning"
    assert set(data["references"]) == {"super_fine_tuning", "fine_tuning"}
    assert data["registry"] == {
        "name": "gtsrb-classifier",
        "version": 3,
        "alias": "candidate",
        "promoted": True,
        "refusals": [],
    }
    assert run.promotion is not None
    back = replace(run, promotion={**run.promotion, "rolled_back_to": "2"})
    assert summarise(back)["registry"] == data["registry"] | {"rolled_back_to": "2"}
    assert data["trigger_knowledge"] == "given"
    assert data["sequela"]["membership"]["suspect_members"]["rise"]["n"] == 9000
    assert data["missing"] == {}
    assert data["verdict"] == {"word": verdict(run).word, "sentence": verdict(run).sentence}


def test_trials_are_complete_plus_pruned_and_collapsed_ones_count_as_complete(run: ReportInput) -> None:
    search = summarise(run)["search"]

    assert search["trials"] == search["complete"] + search["pruned"] == 32
    assert search["pruned"] == 2
    assert search["failed"] == 1
    assert 0 < search["collapsed"] <= search["complete"]
    assert search["trials_per_hour"] == 3600 * 32 / 512


def test_a_trial_that_was_cut_is_interrupted_and_not_failed(run: ReportInput) -> None:
    assert run.study is not None
    records = [{**r, "interrupted": r["number"] == 23} for r in run.study["records"]]
    cut = replace(run, study={**run.study, "records": records})
    found, shown = summarise(cut)["search"], context(cut)["search"]

    assert (found["failed"], found["interrupted"], found["trials"]) == (0, 1, 32)
    assert dict(shown["facts"])["interrupted (repeated)"] == "1"
    assert shown["trials"][23]["kind"] == "interrupted"
    assert "interrupted (repeated)" not in dict(context(run)["search"]["facts"])


def test_a_stage_that_has_not_run_is_null_and_named(run: ReportInput, without: Any) -> None:
    data = summarise(without(run, "study", "selection", "assessment", "promotion"))

    assert [data[k] for k in ("suspect", "references", "selected", "search", "sequela", "registry")] == [None] * 6
    assert list(data["missing"]) == ["search", "select", "assess", "promote"]


def test_no_elapsed_time_gives_no_rate(run: ReportInput) -> None:
    assert run.study is not None

    assert summarise(replace(run, study={**run.study, "seconds": 0.0}))["search"]["trials_per_hour"] is None


def test_the_terminal_table_is_plain_text_in_reading_order(run: ReportInput) -> None:
    assert run.assessment is not None
    header, *lines = table_rows(run.assessment)

    assert [line[0] for line in lines] == [
        "suspect",
        "super-fine-tuning, paper's values",
        "conventional fine-tuning",
        "candidate",
        "never-poisoned twin",
    ]
    assert all(len(line) == len(header) for line in lines)
    assert lines[3] == [
        "candidate",
        "96.5 % [95.9, 97.0]",
        "1.5 % [1.1, 1.9]",
        "95.1 % [94.4, 95.7]",
        "1.4 [0.8, 2.0]",
        "15.2 s, 36,480 images",
    ]
    assert lines[2][4] == "-0.1 [-0.7, 0.5]"
    assert all(cell.isascii() for line in lines for cell in line)


def test_a_collapsed_model_is_marked_in_the_table(run: ReportInput) -> None:
    assert run.assessment is not None
    selected = {**run.assessment["selected"], "collapsed": True}

    assert table_rows({**run.assessment, "selected": selected})[4][0] == "candidate (collapsed)"
