"""Claims about one trial: what it measures, that it leaves no trace, and that its faults stay its own."""

import dataclasses
import math

import pytest
import torch

from raybd.defenses import SuperFineTuning
from raybd.evaluation.metrics import paired_drop, read
from raybd.registry import as_json, revive
from raybd.search.records import Objective, Outcome, TrialRecord, discard_weights, front_of, weights_of
from raybd.search.trial import run_trial, steps
from raybd.search.view import SearchView
from raybd.weights import load_into, load_weights, weights_digest
from tests.search.fakes import SPACE, measured, tiny_view

GENTLE = SuperFineTuning(
    lr_base=1e-3,
    lr_max1=0.05,
    lr_max2=0.01,
    epochs=2,
    phase1_share=0.5,
    batch_size=16,
    ramp_up_steps=2,
    ramp_down_steps=2,
)
EXPLODING = dataclasses.replace(GENTLE, lr_max1=1e12, lr_base=1e10)


@pytest.fixture(scope="module")
def view():
    return tiny_view()


def untimed(outcome):
    return dataclasses.replace(outcome, training_seconds=0.0, evaluation_seconds=0.0)


def test_the_outcome_is_what_the_written_weights_measure(view, tmp_path):
    path = tmp_path / "3" / "weights.safetensors"
    outcome = run_trial(view, GENTLE, seed=1, weights=path)
    model = view.architecture.build(0)
    load_into(model, load_weights(path))
    readings = read(model, view.selection, view.trigger, view.compute)
    assert outcome.state == "complete"
    assert outcome.clean_accuracy == readings.clean_accuracy
    assert outcome.attack_success_rate == readings.attack_success_rate
    assert outcome.robust_accuracy == readings.robust_accuracy
    assert outcome.accuracy_drop == paired_drop(view.reference_correct, readings.correct)
    assert outcome.objectives == {
        "attack_success_rate": readings.attack_success_rate.rate,
        "clean_accuracy": readings.clean_accuracy.rate,
    }
    assert outcome.steps == 8
    assert outcome.images == 8 * 16
    assert outcome.training_seconds > 0
    assert outcome.evaluation_seconds > 0


def test_the_same_seed_gives_the_same_outcome_and_another_seed_other_weights(view, tmp_path):
    paths = [tmp_path / str(i) / "weights.safetensors" for i in range(3)]
    first, second, third = (run_trial(view, GENTLE, seed=s, weights=p) for s, p in zip((5, 5, 6), paths, strict=True))
    digests = [weights_digest(load_weights(path)) for path in paths]
    assert untimed(first) == untimed(second)
    assert digests[0] == digests[1] != digests[2]
    assert third.state == "complete"


def test_a_trial_leaves_the_suspect_and_its_data_as_they_were(view):
    before = (weights_digest(view.state), view.clean_set.digest(), view.selection.digest())
    run_trial(view, GENTLE, seed=1)
    run_trial(view, EXPLODING, seed=1)
    again = weights_digest(dict(view.defender().model.body.state_dict()))
    assert (weights_digest(view.state), view.clean_set.digest(), view.selection.digest()) == before
    assert again == before[0]


def test_a_trial_goes_on_a_stretch_at_a_time_and_can_be_closed(view):
    going = steps(view, GENTLE, seed=1)
    assert next(going).steps == 4
    going.close()


def test_a_collapsed_trial_is_complete_with_the_reason_and_what_was_measured(view):
    outcome = run_trial(view, EXPLODING, seed=1)
    assert (outcome.state, outcome.collapsed) == ("complete", True)
    assert outcome.reason == "the loss is not finite"
    assert outcome.clean_accuracy.rate == 0, "logits that are not finite count as wrong answers"
    assert outcome.attack_success_rate.rate == 0
    assert outcome.steps <= 20
    assert all(math.isfinite(value) for value in outcome.objectives.values())


def test_a_model_under_half_the_references_accuracy_is_collapsed_whatever_its_loss(view):
    hard = dataclasses.replace(view, reference_correct=torch.ones(48, dtype=torch.bool))
    guessing = dataclasses.replace(hard, state={k: torch.zeros_like(v) for k, v in view.state.items()})
    outcome = run_trial(guessing, dataclasses.replace(GENTLE, lr_base=1e-9, lr_max1=1e-9, lr_max2=1e-9), seed=1)
    assert outcome.collapsed
    assert outcome.reason


