"""Every method that was used is credited, and no other."""

from dataclasses import replace

import pytest

from raybd.attacks import ATTACKS
from raybd.defenses import DEFENSES
from raybd.registry import BadInput
from raybd.report import ReportInput
from raybd.report.references import BIBLIOGRAPHY, used
from raybd.triggers import TRIGGERS


@pytest.mark.parametrize("table", [ATTACKS, DEFENSES, TRIGGERS], ids=["attacks", "defenses", "triggers"])
def test_every_component_that_cites_somebody_is_in_the_bibliography(table: dict[str, type]) -> None:
    assert {cls.citation for cls in table.values()} - {""} <= BIBLIOGRAPHY.keys()


def test_only_methods_that_were_used_are_listed(run: ReportInput, without: object) -> None:
    bare = replace(run, study=None, selection=None, assessment=None, promotion=None, references=())

    assert [r.method for r in used(bare)] == ["BadNets attack"]  # the trigger is its patch
    links = [r.link for r in used(run)]
    for number in ("1708.06733", "2212.09067", "1708.07120", "1709.01604", "2410.09838", "1907.10902", "1807.05118"):
        assert f"https://arxiv.org/abs/{number}" in links
    assert "https://arxiv.org/abs/1712.05526" not in links  # nothing was blended
    assert len(links) == len(set(links))


def test_a_search_by_another_sampler_does_not_credit_tpe(run: ReportInput) -> None:
    assert run.study is not None
    methods = {r.method for r in used(replace(run, study={**run.study, "sampler": "random"}))}

    assert not any("TPE" in method for method in methods)


def test_a_sampler_that_took_over_is_credited_beside_the_first(run: ReportInput) -> None:
    assert run.study is not None
    study = {**run.study, "sampler": "gp", "successors": {"tpe": 40, "nsga2": 900}}
    methods = {r.method for r in used(replace(run, study=study))}

    assert {name for name in ("TPE", "NSGA-II") if any(name in method for method in methods)} == {"TPE", "NSGA-II"}


def test_an_unknown_method_is_refused_with_the_nearest(run: ReportInput) -> None:
    with pytest.raises(BadInput, match="unknown method 'tunes'; did you mean 'tune'"):
        used(replace(run, references=("tunes",)))
