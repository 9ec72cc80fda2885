"""The table of the assessment: every row from its own weights, drops from the suspect, privacy of no wreck."""

from dataclasses import replace

import pytest
import torch

from raybd.data import stratified_order
from raybd.evaluation import assess, metrics
from raybd.evaluation.assess import Subject, TestView, examine, membership
from raybd.evaluation.membership_inference import auc_rise, loss_threshold
from raybd.evaluation.metrics import paired_drop, read, spread
from raybd.registry import BadInput, as_json, revive
from raybd.training import predict
from raybd.weights import State, load_into, state_of, weights_digest
from tests.digits import CPU, DIGITS, splits, victim

SETTING = {"kind": "fine_tuning", "lr": 0.01}


def view() -> TestView:
    return TestView(
        architecture=DIGITS,
        test=splits().test,
        members=splits().train,
        trigger=victim().planted.trigger,
        compute=CPU,
    )


def wreck(seed: int = 0) -> State:
    return state_of(DIGITS.build(seed))


def subjects() -> dict[str, Subject]:
    """The twin stands for a candidate that was cured; an untrained model for one that collapsed."""
    planted, twin = state_of(victim().planted.model), state_of(victim().twin)
    return {
        "suspect": Subject(states=(planted,)),
        "candidate": Subject(
            states=(wreck(), twin, planted), shown=1, setting=SETTING, training_seconds=2.5, images=70
        ),
        "collapsed": Subject(states=(wreck(),)),
    }


def test_a_row_is_what_its_shown_weights_do_on_test() -> None:
    seen, trigger = examine(view(), subjects()), victim().planted.trigger
    for name, model in (("suspect", victim().planted.model), ("candidate", victim().twin)):
        expected = read(model, splits().test, trigger, CPU)
        row = seen[name].row
        assert row.clean_accuracy == expected.clean_accuracy
        assert row.attack_success_rate == expected.attack_success_rate
        assert row.robust_accuracy == expected.robust_accuracy
        assert row.per_class == tuple(expected.per_class())
    assert seen["suspect"].row.attack_success_rate.rate > 0.9 > seen["candidate"].row.attack_success_rate.rate


def test_drops_are_paired_with_the_suspect_on_the_same_images() -> None:
    seen = examine(view(), subjects())
    before, after = (seen[name].readings.correct for name in ("suspect", "candidate"))
    assert seen["suspect"].row.accuracy_drop is None
    assert seen["candidate"].row.accuracy_drop == paired_drop(before, after)


def test_costs_and_setting_are_passed_on() -> None:
    row = examine(view(), subjects())["candidate"].row
    assert (row.setting, row.training_seconds, row.images) == (SETTING, 2.5, 70)


def test_spread_is_over_all_seeds_and_only_where_there_are_several() -> None:
    seen, trigger = examine(view(), subjects()), victim().planted.trigger
    assert seen["suspect"].row.spread is None
    models = (DIGITS.build(0), victim().twin, victim().planted.model)
    rates = [read(model, splits().test, trigger, CPU).clean_accuracy.rate for model in models]
    assert seen["candidate"].row.spread is not None
    assert seen["candidate"].row.spread.clean_accuracy == spread(rates)


def test_a_model_under_half_the_suspects_accuracy_is_marked_collapsed() -> None:
    assert {n: seen.row.collapsed for n, seen in examine(view(), subjects()).items()} == {
        "suspect": False,
        "candidate": False,
        "collapsed": True,
    }


def test_weights_are_only_read() -> None:
    given = subjects()
    before = [weights_digest(state) for subject in given.values() for state in subject.states]
    seen = examine(view(), given)
    membership(view(), given, seen, trained_on=splits().clean_set, same_images=given["suspect"])
    assert [weights_digest(state) for subject in given.values() for state in subject.states] == before


def test_a_row_goes_to_json_and_back() -> None:
    for seen in examine(view(), subjects()).values():
        assert revive(assess.Row, as_json(seen.row)) == seen.row


def test_without_a_suspect_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(BadInput, match="a subject named 'suspect' is needed"):
        examine(view(), {"candidate": subjects()["candidate"]})


def losses(state: State, images: object) -> torch.Tensor:
    model = DIGITS.build(0)
    load_into(model, state)
    return metrics.image_losses(predict(model, images.images, CPU), images.labels)  # type: ignore[attr-defined]


