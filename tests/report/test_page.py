"""The page: it loads nothing, shows every stage and says why one is missing."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects
import pytest
from plotly.offline import get_plotlyjs

from raybd.report import ReportInput, write
from raybd.report.page import context

ALL = ("study", "selection", "assessment", "promotion", "schedule", "examples")
Page = Callable[[ReportInput], str]


def figures(page: str) -> Iterator[dict[str, Any]]:
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, flags=re.DOTALL):
        yield json.loads(text)


def ours(page: str) -> str:
    """The page without the library it carries."""
    return page.replace(get_plotlyjs(), "")


@pytest.mark.parametrize("left_out", [(), ALL], ids=["whole", "suspect only"])
def test_the_page_loads_nothing_from_anywhere(run: ReportInput, page: Page, without: Any, left_out: Any) -> None:
    text = ours(page(without(run, *left_out)))

    assert not re.search(r'(?:src|srcset|action|data)\s*=\s*["\']?\s*(?:https?:)?//', text)
    assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//|<link\b|<iframe\b|<base\b", text)
    assert "fetch(" not in text
    assert "XMLHttpRequest" not in text
    # What the page may not do even if a library tried: the browser refuses every request.
    assert "default-src 'none'" in text
    # Addresses stand in links that a reader may follow, nowhere else.
    assert len(re.findall(r"https?://", text)) == len(re.findall(r'<a href="https://', text))


def test_the_page_says_which_samplers_took_over(run: ReportInput, page: Page) -> None:
    assert run.study is not None
    study = {**run.study, "sampler": "gp", "successors": {"tpe": 40, "nsga2": 9000}}

    assert "gp, seed 0; tpe after 40 settings; nsga2 after 9,000 settings" in page(replace(run, study=study))
    assert "settings" not in dict(context(run)["search"]["facts"])["sampler"]


def test_plotly_is_inlined_once(run: ReportInput, page: Page) -> None:
    text = page(run)

    assert text.count(get_plotlyjs()) == 1
    assert "<script src" not in text


def test_every_figure_is_one_that_plotly_knows(run: ReportInput, page: Page) -> None:
    drawn = list(figures(page(run)))

    assert len(drawn) == 1 + 1 + 6 + 1 + 2 + 1  # front, schedule, parameters, classes, membership, re-injection
    for figure in drawn:
        plotly.graph_objects.Figure(data=figure["data"], layout=figure["layout"])  # raises on unknown keys
        for view in figure["views"].values():
            plotly.graph_objects.Figure().update_layout({k.replace(".", "_"): v for k, v in view.items()})


def test_every_figure_has_its_place_and_a_text_for_those_who_cannot_see_it(run: ReportInput, page: Page) -> None:
    text = page(run)
    places = re.findall(r'<div class="chart" id="([^"]+)" role="img" aria-label="([^"]+)"', text)

    assert [name for name, _ in places] == re.findall(r'data-chart="([^"]+)"', text)
    assert all(len(label) > 20 for _, label in places)
    ids = re.findall(r'\bid="([^"]+)"', ours(text))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("left_out", "word", "says"),
    [
        (ALL, "Not searched", "“raybd search STUDY.yaml” makes it"),
        (("selection", "assessment", "promotion", "schedule"), "No candidate", "“raybd select STUDY.yaml” makes it"),
        (("assessment", "promotion"), "Not assessed", "“raybd assess STUDY.yaml” makes it"),
        (("promotion",), "Not promoted yet", "“raybd promote STUDY.yaml” makes it"),
        (("examples",), "Promoted", "No example images were kept"),
    ],
)
def test_a_missing_stage_is_named_with_the_reason(
    run: ReportInput, page: Page, without: Any, left_out: Any, word: str, says: str
) -> None:
    text = page(without(run, *left_out))

    assert word in text
    assert says in text


def test_the_reason_the_caller_gives_comes_first(run: ReportInput, page: Page, without: Any) -> None:
    bare = without(run, "selection", "assessment", "promotion", "schedule")
    text = page(replace(bare, missing={"select": "nearest: trial 4, ASR 7.1 % <over 5 %>"}))

    assert "nearest: trial 4, ASR 7.1 % &lt;over 5 %&gt;" in text


def test_a_search_in_which_nothing_was_feasible_says_so(run: ReportInput, page: Page, without: Any) -> None:
    assert run.study is not None
    records = [{**r, "feasible": False} for r in run.study["records"]]
    bare = without(run, "selection", "assessment", "promotion", "schedule")
    text = page(replace(bare, study={**run.study, "records": records}))

    assert "None of the 32 trials met both limits" in text
    assert "on the front, over a limit" in text


def test_text_from_outside_is_never_markup(run: ReportInput, page: Page) -> None:
    hostile = "</script><script>alert(1)</script>"
    assert run.study is not None
    assert run.selection is not None
    records = [{**r, "reason": hostile, "error": hostile} for r in run.study["records"]]
    text = page(
        replace(
            run,
            name=hostile,
            suspect_card={**run.suspect_card, "warnings": [hostile]},
            study={**run.study, "records": records},
            selection={**run.selection, "why": hostile},
            provenance={**run.provenance, "commands": [hostile], "study": {"name": hostile}},
        )
    )

    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    # plotly reads a little markup in hover labels: there it is escaped twice over.
    assert any("&lt;/script&gt;" in json.dumps(figure) for figure in figures(text))


@pytest.mark.parametrize(("precision", "told"), [("fp32", "fp32"), ("bf16", "fp32 in the assessment")])
def test_the_page_says_how_the_figures_were_computed_not_what_was_asked_for(
    run: ReportInput, precision: str, told: str
) -> None:
    compute = {"device": "cuda", "precision": precision, "channels_last": True, "threads": 3}
    asked = {**run.provenance, "compute": {"precision": "auto", "threads_per_trial": 1}}
    lines = dict(
        context(replace(run, suspect_card={**run.suspect_card, "compute": compute}, provenance=asked))["provenance"]
    )

    assert (lines["compute: device"], lines["compute: threads"]) == ("cuda", "3")
    assert told in lines["compute: precision"]
    assert precision in lines["compute: precision"]
    assert "auto" not in lines.values()


def test_a_run_that_is_written_twice_gives_the_same_bytes(run: ReportInput, tmp_path: Path) -> None:
    first = write(run, tmp_path).read_bytes()

    assert write(run, tmp_path).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "summary.json"]


def test_both_membership_readings_stand_apart_and_a_missing_one_says_why(run: ReportInput, page: Page) -> None:
    assert run.assessment is not None
    sequela = run.assessment["sequela"]
    membership = {**sequela["membership"], "suspect_members": None}
    cut = {**run.assessment, "sequela": {**sequela, "membership": membership}}
    text = page(replace(run, assessment=cut))

    assert "which images the suspect was trained on is not known" in text
    assert 'id="figure-membership-trained_on"' in text
    assert 'id="figure-membership-suspect_members"' not in text
    assert "too few" in text  # 900 non-members cannot carry a rate at 1 %


def test_the_page_shows_what_the_issue_asks_for(run: ReportInput, page: Page) -> None:
    text = page(run)

    for expected in (
        "an oracle",
        "super-fine-tuning, paper&#39;s values",
        "conventional fine-tuning",
        "never-poisoned twin",
        "97.9",
        "image-steps",
        "±",
        "attack success rate, %",
        "✓ passed",
        "All 33 trials as a table",
        "raybd run gtsrb-badnets.yaml",
        "data:image/png;base64,",
    ):
        assert expected in text, expected


def test_epochs_that_were_rounded_up_are_shown_as_asked_and_as_run(run: ReportInput, page: Page) -> None:
    """On 150 images the paper's 6 epochs are 20, and so are the chosen 14."""
    few = {**run.suspect_card["splits"], "clean_set": {"images": 150, "digest": "11aa" * 16}}
    rounded = replace(run, suspect_card={**run.suspect_card, "splits": few})
    found = context(rounded)

    assert dict(found["chosen"]["setting"])["epochs"] == "14 (20 run)"
    assert "epochs 6 (20 run)" in dict(found["comparison"]["settings"])["super-fine-tuning, paper's values"]
    assert found["search"]["trials"][0]["values"][found["search"]["parameters"].index("epochs")] == "6 (20 run)"
    assert page(rounded).count("in brackets what was run") == 2