def test_an_error_in_a_trial_is_its_outcome_and_steps_shows_where_it_arose(view, monkeypatch):
    def broken(self, *arguments, **named):
        raise ArithmeticError("no such number")
        yield

    monkeypatch.setattr(SuperFineTuning, "run", broken)
    outcome = run_trial(view, GENTLE, seed=1)
    assert (outcome.state, outcome.error) == ("failed", "ArithmeticError: no such number")
    assert outcome.clean_accuracy is None
    with pytest.raises(ArithmeticError):
        list(steps(view, GENTLE, seed=1))


def test_an_interruption_is_not_an_outcome(view, monkeypatch):
    def interrupted(self, *arguments, **named):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(SuperFineTuning, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_trial(view, GENTLE, seed=1)


def test_objectives_are_functions_handed_to_the_trial(view):
    wanted = {"robustness": Objective(direction="maximize", of=lambda readings: readings.robust_accuracy.rate)}
    outcome = run_trial(view, GENTLE, seed=1, objectives=wanted)
    assert outcome.objectives == {"robustness": outcome.robust_accuracy.rate}


def test_a_view_survives_packing_and_a_trial_on_the_copy_is_the_same(view):
    packed = view.pack()
    copy = SearchView.unpack(packed)
    assert weights_digest(copy.state) == weights_digest(view.state)
    assert copy.clean_set.digest() == view.clean_set.digest()
    assert copy.trigger == view.trigger
    assert untimed(run_trial(copy, GENTLE, seed=3)) == untimed(run_trial(view, GENTLE, seed=3))


def test_whatever_is_done_to_an_unpacked_view_the_shared_arrays_stay_as_they_are(view):
    packed = view.pack()
    for arrays in (packed["clean_set"], packed["selection"]):
        arrays["images"].flags.writeable = False
        arrays["labels"].flags.writeable = False
    before = {name: packed[name]["images"].copy() for name in ("clean_set", "selection")}
    state = packed["state"].copy()
    copy = SearchView.unpack(packed)
    copy.clean_set.images.fill_(7)
    copy.selection.images.fill_(7)
    copy.clean_set.labels.fill_(0)
    copy.reference_correct.fill_(True)
    for tensor in copy.state.values():
        tensor.fill_(1)
    assert all((packed[name]["images"] == before[name]).all() for name in before)
    assert (packed["state"] == state).all()
    assert view.clean_set.digest() == tiny_view().clean_set.digest()


def test_records_survive_json(view):
    for outcome in (run_trial(view, GENTLE, seed=1), Outcome.failed("lost"), measured(0.1, 0.9)):
        assert revive(Outcome, as_json(outcome)) == outcome
        record = TrialRecord.of(3, SPACE.first[0], 9, outcome, feasible=True)
        assert revive(TrialRecord, as_json(record)) == record


def entry(number, asr, accuracy, *, feasible=False, collapsed=False):
    outcome = measured(asr, accuracy, collapsed=collapsed)
    return TrialRecord.of(number, SPACE.first[0], number, outcome, feasible=feasible)


def test_the_front_is_of_the_feasible_trials_and_of_the_standing_ones_only_without_any():
    best_asr, best_accuracy = entry(0, 0.01, 0.9), entry(1, 0.5, 0.97)
    beaten, wreck = entry(2, 0.6, 0.9), entry(3, 0.0, 0.1, collapsed=True)
    failed = TrialRecord.of(4, {}, 0, Outcome.failed("lost"), feasible=False)
    everyone = [best_asr, best_accuracy, beaten, wreck, failed]
    assert front_of(everyone) == (0, 1)
    feasible = [entry(5, 0.04, 0.965, feasible=True), entry(6, 0.03, 0.96, feasible=True)]
    assert front_of([*everyone, *feasible]) == (5, 6)
    assert front_of([]) == ()
    assert front_of([wreck, failed]) == ()


def test_weights_go_when_their_trial_leaves_the_front(tmp_path):
    ended = []
    for record in (entry(0, 0.5, 0.9), entry(1, 0.2, 0.8), entry(2, 0.1, 0.95), entry(3, 0.9, 0.2)):
        path = weights_of(tmp_path, record.number)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
        ended.append(record)
        discard_weights(tmp_path, ended)
        left = {int(folder.name) for folder in tmp_path.iterdir()}
        assert left == set(front_of(ended))
    under_way = weights_of(tmp_path, 9)
    under_way.parent.mkdir()
    discard_weights(tmp_path, ended)
    assert under_way.parent.exists(), "a trial under way keeps its folder"
