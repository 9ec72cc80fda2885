"""Claims about search spaces: what the YAML means, and that every fault in it is found before a trial runs."""

import copy
from pathlib import Path

import pytest
import yaml

from raybd.defenses import PRESETS, SuperFineTuning
from raybd.registry import BadInput
from raybd.search.space import Choice, FloatRange, IntRange, Space

TEXT = """
defense: super_fine_tuning
fixed: {momentum: 0.9, batch_size: 64}
search:
  lr_base: {type: float, low: 1e-4, high: 1.0e-2, log: true}
  lr_max1: {type: float, low: 1.0e-2, high: 1.5, log: true}
  lr_max2: {type: float, low: 1.0e-3, high: 0.5, log: true}
  epochs: {type: int, low: 2, high: 40, log: true}
  phase1_share: {type: float, low: 0.15, high: 0.6}
  clean_fraction: {type: categorical, choices: [0.25, 0.5, 1]}
first:
  - {lr_base: 3e-4, lr_max1: 0.1, lr_max2: 1.0e-3, epochs: 6, phase1_share: 0.5, clean_fraction: 1.0}
"""


@pytest.fixture
def mapping():
    return copy.deepcopy(yaml.safe_load(TEXT))


def refused(mapping, *words):
    with pytest.raises(BadInput) as error:
        Space.parse(mapping, where="my.yaml")
    for word in ("my.yaml", *words):
        assert word in str(error.value)


def test_a_space_means_what_the_yaml_says(mapping):
    space = Space.parse(mapping, where="my.yaml")
    assert space.search["lr_base"] == FloatRange(low=1e-4, high=1e-2, log=True)
    assert space.search["epochs"] == IntRange(low=2, high=40, log=True)
    assert space.search["clean_fraction"] == Choice(choices=(0.25, 0.5, 1.0))
    assert space.fixed == {"momentum": 0.9, "batch_size": 64}
    assert space.first[0]["lr_base"] == 3e-4, "1e-4 without a dot is text in YAML, and still a number here"


def test_a_setting_becomes_the_defense_with_the_fixed_fields(mapping):
    space = Space.parse(mapping, where="my.yaml")
    defense = space.build(space.first[0])
    assert isinstance(defense, SuperFineTuning)
    assert (defense.batch_size, defense.lr_max1, defense.epochs) == (64, 0.1, 6)


def test_describe_is_what_parse_takes_and_the_digest_follows_every_value(mapping):
    space = Space.parse(mapping, where="my.yaml")
    assert Space.parse(space.describe(), where="again") == space
    mapping["search"]["lr_max1"]["high"] = 1.4
    assert Space.parse(mapping, where="my.yaml").digest() != space.digest()


def test_membership_and_check_agree(mapping):
    space = Space.parse(mapping, where="my.yaml")
    good = space.first[0]
    assert good in space
    for change in ({"lr_max1": 2.0}, {"epochs": 2.5}, {"clean_fraction": 0.3}, {"epochs": True}):
        assert {**good, **change} not in space
        with pytest.raises(BadInput, match=next(iter(change))):
            space.check({**good, **change})
    assert {k: v for k, v in good.items() if k != "epochs"} not in space


def test_unknown_keys_name_the_nearest(mapping):
    refused({**mapping, "serach": {}}, "'serach'", "did you mean 'search'")
    mapping["search"]["lr_max"] = mapping["search"].pop("lr_max1")
    refused(mapping, "'lr_max'", "did you mean 'lr_max")


def test_unknown_defense_names_the_nearest(mapping):
    refused({**mapping, "defense": "super_finetuning"}, "did you mean 'super_fine_tuning'")


def test_a_field_neither_fixed_nor_searched_and_without_default_is_refused(mapping):
    del mapping["search"]["lr_max2"]
    for setting in mapping["first"]:
        del setting["lr_max2"]
    refused(mapping, "lr_max2")