def test_epochs_that_were_run_as_asked_are_shown_bare(run: ReportInput, page: Page) -> None:
    """On 2,560 images every epoch is a whole cycle; a quarter of them makes five steps an epoch."""
    many = {**run.suspect_card["splits"], "clean_set": {"images": 2560, "digest": "11aa" * 16}}
    found = context(replace(run, suspect_card={**run.suspect_card, "splits": many}))

    assert dict(found["chosen"]["setting"])["epochs"] == "14"
    assert not found["chosen"]["rounded"]


@pytest.mark.parametrize(
    ("scenario", "how", "said"),
    [
        ("standalone", "inject", "the suspect was trained on it"),
        ("standalone", "adopt", "the suspect may have been trained on it"),
        ("transfer", "inject", "the suspect was trained on another task's"),
        ("encoder", "adopt", "not used; the suspect was trained on another task's"),
    ],
)
def test_the_rest_of_the_images_is_called_the_suspects_only_where_it_saw_them(
    run: ReportInput, scenario: str, how: str, said: str
) -> None:
    card = {**run.suspect_card, "how": how, "facts": {**run.suspect_card["facts"], "scenario": scenario}}
    rest = {"train": {"images": 700, "digest": "55aa" * 16}}
    found = context(replace(run, suspect_card={**card, "splits": {**card["splits"], **rest}}))

    (use,) = (split["use"] for split in found["splits"] if split["name"] == "train")
    assert said in use


