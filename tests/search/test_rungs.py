"""Claims about rungs: who goes on, that corners are not favoured, and that a kill changes no verdict."""

import itertools

import optuna
import pytest

from raybd.evaluation.metrics import Difference, Rate
from raybd.search.records import Outcome, Reading
from raybd.search.rungs import goes_on
from tests.search.fakes import LIMITS, measured, open_decider

N = 1000


def reading(asr, drop, rung=0):
    rate = Rate.of(round(asr * N), N)
    return Reading(
        rung=rung,
        clean_accuracy=Rate.of(round((0.98 - drop) * N), N),
        attack_success_rate=rate,
        robust_accuracy=Rate.of(0, N),
        accuracy_drop=Difference(value=drop, low=drop - 0.01, high=drop + 0.01, n=N),
        training_seconds=1.0,
        evaluation_seconds=0.1,
        steps=4,
        images=64,
        worker="here:1",
    )


def kept(reading, others):
    return goes_on(reading, others, **vars(LIMITS))


GOOD, FAIR, BACKDOORED, WRECK = reading(0.02, 0.01), reading(0.2, 0.05), reading(0.99, 0.0), reading(0.0, 0.9)


def test_the_first_to_come_goes_on():
    assert kept(WRECK, [])


def test_the_better_half_goes_on():
    assert kept(GOOD, [FAIR, BACKDOORED])
    assert not kept(WRECK, [GOOD, FAIR])
    assert not kept(BACKDOORED, [GOOD, FAIR])


@pytest.mark.parametrize("corner", [BACKDOORED, WRECK])
def test_a_corner_of_the_front_is_not_kept_for_being_on_it(corner):
    """The figure within its limit counts no further: else ASR 0 or a drop of 0 could never be dominated."""
    nearly = reading(0.04, 0.015)
    assert not kept(corner, [nearly, nearly, nearly])


def test_of_those_within_both_limits_the_one_furthest_inside_is_best():
    others = [reading(0.045, 0.019), reading(0.04, 0.018), reading(0.03, 0.015)]
    assert kept(reading(0.01, 0.005), others)
    assert not kept(reading(0.049, 0.0195), others)


def test_a_trial_given_up_is_pruned_with_what_it_showed(tmp_path):
    with open_decider(tmp_path, trials=3) as decider:
        for shown in (GOOD, WRECK):
            number = decider.ask().number
            reason = decider.judge(number, shown)
            if reason:
                record = decider.tell(number, Outcome.behind(shown, reason))
            else:
                decider.tell(number, measured(0.01, 0.97))
    assert record.state == "pruned"
    assert record.reason == "not in the better 1/2 of the 2 trials that came to 25% of theirs"
    assert record.clean_accuracy == WRECK.clean_accuracy
    assert (record.steps, record.training_seconds) == (4, 1.0)
    assert not record.feasible


def verdicts(folder, *, reopen):
    """The verdicts of a search whose process is replaced before each trial, or never."""
    shown = itertools.cycle([GOOD, FAIR, reading(0.03, 0.012), BACKDOORED, reading(0.1, 0.03)])
    reasons = []
    decider = open_decider(folder, trials=8)
    while (proposal := decider.ask()) is not None:
        reasons.append(decider.judge(proposal.number, figures := next(shown)))
        outcome = Outcome.behind(figures, reasons[-1]) if reasons[-1] else measured(0.1, 0.95)
        decider.tell(proposal.number, outcome)
        if reopen:
            decider.close()
            decider = open_decider(folder, trials=8)
    decider.close()
    return reasons


def test_a_resumed_search_judges_as_an_undisturbed_one(tmp_path):
    undisturbed = verdicts(tmp_path / "a", reopen=False)
    assert any(undisturbed)
    assert not all(undisturbed)
    assert verdicts(tmp_path / "b", reopen=True) == undisturbed


def test_a_failed_trial_is_not_compared_with_its_own_repeat(tmp_path):
    with open_decider(tmp_path, trials=2) as decider:
        first = decider.ask().number
        assert decider.judge(first, WRECK) == ""
        decider.tell(first, Outcome.failed("lost"))
        again = decider.ask().number
        assert decider.judge(again, WRECK) == "", "it is the first at this rung once more"


def test_what_a_trial_showed_counts_though_a_kill_came_when_its_end_was_half_told(tmp_path, monkeypatch):
    with open_decider(tmp_path, trials=2) as decider:
        number = decider.ask().number
        decider.judge(number, GOOD)
        with monkeypatch.context() as kill:
            kill.setattr(optuna.Study, "tell", interrupted)
            with pytest.raises(KeyboardInterrupt):
                decider.tell(number, measured(0.02, 0.97))
    with open_decider(tmp_path, trials=2) as decider:
        assert decider.judge(decider.ask().number, WRECK), "the trial before it was better at this rung"


def interrupted(*arguments, **named):
    raise KeyboardInterrupt