def test_the_two_readings_have_their_own_members_and_partners() -> None:
    given = subjects()
    tuned = Subject(states=(wreck(), state_of(victim().twin)), shown=1)
    read_ = membership(view(), given, examine(view(), given), trained_on=splits().clean_set, same_images=tuned)
    first, second = read_.suspect_members, read_.trained_on
    assert first is not None
    assert second is not None
    planted, twin = (state_of(m) for m in (victim().planted.model, victim().twin))
    data = splits()
    assert first.members == len(data.train)
    assert second.members == len(data.clean_set)
    assert first.non_members == second.non_members == len(data.test)
    order = stratified_order(data.train.labels, seed=0)
    members, outside = (
        [losses(state, images) for state in (planted, twin)] for images in (data.train.subset(order), data.test)
    )
    assert first.rows["candidate"] == loss_threshold(members[1], outside[1])
    assert first.rise == auc_rise(members[0], outside[0], members[1], outside[1])
    assert first.compared == "candidate minus suspect"
    assert second.compared == "candidate minus fine_tuning"
    assert set(second.rows) == {"suspect", "fine_tuning", "candidate"}
    assert second.rows["fine_tuning"] == second.rows["candidate"]  # here the same weights, so the rise is nil
    assert second.rise is not None
    assert second.rise.value == 0


def test_a_reading_says_in_the_view_s_words_what_the_members_are() -> None:
    given, told = subjects(), replace(view(), members_are="images of Tuesday")
    read_ = membership(told, given, examine(told, given), trained_on=splits().clean_set, same_images=None)
    assert read_.suspect_members is not None
    assert read_.suspect_members.members_are == "images of Tuesday"


def test_a_study_in_bf16_is_assessed_in_the_precision_that_ships() -> None:
    fast = replace(view(), compute=replace(CPU, precision="bf16"))
    given = subjects()
    rough = read(victim().planted.model, splits().test, victim().planted.trigger, fast.compute)
    seen, exact = examine(fast, given), examine(view(), given)
    assert not torch.equal(rough.losses, exact["suspect"].readings.losses)  # else this test shows nothing
    for name in given:
        assert torch.equal(seen[name].readings.losses, exact[name].readings.losses)
        assert seen[name].row == exact[name].row
    kept = {"trained_on": splits().clean_set, "same_images": given["suspect"]}
    assert membership(fast, given, seen, **kept) == membership(view(), given, exact, **kept)  # type: ignore[arg-type]


def test_a_collapsed_model_gets_no_reading() -> None:
    given = subjects()
    read_ = membership(view(), given, examine(view(), given), trained_on=splits().clean_set, same_images=None)
    assert read_.suspect_members is not None
    assert read_.suspect_members.rows["collapsed"] is None
    assert read_.suspect_members.rows["suspect"] is not None
    given["candidate"] = Subject(states=(wreck(),))
    read_ = membership(view(), given, examine(view(), given), trained_on=splits().clean_set, same_images=None)
    assert read_.suspect_members is not None
    assert read_.suspect_members.rise is None


@pytest.mark.parametrize("reference_collapsed", [False, True])
def test_whether_the_partner_collapsed_is_judged_on_its_own_weights(reference_collapsed: bool) -> None:
    """The reference called fine_tuning may have been trained on other images than the partner."""
    given, twin = subjects(), state_of(victim().twin)
    given["fine_tuning"] = Subject(states=(wreck() if reference_collapsed else twin,))
    partner = Subject(states=(twin if reference_collapsed else wreck(),))
    read_ = membership(view(), given, examine(view(), given), trained_on=splits().clean_set, same_images=partner)
    assert read_.trained_on is not None
    assert (read_.trained_on.rows["fine_tuning"] is None) is not reference_collapsed
    assert (read_.trained_on.rise is None) is not reference_collapsed


def test_unknown_members_and_a_missing_partner_mean_no_reading() -> None:
    given, unknown = subjects(), replace(view(), members=None)
    read_ = membership(unknown, given, examine(unknown, given), trained_on=splits().clean_set, same_images=None)
    assert read_.suspect_members is None
    assert read_.trained_on is None


def test_many_members_are_sampled_evenly_over_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assess, "MAX_MEMBERS", 100)
    given, seen = subjects(), []
    whole = assess._losses

    def spied(view: TestView, subjects: object, images: object) -> object:
        seen.append(images)
        return whole(view, subjects, images)  # type: ignore[arg-type]

    monkeypatch.setattr(assess, "_losses", spied)
    membership(view(), given, examine(view(), given), trained_on=splits().clean_set, same_images=None)
    counts = seen[0].labels.bincount()  # type: ignore[attr-defined]
    assert len(seen[0]) == 100  # type: ignore[arg-type]
    assert counts.min() >= 8