def pooled(run: ReportInput) -> ReportInput:
    """The run as it would be with few test images: no class stands alone."""
    assert run.assessment is not None
    rows = {key: run.assessment[key] for key in ("suspect", "selected")}
    pool = {key: {**row, "per_class": row["per_class"][-1:]} for key, row in rows.items()}
    return replace(run, assessment={**run.assessment, **pool})


def test_classes_that_are_all_pooled_are_said_to_be_and_not_drawn(run: ReportInput, page: Page) -> None:
    text = page(pooled(run))

    assert 'id="figure-classes"' not in text
    assert "no class has 50 test images, so all were judged as one" in text
    (check,) = (c for c in context(pooled(run))["checks"] if "one class" in c["name"])
    assert (check["status"], check["told"]) == ("passed", True)
    assert not any(c["told"] for c in context(run)["checks"])


def test_seeds_that_gave_the_same_are_said_to_be_alike_wherever_their_spread_is_shown(
    run: ReportInput, page: Page
) -> None:
    assert run.assessment is not None
    assert run.selection is not None
    selected = run.assessment["selected"]
    same = {**selected, "spread": {name: {**s, "sd": 0.0} for name, s in selected["spread"].items()}}
    first, *others = run.selection["confirmed"]
    once = {key: first[key][:1] * 3 for key in ("clean_accuracy", "attack_success_rate")}
    alike = replace(
        run,
        assessment={**run.assessment, "selected": same},
        selection={**run.selection, "confirmed": [{**first, **once}, *others]},
    )
    text = page(alike)

    assert text.count("seeds alike</span>") == 1
    assert text.count("(seeds alike)") == 1
    assert "but their order. The test split" in text
    assert text.count("says nothing of the spread") == 2
    assert "seeds alike" not in page(run)


def test_the_page_names_the_limits_that_steered_the_search(run: ReportInput, page: Page) -> None:
    own = {"max_attack_success_rate": 0.05, "max_accuracy_drop": 0.02}

    assert "C-Acc at least 95.9 %) is the search's own limits" in page(replace(run, limits=own))
    assert "own limits" not in page(run)