def test_a_field_both_fixed_and_searched_is_refused(mapping):
    mapping["fixed"]["epochs"] = 5
    refused(mapping, "'epochs' is both fixed and searched")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 2.0}, ["lr_max1", "low", "high"]),
        ({"low": 0.0}, ["lr_max1", "log", "0"]),
        ({"low": "much"}, ["lr_max1.low", "number", "'much'"]),
        ({"type": "real"}, ["lr_max1.type", "real"]),
        ({"hihg": 3}, ["lr_max1", "'hihg'", "did you mean 'high'"]),
        ({"log": "yes please"}, ["lr_max1.log"]),
    ],
)
def test_a_bad_dimension_is_refused_by_name(mapping, change, words):
    mapping["search"]["lr_max1"].update(change)
    refused(mapping, *words)


def test_a_float_range_for_a_whole_number_is_refused(mapping):
    mapping["search"]["epochs"]["type"] = "float"
    refused(mapping, "epochs", "whole numbers")


@pytest.mark.parametrize("choices", [[0.5, "5e-1"], [], [0.5, "some"], "0.5"])
def test_choices_must_be_different_numbers(mapping, choices):
    mapping["search"]["clean_fraction"]["choices"] = choices
    refused(mapping, "clean_fraction")


def test_a_range_that_the_defense_would_refuse_is_found_before_the_first_trial(mapping):
    mapping["search"]["phase1_share"]["high"] = 1.2
    refused(mapping, "phase1_share", "1.2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr_max1": 3.0}, ["first[0]", "lr_max1", "3.0", "[0.01, 1.5]"]),
        ({"clean_fraction": 0.3}, ["first[0]", "clean_fraction", "0.3", "0.25, 0.5, 1.0"]),
        ({"lr_mx1": 0.1}, ["first[0]", "'lr_mx1'", "did you mean 'lr_max1'"]),
        ({"momentum": 0.9}, ["first[0]", "'momentum' is not searched"]),
        ({"epochs": 6.5}, ["first[0]", "epochs", "6.5"]),
    ],
)
def test_a_first_setting_outside_the_space_is_refused(mapping, change, words):
    mapping["first"][0].update(change)
    refused(mapping, *words)


def test_an_incomplete_first_setting_is_refused(mapping):
    del mapping["first"][0]["epochs"]
    refused(mapping, "first[0]", "'epochs'")


def test_sections_of_the_wrong_kind_are_refused(mapping):
    refused({**mapping, "search": ["lr_max1"]}, "search")
    refused({**mapping, "fixed": 3}, "fixed")
    refused({**mapping, "first": {"lr_max1": 1}}, "first")
    refused({**mapping, "search": {}}, "at least one dimension")
    refused("standalone", "expected a mapping")


def test_a_space_is_found_by_name_and_by_a_path_from_the_studys_folder(tmp_path):
    (tmp_path / "mine.yaml").write_text(TEXT)
    assert Space.load("mine.yaml", tmp_path).fixed["batch_size"] == 64
    assert Space.load("standalone", tmp_path).defense == "super_fine_tuning"
    with pytest.raises(BadInput, match="did you mean 'standalone'"):
        Space.load("standalne", tmp_path)
    with pytest.raises(BadInput, match=r"none\.yaml"):
        Space.load("none.yaml", tmp_path)


def test_a_file_that_is_no_yaml_is_refused_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("search: [")
    with pytest.raises(BadInput, match=r"mine\.yaml"):
        Space.load("mine.yaml", tmp_path)


def test_the_shipped_space_begins_with_the_papers_settings():
    space = Space.load("standalone", Path())
    assert space.build(space.first[0]) == PRESETS["super_fine_tuning"]["paper"]


def test_the_demos_space_holds_the_region_that_works_on_digits():
    space = Space.load("demo", Path())
    assert space.fixed["batch_size"] == 32
    for peak in (0.05, 0.2, 0.4, 0.8):
        assert peak in space.search["lr_max1"]
    assert 20 in space.search["epochs"]
    assert 60 in space.search["epochs"]
