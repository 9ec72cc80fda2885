"""Claims about who proposes: a slow sampler hands over at its draw, visibly; its heir goes on from what it found."""

import optuna
import pytest

from raybd.search import samplers
from raybd.search.opening import JOURNAL
from raybd.search.records import front_of
from raybd.search.samplers import POPULATION, SAMPLERS, SUCCESSORS, Successor, in_charge, succession
from tests.search.fakes import SPACE, drive, open_decider

CHAIN = {"random": Successor(draw=6, name="tpe"), "tpe": Successor(draw=24, name="nsga2")}


def proposers(folder):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    trials = optuna.load_study(study_name="study", storage=storage).trials
    return [trial.user_attrs["proposal"]["by"] for trial in trials]


def settings_of(folder, **changes):
    with open_decider(folder, **changes) as decider:
        return [proposal.setting for proposal in drive(decider)]


def inherited(setting, earlier):
    """The share of a setting's values that an earlier setting has too, to the last bit; choices are left out."""
    names = [name for name in setting if SPACE.search[name].type == "float"]
    return sum(any(setting[name] == e[name] for e in earlier) for name in names) / len(names)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_every_chain_of_samplers_ends_and_each_one_has_its_turn(name):
    following = succession(name, 10**9)
    assert len({name, *(s.name for s in following)}) == 1 + len(following)
    assert {s.name for s in following} <= set(SAMPLERS)
    draws = [0, *(s.draw for s in following)]
    assert draws == sorted(set(draws))


@pytest.mark.parametrize(("name", "successor"), SUCCESSORS.items())
def test_a_sampler_hands_over_at_its_draw(name, successor):
    assert in_charge(name, successor.draw - 1) == name
    assert in_charge(name, successor.draw) == successor.name
    assert succession(name, successor.draw) == ()
    assert succession(name, successor.draw + 1) == (successor,)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - set(SUCCESSORS)))
def test_a_cheap_sampler_stays(name):
    assert in_charge(name, 10**9) == name


def test_the_journal_says_who_proposed_and_until_then_nothing_differs(tmp_path, monkeypatch):
    alone = settings_of(tmp_path / "alone", trials=12, sampler="random")
    monkeypatch.setattr(samplers, "SUCCESSORS", CHAIN)
    handed_over = settings_of(tmp_path / "chain", trials=30, sampler="random")
    assert proposers(tmp_path / "chain") == ["listed"] + ["random"] * 5 + ["tpe"] * 18 + ["nsga2"] * 6
    assert handed_over[:6] == alone[:6]
    assert handed_over[6:12] != alone[6:12]
    assert proposers(tmp_path / "alone") == ["listed"] + ["random"] * 11


def test_a_resumed_search_hands_over_as_an_undisturbed_one(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "SUCCESSORS", CHAIN)
    whole = settings_of(tmp_path / "whole", trials=32, sampler="random")
    parts = []
    for stop_after in (5, 3, 15, 3, None):
        with open_decider(tmp_path / "parts", trials=32, sampler="random") as decider:
            parts += [proposal.setting for proposal in drive(decider, stop_after=stop_after)]
    assert parts == whole
    assert proposers(tmp_path / "parts") == proposers(tmp_path / "whole")


def test_a_repeat_after_the_takeover_is_still_its_first_proposers(tmp_path, monkeypatch):
    monkeypatch.setattr(samplers, "SUCCESSORS", CHAIN)
    with open_decider(tmp_path, trials=8, sampler="random") as decider:
        under_way = [decider.ask() for _ in range(8)]
        decider.close()
    with open_decider(tmp_path, trials=8, sampler="random") as decider:
        assert [p.setting for p in drive(decider)] == [p.setting for p in under_way]
    assert proposers(tmp_path) == 2 * (["listed"] + ["random"] * 5 + ["tpe"] * 2)


def test_nsga2_breeds_from_what_another_sampler_found(tmp_path, monkeypatch):
    before = 2 * POPULATION
    monkeypatch.setattr(samplers, "SUCCESSORS", {"random": Successor(draw=before, name="nsga2")})
    with open_decider(tmp_path, trials=before + 2 * POPULATION, sampler="random") as decider:
        earlier = [p.setting for p in drive(decider, stop_after=before)]
        best = [decider.records()[number].setting for number in front_of(decider.records())]
        first = [p.setting for p in drive(decider, stop_after=POPULATION)]
        second = [p.setting for p in drive(decider)]
    shares = [inherited(setting, earlier) for setting in first]
    assert sum(shares) / len(shares) > 0.5, "a value is drawn anew once in as many as the space has dimensions"
    assert any(inherited(setting, best) > 0.5 for setting in first)
    assert any(inherited(setting, earlier) > 0 for setting in second)
    assert any(inherited(setting, first) > inherited(setting, earlier) for setting in second), "and from its own"


def test_nsga2_alone_begins_at_random(tmp_path):
    settings = settings_of(tmp_path, trials=POPULATION, sampler="nsga2")
    assert all(inherited(setting, settings[:i]) == 0 for i, setting in enumerate(settings))


def test_the_heirs_parents_are_the_best_of_all_before(tmp_path, monkeypatch):
    """A low first peak leaves the backdoor: the stand-in's trials with the lowest ones are its worst."""
    monkeypatch.setattr(samplers, "SUCCESSORS", {"random": Successor(draw=60, name="nsga2")})
    with open_decider(tmp_path, trials=70, sampler="random") as decider:
        drive(decider, stop_after=60)
        ranked = [r.setting for r in sorted(decider.records(), key=lambda r: r.setting["lr_max1"])]
        bred = [p.setting for p in drive(decider)]
    assert sum(inherited(setting, ranked[:20]) for setting in bred) == 0
    assert sum(inherited(setting, ranked[20:]) for setting in bred) > len(bred) / 2
