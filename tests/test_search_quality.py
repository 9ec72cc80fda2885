"""What the measurement of search quality rests on: surrogates behave like trials, searches are counted right."""

import functools
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from raybd.evaluation.metrics import Rate
from raybd.registry import BadInput
from raybd.search.records import Reading, Stopping
from raybd.search.rungs import SHARES
from raybd.search.space import Space
from raybd.search.trial import drain
from tests.benchmarks import quality_arms, search_quality
from tests.benchmarks.quality_arms import Bench
from tests.benchmarks.record_trials import COLUMNS, SUSPECTS, TABLES, settings_over
from tests.benchmarks.surrogate import TARGETS, Surrogate, Table, drop, errors, looks, stays
from tests.search.fakes import measured as outcome_of

SPACE = Space.parse(
    {
        "defense": "super_fine_tuning",
        "fixed": {"lr_base": 1e-3, "epochs": 20, "batch_size": 10, "ramp_up_steps": 5, "ramp_down_steps": 5},
        "search": {
            "lr_max1": {"type": "float", "low": 0.01, "high": 1.0, "log": True},
            "lr_max2": {"type": "float", "low": 1e-3, "high": 0.1, "log": True},
            "phase1_share": {"type": "float", "low": 0.2, "high": 0.6},
        },
        "first": [{"lr_max1": 0.02, "lr_max2": 0.01, "phase1_share": 0.5}],
    },
    where="space",
)
CLEAN, N = 100, 400
LIMITS = {"max_attack_success_rate": 0.05, "max_accuracy_drop": 0.02}
GATE = {**LIMITS, "max_class_accuracy_drop": 0.5, "max_membership_auc_rise": None}
REFERENCE = 0.98
TRIALS = 12


