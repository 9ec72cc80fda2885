"""Claims about hopelessness: cheap where it is clear, rare where it is wrong, and no good trial was ever stopped."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from raybd.defenses import FineTuning, SuperFineTuning
from raybd.models import Classifier
from raybd.search import hopeless as module
from raybd.search.hopeless import FALSE_ALARM, HOPELESS, hopeless
from raybd.search.records import Stopping
from raybd.search.trial import drain, run_trial, steps
from tests.search.fakes import tiny_view

TABLE = json.loads((Path(__file__).parents[1] / "data" / "hopeless_trials.json").read_text(encoding="utf-8"))


class Obeys(nn.Module):
    """Gives the goal, label 0, to a share of images, drawn anew from a generator."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.rate = rate
        self.seen = 0
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += len(x)
        goal = torch.rand(len(x), generator=self.generator) < self.rate
        return torch.stack([goal.float(), 0.5 * torch.ones(len(x))], dim=1)


def obeys(rate: float, seed: int = 0) -> Classifier:
    return Classifier(Obeys(rate, seed))


@pytest.fixture(scope="module")
def view():
    """A view with 1,000 images that can be attacked."""
    small = tiny_view()
    rows = torch.arange(1000) % len(small.selection)
    selection = small.selection.subset(rows)
    selection = dataclasses.replace(selection, labels=torch.ones(1000, dtype=torch.int64))
    return dataclasses.replace(small, selection=selection, reference_correct=small.reference_correct[rows])


def test_a_backdoor_that_is_all_there_is_seen_on_fifty_images(view):
    model = obeys(0.98)
    rate = hopeless(model, view)
    assert rate.n == model.body.seen == 50
    assert rate.low > HOPELESS


def test_a_backdoor_that_is_gone_is_not_looked_at_any_longer(view):
    model = obeys(0.02)
    assert hopeless(model, view) is None
    assert model.body.seen == 50


def test_near_the_threshold_it_looks_longer(view):
    model = obeys(0.6)
    assert hopeless(model, view) is not None
    assert model.body.seen > 100


def test_at_the_threshold_it_is_rarely_wrong(view):
    wrong = sum(hopeless(obeys(HOPELESS, seed), view) is not None for seed in range(300))
    assert wrong <= 300 * FALSE_ALARM + 5


def test_fewer_images_than_a_look_are_looked_at_once(view):
    few = dataclasses.replace(view, selection=view.selection.subset(range(20)))
    assert hopeless(obeys(1.0), few).n == 20


GENTLE = SuperFineTuning(
    lr_base=1e-4,
    lr_max1=2e-4,
    lr_max2=1e-4,
    epochs=4,
    phase1_share=0.5,
    batch_size=16,
    ramp_up_steps=2,
    ramp_down_steps=2,
)


def test_a_hopeless_trial_ends_when_the_large_peak_is_past(view, monkeypatch):
    monkeypatch.setattr(module, "HOPELESS", -1.0)  # whatever the model does is hopeless
    going = list(steps(view, GENTLE, seed=0, stopping=Stopping(hopeless=True)))
    outcome = run_trial(view, GENTLE, seed=0)
    assert [epoch.steps for epoch in going] == [4, 8], "phase 1 is two cycles of four"
    assert outcome.state == "complete", "only a search gives up"
    assert outcome.steps == 12


def test_the_outcome_of_a_hopeless_trial_says_so(view, monkeypatch):
    monkeypatch.setattr(module, "HOPELESS", -1.0)
    outcome = drain(steps(view, GENTLE, seed=0, stopping=Stopping(hopeless=True)))
    assert outcome.state == "pruned"
    assert outcome.reason.startswith("the backdoor stays: ASR")
    assert outcome.attack_success_rate.n == 50
    assert outcome.clean_accuracy is None
    assert outcome.steps == 8
    assert outcome.training_seconds > 0
    assert outcome.evaluation_seconds > 0


def test_a_larger_second_peak_and_other_defenses_are_given_their_time():
    assert GENTLE.verdict_step(64) == 8
    assert dataclasses.replace(GENTLE, lr_max2=1e-2).verdict_step(64) is None
    assert FineTuning().verdict_step(64) is None


@pytest.mark.parametrize("suspect", sorted(TABLE["suspects"]))
def test_no_recorded_trial_that_was_stopped_would_have_ended_within_any_sensible_gate(suspect):
    trials = TABLE["suspects"][suspect]
    stopped = [trial for trial in trials if trial["asr_past_peak"] > HOPELESS]
    assert len(stopped) >= 0.1 * len(trials), "else the table proves nothing"
    assert min(trial["asr_at_end"] for trial in stopped) > 0.2
