"""The figures show every trial and model, each in its place."""

import math
from dataclasses import replace
from typing import Any

import pytest

from raybd.report import ReportInput, search_figures
from raybd.report.assessment_figures import classes, reinjection
from raybd.report.style import in_reading_order, marks
from raybd.report.trials import KINDS, kind_of, published


def traces(figure: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {trace["name"]: trace for trace in figure["data"]}


def test_kinds_of_trials_and_models_differ_without_colour(run: ReportInput) -> None:
    assert run.study is not None
    drawn = traces(search_figures.pareto(run, run.study))
    symbols = [trace["marker"]["symbol"] for name, trace in drawn.items() if name != "front"]

    assert len(symbols) == len(set(symbols)) >= 8
    models = marks(["suspect", "super_fine_tuning", "fine_tuning", "candidate", "never_poisoned"]).values()
    assert len({m.symbol for m in models}) == len({m.dash for m in models}) == 5


def test_every_measured_trial_is_drawn_once(run: ReportInput) -> None:
    assert run.study is not None
    numbers = [n for n in range(33) if n != 23]  # 23 failed: it has no figures
    drawn = traces(search_figures.pareto(run, run.study))
    kinds = ("over a limit", "stopped early", "collapsed", "within both", "on the front")
    texts = [t for name, trace in drawn.items() if name.startswith(kinds) for t in trace["text"]]

    assert sorted(int(t.split("</b>")[0].rsplit(" ", 1)[1]) for t in texts) == numbers


def test_the_chosen_point_is_ringed_and_its_fresh_seeds_are_shown(run: ReportInput) -> None:
    assert run.study is not None
    drawn = traces(search_figures.pareto(run, run.study))

    chosen = next(r for r in run.study["records"] if r["number"] == 19)
    assert drawn["chosen: trial 19"]["x"] == [100 * chosen["clean_accuracy"]["rate"]]
    assert len(drawn["chosen, fresh seeds (3)"]["x"]) == 3
    assert "lr_max1 = 0.62" in drawn["chosen: trial 19"]["text"][0]


def test_published_settings_are_framed_or_marked_as_measured_on_test(run: ReportInput, without: Any) -> None:
    assert run.study is not None

    assert published(run) == {
        "published: super-fine-tuning, paper's values": [0]
    }  # also listed under `first:`, named once
    drawn = traces(search_figures.pareto(run, run.study))
    assert "published: super-fine-tuning, paper's values" in drawn
    assert "conventional fine-tuning (test split)" in drawn
    # Without an assessment nobody says that the setting is published.
    assert published(without(run, "assessment")) == {"first: 1 of the space": [0]}


def test_a_setting_is_published_only_if_its_fixed_fields_are_too(run: ReportInput) -> None:
    plain_sgd = {**run.space, "fixed": {**run.space["fixed"], "momentum": 0.0}}
    assert published(replace(run, space=plain_sgd)) == {"first: 1 of the space": [0]}
    # What the space does not name is the defense's default: here batches of 128, which the reference has too.
    fewer = {k: v for k, v in run.space["fixed"].items() if k != "batch_size"}
    known = {"published: super-fine-tuning, paper's values": [0]}
    assert published(replace(run, space={**run.space, "fixed": fewer})) == known
    assert run.assessment is not None
    paper = run.assessment["references"]["super_fine_tuning"]
    paper = {**paper, "setting": {**paper["setting"], "batch_size": 64}}
    other = {**run.assessment, "references": {"super_fine_tuning": paper}}
    assert published(replace(run, space={**run.space, "fixed": fewer}, assessment=other)) == {
        "first: 1 of the space": [0]
    }


OWN = {"max_attack_success_rate": 0.05, "max_accuracy_drop": 0.02}


def drawn_corners(run: ReportInput) -> tuple[list[float], list[str]]:
    """The left edges of the corners in the search's figure, and its labels."""
    assert run.study is not None
    layout = search_figures.pareto(run, run.study)["layout"]
    return [s["x0"] for s in layout["shapes"] if s["type"] == "rect"], [n["text"] for n in layout["annotations"]]


def test_the_limits_that_steered_the_search_are_drawn_where_they_are_not_the_gates(run: ReportInput) -> None:
    edges, labels = drawn_corners(replace(run, limits=OWN))
    assert edges == pytest.approx([94.9, 95.9])
    assert "search's limits" in labels
    edges, labels = drawn_corners(replace(run, limits={**OWN, "max_accuracy_drop": 0.03}))
    assert edges == pytest.approx([94.9])
    assert "search's limits" not in labels
    assert len(drawn_corners(run)[0]) == 1, "a run of an earlier version does not say"


def test_the_gate_corner_is_the_suspect_minus_the_drop(run: ReportInput) -> None:
    assert run.study is not None

    corner = search_figures.corner_of(run.gate, run.study["reference"])
    assert corner == pytest.approx((94.9, 5.0))
    assert search_figures.corner_of({}, run.study["reference"]) is None


def test_the_first_view_is_not_squeezed_by_a_collapsed_trial(run: ReportInput) -> None:
    assert run.study is not None
    views = search_figures.pareto(run, run.study)["views"]

    assert views["trials"]["xaxis.range"][0] > 90
    assert views["all"]["xaxis.range"][0] < 10


@pytest.mark.parametrize(("low", "high", "ticks"), [(1e-4, 1e-2, 3), (2, 40, 4), (0.03, 0.06, 1)])
def test_a_log_axis_is_labelled_inside_its_range(run: ReportInput, low: float, high: float, ticks: int) -> None:
    assert run.study is not None
    space = {**run.space, "search": {"lr_max1": {"type": "float", "low": low, "high": high, "log": True}}}
    axis = search_figures.effect(replace(run, space=space), run.study, "lr_max1")["layout"]["xaxis"]

    assert len(axis["tickvals"]) == ticks
    assert all(low <= tick <= high for tick in axis["tickvals"])


def test_the_schedules_are_drawn_step_by_step(run: ReportInput) -> None:
    assert run.schedule is not None
    drawn = traces(search_figures.schedules(run, run.schedule))

    assert list(drawn) == ["chosen setting", "super-fine-tuning, paper's values", "conventional fine-tuning"]
    assert drawn["chosen setting"]["x"] == list(range(224))
    assert max(drawn["chosen setting"]["y"]) == 0.62


def test_a_setting_without_a_schedule_is_left_out_of_the_comparison(run: ReportInput) -> None:
    assert run.schedule is not None
    drawn = traces(search_figures.schedules(replace(run, reference_schedules={"fine_tuning": []}), run.schedule))

    assert list(drawn) == ["chosen setting"]


def test_the_control_stands_apart_from_the_curve(run: ReportInput) -> None:
    assert run.assessment is not None
    figure = reinjection(run.assessment["sequela"]["reinjection"])
    curve = traces(figure)["candidate"]

    assert curve["y"][1] is None  # the line breaks after k = 0
    assert len(curve["x"]) == len(curve["error_y"]["array"]) == 6
    assert figure["layout"]["xaxis"]["ticktext"] == ["0 (control)", "1", "5", "20", "100"]
    assert figure["layout"]["xaxis"]["tickvals"][4] == math.log10(100)


def test_a_re_injection_that_diverged_leaves_a_gap(run: ReportInput) -> None:
    assert run.assessment is not None
    study = run.assessment["sequela"]["reinjection"]
    cut = {**study, "curves": {"candidate": [*study["curves"]["candidate"][:4], None]}}

    assert len(traces(reinjection(cut))["candidate"]["x"]) == 5


def test_classes_keep_their_order_and_small_ones_are_pooled(run: ReportInput) -> None:
    assert run.assessment is not None
    figure = classes(run.assessment["suspect"], run.assessment["selected"])

    names = traces(figure)["suspect (before)"]["y"]
    assert names[:2] == ["class 0", "class 1"]
    assert names[-1] == "pooled"


def test_a_trial_has_exactly_one_kind(run: ReportInput) -> None:
    assert run.study is not None

    assert {kind_of(r, run.study["front"]) for r in run.study["records"]} == set(KINDS)


def test_a_model_looks_the_same_in_every_figure_and_stands_in_the_same_place() -> None:
    assert (
        marks(["suspect", "fine_tuning"])["fine_tuning"] == marks(["super_fine_tuning", "fine_tuning"])["fine_tuning"]
    )
    names = ["never_poisoned", "candidate", "fine_tuning", "suspect"]
    assert list(in_reading_order(dict.fromkeys(names))) == ["suspect", "fine_tuning", "candidate", "never_poisoned"]