def row(setting: dict[str, Any], shift: float, luck: float) -> list[Any]:
    """A high first peak removes the backdoor and costs accuracy; `shift` moves where, in powers of ten."""
    peak = math.log10(setting["lr_max1"]) + shift
    success = 1 / (1 + math.exp(8 * (peak + 1.2) + luck))
    accuracy = REFERENCE - 0.1 / (1 + math.exp(-6 * (peak + 0.3)))
    phase1, total = SPACE.build(setting).phases(CLEAN)  # type: ignore[attr-defined]
    images = [step * 10 for step in (total, total // 4, total // 2, phase1)]
    at_rungs = [value for cost in images[1:3] for value in (accuracy, success, REFERENCE - accuracy, cost)]
    return [*setting.values(), accuracy, success, 0, images[0], 0.0, *at_rungs, success, images[3], int(success > 0.55)]


@functools.cache
def surrogate(suspect: str = "a", shift: float = 0.0) -> Surrogate:
    rows = [row(setting, shift, luck=i % 3 / 5) for i, setting in enumerate(settings_over(SPACE, 40))]
    repeats = [row(setting, shift, luck=(i + 1) % 3 / 5) for i, setting in enumerate(settings_over(SPACE, 16))]
    table = {
        "suspect": suspect,
        "space": SPACE.describe(),
        "limits": LIMITS,
        "gate": GATE,
        "reference_clean_accuracy": REFERENCE,
        "clean_set": CLEAN,
        "selection": N,
        "attackable": N,
        "columns": [*SPACE.search, *COLUMNS],
        "trials": rows,
        "repeats": repeats,
    }
    return Surrogate(table=Table.parse(table))


def setting(peak: float, *, lr_max2: float = 0.01) -> dict[str, Any]:
    return {"lr_max1": peak, "lr_max2": lr_max2, "phase1_share": 0.4}


def bench(work: Path, trials: int = TRIALS) -> Bench:
    suspects = {"a": surrogate(), "b": surrogate("b", 0.3), "c": surrogate("c", -0.3)}
    return Bench(surrogates=suspects, trials=trials, work=work)


def test_a_surrogate_knows_which_settings_remove_the_backdoor_and_which_cost_accuracy() -> None:
    low, middle, high = surrogate().expected([setting(0.012), setting(0.25), setting(0.9)])
    assert low[0] > 0.8
    assert high[0] <= middle[0] < 0.1
    assert low[1] < 0.01 < high[1]


def test_the_same_setting_and_seed_give_the_same_trial_and_another_seed_another() -> None:
    one = drain(surrogate().attempt(setting(0.06), 1))
    assert drain(surrogate().attempt(setting(0.06), 1)) == one
    others = {drain(surrogate().attempt(setting(0.06), seed)).objectives["attack_success_rate"] for seed in range(9)}
    assert len(others) > 1


def test_a_whole_trial_is_measured_on_whole_images_and_costs_what_the_defense_trains_on() -> None:
    whole = drain(surrogate().attempt(setting(0.06), 0))
    assert whole.state == "complete"
    assert whole.images == SPACE.build(setting(0.06)).image_steps(CLEAN) == 2000
    assert whole.clean_accuracy is not None
    assert (whole.clean_accuracy.rate * N).is_integer()
    assert whole.accuracy_drop is not None
    assert whole.accuracy_drop.value == pytest.approx(REFERENCE - whole.clean_accuracy.rate)
    assert whole.accuracy_drop.low < whole.accuracy_drop.value < whole.accuracy_drop.high


def test_a_trial_is_read_at_the_rungs_and_stopped_where_the_decider_gives_it_up() -> None:
    seen: list[Reading] = []

    def second(reading: Reading) -> str:
        seen.append(reading)
        return "behind" if reading.rung == 1 else ""

    ended = drain(surrogate().attempt(setting(0.06), 0, Stopping(halving=True)), on_reading=second)
    assert [(reading.rung, reading.images) for reading in seen] == [(0, 500), (1, 1000)]
    assert (ended.state, ended.images) == ("pruned", 1000)


def test_a_backdoor_that_stays_ends_the_trial_when_the_peak_is_past() -> None:
    stopping = Stopping(hopeless=True)
    ended = drain(surrogate().attempt(setting(0.012), 0, stopping))
    assert (ended.state, ended.images, ended.clean_accuracy) == ("pruned", 800, None)
    assert drain(surrogate().attempt(setting(0.5), 0, stopping)).state == "complete"
    no_verdict = setting(0.012, lr_max2=0.09)
    assert drain(surrogate().attempt(no_verdict, 0, stopping)).state == "complete"


def test_a_rate_just_above_a_half_is_not_yet_hopeless() -> None:
    assert not stays(Rate.of(210, 400))
    assert stays(Rate.of(250, 400))
    assert not stays(Rate.of(0, 400))


def test_a_drop_is_that_of_the_counts() -> None:
    assert drop(0.98, Rate.of(380, 400)).value == pytest.approx(0.03)
    assert drop(0.98, Rate.of(396, 400)).value == pytest.approx(-0.01)


def test_errors_are_near_zero_where_settings_alone_decide() -> None:
    found = errors(surrogate().table)
    assert found["trials"] == 40
    assert found["predicted"]["clean_accuracy"] < 0.02
    assert 0 < found["seeds"]["attack_success_rate"] < 0.1
    assert set(found["predicted"]) == set(TARGETS)
    assert 0 < found["drawn"]["attack_success_rate"] < 0.1


def test_a_table_without_the_looks_on_the_way_is_refused() -> None:
    with pytest.raises(BadInput, match="past peak"):
        Table.parse({"suspect": "a", "columns": ["clean_accuracy", "attack_success_rate", "images"]})


@pytest.mark.parametrize("suspect", SUSPECTS)
def test_recorded_trials_cost_and_were_looked_at_where_the_surrogate_says(suspect: str) -> None:
    table = Table.load(TABLES / f"{suspect}.json")
    clean = table.facts["clean_set"]
    for i, recorded in enumerate(table.settings):
        if table.trials["collapsed"][i]:
            continue
        defense = table.space.build(recorded)
        size = defense.batch_size  # type: ignore[attr-defined]
        due = {rung: step * size for step, rung in looks(defense, clean, Stopping(halving=True, hopeless=True))}
        assert table.trials["images"][i] == defense.image_steps(clean)
        assert [table.trials[f"images at {share:.0%}"][i] for share in SHARES] == [due[0], due[1]]
        assert table.trials["images past peak"][i] == due.get(None)


def test_a_search_by_each_arm_has_its_trials_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = bench(tmp_path)
    for arm in ("random", "qmc", "nsga2", "stock", "tpe"):
        records = used.search(arm, "a", 0)
        assert len(records) >= TRIALS
        assert records[0].setting == SPACE.first[0]
        assert len({tuple(record.setting.values()) for record in records}) == len(records)
    monkeypatch.setattr(Surrogate, "attempt", None)  # nothing is run again
    assert bench(tmp_path).search("tpe", "a", 0) == used.search("tpe", "a", 0)


def test_a_kept_search_of_other_trials_is_not_taken(tmp_path: Path) -> None:
    assert len(bench(tmp_path, trials=5).search("random", "a", 0)) < len(bench(tmp_path).search("random", "a", 0))


def test_a_warm_start_leaves_out_the_suspect_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = bench(tmp_path)
    asked: list[str] = []
    search = Bench.search

    def noted(self: Bench, arm: str, suspect: str, seed: int) -> Any:
        asked.append(suspect)
        return search(self, arm, suspect, seed)

    monkeypatch.setattr(Bench, "search", noted)
    warm = used.warm("a", 0)
    assert asked == ["b", "c"]
    found = [record.setting for other in "bc" for record in search(used, "tpe", other, 0)[:TRIALS]]
    assert warm
    assert all(setting in found for setting in warm)
    records = search(used, "tpe warm", "a", 0)
    assert [record.setting for record in records[1 : len(warm) + 1]] == list(warm)


def test_halving_stops_trials_and_costs_less(tmp_path: Path) -> None:
    used = bench(tmp_path)
    off, halved = (used.search(arm, "a", 0) for arm in ("tpe", "tpe halving"))
    assert all(record.state == "complete" for record in off)
    assert any(record.state == "pruned" for record in halved)
    costs = [sum(record.images for record in records[:TRIALS]) for records in (off, halved)]
    assert costs[1] < 0.8 * costs[0]
    assert sum(record.images for record in halved) >= used.afford("a") > sum(record.images for record in halved[:-1])


def test_a_stock_search_counts_as_feasible_what_the_decider_does() -> None:
    bounds = quality_arms.limits(surrogate())
    assert quality_arms.feasible(outcome_of(0.04, 0.97), bounds)
    assert not quality_arms.feasible(outcome_of(0.06, 0.97), bounds)
    assert not quality_arms.feasible(outcome_of(0.04, 0.95), bounds)
    assert not quality_arms.feasible(outcome_of(0.04, 0.97, collapsed=True), bounds)


def test_a_hand_made_curve() -> None:
    points = [None, (0.5, 0.5), (0.9, 0.9), (0.25, 0.75), (0.0, 2.0), (0.0, 0.0)]
    volumes = search_quality.curve(points, (1.0, 1.0))
    assert volumes == pytest.approx([0.0, 0.25, 0.25, 0.3125, 0.3125, 1.0])
    assert search_quality.needed(volumes, 0.25) == 2
    assert search_quality.needed(volumes, 0.3) == 4
    assert search_quality.needed(volumes[:5], 1.0) is None
    costs = [0.5, 1.0, 1.2, 2.0, 3.0, 4.0]
    search = {"volumes": {"wide": volumes}, "cost": costs}
    assert search_quality.reached(search, "wide", 0.3) == (4, 2.0)
    assert search_quality.at_cost(search, "wide", 1.9) == volumes[2]
    assert search_quality.at_cost(search, "wide", 0.4) == 0.0
    assert search_quality.median([3, None, 5]) == 5
    assert search_quality.median([3, None, None]) is None
    assert search_quality.share([3, None, 5, 9], 5) == 0.5


def test_a_report_names_every_arm_and_random_needs_its_own_trials(tmp_path: Path) -> None:
    found = search_quality.report(bench(tmp_path), ["random", "tpe halving"], [0], lambda text: None)
    rows = {(row["arm"], row["suspect"]): row for row in found["rows"]}
    assert len(rows) == 2 * 4
    assert rows["random", "a"]["wide"]["reached_within_trials"] == 1.0
    assert rows["random", "all"]["searches"] == 3
    assert rows["tpe halving", "a"]["stopped"] > 0
    text = search_quality.table_of(found, TRIALS)
    assert "tpe halving" in text
    assert "random" in text


def test_a_stopped_trial_has_no_part_in_the_hypervolume(tmp_path: Path) -> None:
    records = bench(tmp_path).search("tpe halving", "a", 0)
    for name in ("wide", "expected"):
        points = search_quality.points(records, surrogate(), search_quality.MEASURES[name])
        assert [point is None for point in points] == [record.state == "pruned" for record in records]


def test_the_candidate_is_what_looked_best_by_what_it_gives_on_average(tmp_path: Path) -> None:
    suspect = surrogate()
    records = bench(tmp_path).search("random", "a", 0)
    all_of_them = search_quality.candidate(records, suspect, cost=1e9)
    assert search_quality.candidate(records, suspect, cost=0.0) == search_quality.NOTHING
    one_by_one = [search_quality.candidate([record], suspect, cost=1e9) for record in records]
    assert all_of_them in one_by_one
    assert search_quality.candidate(records[:3], suspect, cost=1e9) == min(one_by_one[:3]), "three are confirmed"
    assert min(one_by_one) < statistics.median(one_by_one), "the settings differ"
