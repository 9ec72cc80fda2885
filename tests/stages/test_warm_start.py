"""Claims about a warm start: which settings of earlier searches come first, and that none is bent to fit."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from raybd import pipeline
from raybd.artifacts import Study
from raybd.evaluation.metrics import Rate
from raybd.gate import Gate
from raybd.registry import BadInput, as_json
from raybd.search.records import TrialRecord, front_of
from raybd.search.space import IntRange, Space
from raybd.stages.warm_start import PER_RUN, check_warm, warm_settings
from tests.search.fakes import SPACE, drive, measured, open_decider
from tests.studies import card, study

GATE = Gate(
    max_attack_success_rate=0.05, max_accuracy_drop=0.03, max_class_accuracy_drop=0.25, max_membership_auc_rise=None
)


def earlier(folder: Path, figures: list[tuple[float, float]], space: Space = SPACE, **changes: Any) -> Path:
    """A run folder whose search tried one setting for each (ASR, C-Acc); `lr_max2` tells them apart."""
    records = [
        TrialRecord.of(
            i,
            {**space.first[0], "lr_max2": 0.01 * (i + 1), **changes},
            i,
            measured(asr, accuracy),
            feasible=asr <= 0.05 and accuracy >= 0.95,
        )
        for i, (asr, accuracy) in enumerate(figures)
    ]
    Study(
        records=tuple(as_json(record) for record in records),
        front=front_of(records),
        space=as_json(space.describe()),
        sampler="tpe",
        seed=0,
        trials=len(records),
        suspect_digest="other",
        seconds=1.0,
        workers=1,
        reference=Rate.of(490, 500),
    ).save(folder / "search")
    return folder


def peaks(settings: tuple[dict[str, Any], ...]) -> list[float]:
    return [setting["lr_max2"] for setting in settings]


def test_the_front_comes_nearest_to_the_gate_first_and_at_most_so_many(tmp_path: Path) -> None:
    run = earlier(tmp_path, [(0.04, 0.98), (0.01, 0.975), (0.5, 0.985), (0.0, 0.952)])
    assert peaks(warm_settings([run], SPACE, GATE)) == pytest.approx([0.02, 0.01, 0.04])
    many = earlier(tmp_path / "many", [(0.05 - 0.005 * i, 0.98 - 0.002 * i) for i in range(8)])
    assert len(warm_settings([many], SPACE, GATE)) == PER_RUN


def test_several_runs_are_joined_and_nothing_comes_twice(tmp_path: Path) -> None:
    one = earlier(tmp_path / "one", [(0.01, 0.97)])
    two = earlier(tmp_path / "two", [(0.02, 0.97)])
    three = earlier(tmp_path / "three", [(0.02, 0.96)], epochs=3)
    assert len(warm_settings([one, two, three], SPACE, GATE)) == 2


def test_a_setting_outside_the_space_is_left_out_and_one_fixed_then_is_completed(tmp_path: Path) -> None:
    run = earlier(tmp_path, [(0.01, 0.97), (0.0, 0.96)])
    narrow = dataclasses.replace(
        SPACE, search={**SPACE.search, "lr_max2": dataclasses.replace(SPACE.search["lr_max2"], low=0.015)}
    )
    assert peaks(warm_settings([run], narrow, GATE)) == pytest.approx([0.02])
    wider = dataclasses.replace(
        SPACE,
        fixed={k: v for k, v in SPACE.fixed.items() if k != "batch_size"},
        search={**SPACE.search, "batch_size": IntRange(low=8, high=64)},
        first=(),
    )
    assert [s["batch_size"] for s in warm_settings([run], wider, GATE)] == [16, 16]


def test_a_folder_without_a_search_and_a_front_that_fits_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no search"):
        warm_settings([tmp_path], SPACE, GATE)
    run = earlier(tmp_path, [(0.01, 0.97)])
    elsewhere = dataclasses.replace(
        SPACE, search={**SPACE.search, "lr_max2": dataclasses.replace(SPACE.search["lr_max2"], low=0.4)}, first=()
    )
    with pytest.raises(BadInput, match="lies inside"):
        warm_settings([run], elsewhere, GATE)
    with pytest.raises(BadInput, match="searched super_fine_tuning, this study fine_tuning"):
        warm_settings([run], dataclasses.replace(SPACE, defense="fine_tuning"), GATE)


def test_warm_settings_follow_the_spaces_own_and_survive_a_resume(tmp_path: Path) -> None:
    warm = [{**SPACE.first[0], "lr_max1": rate} for rate in (0.2, 0.3)]
    with open_decider(tmp_path, trials=4, warm=warm) as decider:
        tried = [p.setting["lr_max1"] for p in drive(decider, stop_after=2)]
    with open_decider(tmp_path, trials=4) as decider:
        assert decider.warm == tuple(warm)
        tried += [p.setting["lr_max1"] for p in drive(decider)]
    assert tried[:3] == [0.1, 0.2, 0.3]
    with pytest.raises(BadInput, match="another warm start"):
        open_decider(tmp_path, trials=4, warm=warm[:1])


def test_a_search_tries_what_another_search_found_and_says_so_on_its_card(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = study(tmp_path, search={"trials": 2}, training={"epochs": 5})
    second = study(tmp_path, name="second", search={"trials": 2}, training={"epochs": 5}, data={"seed": 1})
    for settings in (first, second):
        pipeline.inject(settings, runs=runs)
    pipeline.search(first, runs=runs)
    front = [r["setting"] for r in card(runs, "search")["records"] if r["number"] in card(runs, "search")["front"]]
    other = [setting for setting in front if setting != card(runs, "search")["space"]["first"][0]]
    assert other, "a front of the first setting alone would show nothing"
    pipeline.search(second, runs=runs, warm_start=[runs / "tiny"])
    found = card(runs, "search", "second")
    assert found["records"][1]["setting"] == other[0]
    assert found["warm_start"] == json.loads(json.dumps(other))
    done = runs / "second" / "search"
    check_warm(done, second, [runs / "tiny"])
    with pytest.raises(BadInput, match="begun without this"):
        check_warm(done, second, [])
    with pytest.raises(BadInput, match="holds no search"):
        pipeline.run(second, runs=runs, warm_start=[tmp_path])
