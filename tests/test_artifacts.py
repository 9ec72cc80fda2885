"""What lies in a run folder comes back as it was, and what was changed since is refused by name."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raybd.artifacts import Assessment, Bench, Candidate, Study, Suspect, test_looks
from raybd.data import Augment, Part, SplitPlan, Splits, load_source, split
from raybd.evaluation.assess import Subject, examine, membership
from raybd.evaluation.metrics import Rate, class_drops
from raybd.evaluation.sequela import Sequela
from raybd.gate import Evidence, Gate
from raybd.registry import BadInput, read_json, write_json
from raybd.training import Compute
from raybd.triggers import Patch
from raybd.weights import save_weights, state_of, weights_digest
from tests.digits import CPU, DIGITS, splits, victim


def bench(**changes: Any) -> Bench:
    values = {
        "architecture": DIGITS,
        "splits": splits(),
        "trigger": victim().planted.trigger,
        "augment": Augment(),
        "compute": CPU,
        "seed": 0,
    }
    return Bench(**{**values, **changes})


def injected() -> Suspect:
    return Suspect.from_victim(victim(), bench(), {"attack": {"kind": "badnets"}, "warnings": ["weak"]})


def adopted(**changes: Any) -> Suspect:
    state = state_of(victim().planted.model)
    return Suspect(how="adopt", bench=bench(**changes), state=state, knowledge="given", facts={"origin": "a file"})


def with_members() -> Splits:
    plan = SplitPlan(
        clean_set=Part(origin="train", size=250),
        selection=Part(origin="train", size=300),
        test=Part(origin="train", size=547),
        members=Part(origin="train"),
    )
    return split(load_source("digits", folder=Path()), plan, seed=0)


@pytest.mark.parametrize("made", [injected, adopted])
def test_a_suspect_comes_back_as_it_was(tmp_path: Path, made: Callable[[], Suspect]) -> None:
    suspect = made()
    saved = suspect.save(tmp_path)
    loaded = Suspect.load(tmp_path, suspect.bench)
    assert saved.folder == loaded.folder == tmp_path
    assert loaded.card() == suspect.card()
    assert loaded.digest == suspect.digest == read_json(tmp_path / "card.json")["digest"]
    assert weights_digest(loaded.state) == weights_digest(suspect.state)
    assert (loaded.twin is None) == (suspect.twin is None)
    assert loaded.poisoned == suspect.poisoned
    assert loaded.facts == suspect.facts
    images = splits().test.images[:9].float() / 255
    torch.testing.assert_close(loaded.model()(images), victim().planted.model(images))


def test_the_card_says_how_the_suspect_came_and_what_is_known_of_it() -> None:
    card = injected().card()
    assert (card["how"], card["trigger_knowledge"]) == ("inject", "planted")
    assert (card["classes"], card["shape"]) == (10, [1, 8, 8])
    assert card["poisoned"] == len(victim().planted.poisoned)
    assert card["never_poisoned_digest"] == weights_digest(state_of(victim().twin))
    assert card["warnings"][-1] == "weak"
    assert {name: s["images"] for name, s in card["splits"].items()} == {
        "train": 700,
        "clean_set": 250,
        "selection": 300,
        "test": 547,
    }
    json.dumps(card, allow_nan=False)


def left_no_training_set() -> Suspect:
    planted = replace(victim().planted, training_set=None, poisoned=())
    return Suspect.from_victim(replace(victim(), planted=planted), bench(), {})


def test_what_was_poisoned_batch_by_batch_is_not_counted_as_none(tmp_path: Path) -> None:
    suspect = left_no_training_set().save(tmp_path)
    for card in (read_json(tmp_path / "card.json"), Suspect.load(tmp_path, suspect.bench).card()):
        assert (card["poisoned"], card["covers"]) == (None, None)


def test_a_suspect_saved_when_none_was_still_counted_loads(tmp_path: Path) -> None:
    suspect = left_no_training_set().save(tmp_path)
    card = read_json(tmp_path / "card.json")
    del card["facts"]["poisoned_digest"]
    write_json(tmp_path / "card.json", {**card, "poisoned": 0, "covers": 0})
    assert Suspect.load(tmp_path, suspect.bench).digest == suspect.digest


def test_the_digest_is_that_of_model_data_trigger_and_compute_and_no_more(tmp_path: Path) -> None:
    base = adopted()
    other_weights = {**base.state, "15.bias": base.state["15.bias"] + 1} if "15.bias" in base.state else None
    changed = [
        adopted(trigger=Patch(target_label=0, size=2)),
        adopted(trigger=Patch(target_label=1)),
        adopted(trigger=None),
        adopted(augment=Augment(flip=True)),
        adopted(compute=Compute(precision="bf16")),
        adopted(architecture=replace(DIGITS, normalize={"mean": [0.5], "std": [1.0]})),
        adopted(splits=replace(splits(), clean_set=splits().clean_set.subset(range(200)))),
        replace(base, state=other_weights or state_of(victim().twin)),
    ]
    assert len({suspect.digest for suspect in [base, *changed]}) == len(changed) + 1
    same = [
        adopted(),
        adopted(seed=5),
        adopted(architecture=replace(DIGITS, folder=tmp_path)),
        replace(base, facts={"origin": "elsewhere"}, knowledge="planted"),
    ]
    assert {suspect.digest for suspect in same} == {base.digest}


def test_looks_at_the_test_split_are_counted_and_lie_outside_the_digest(tmp_path: Path) -> None:
    suspect = adopted().save(tmp_path)
    digest = suspect.digest
    assert test_looks(tmp_path) == 0
    for looks in (1, 2):
        view = suspect.test_view()
        assert view.test is suspect.bench.splits.test
        assert test_looks(tmp_path) == looks
    assert Suspect.load(tmp_path, suspect.bench).digest == digest
    assert test_looks(tmp_path) == 2


def test_members_of_an_injected_suspect_are_the_images_it_saw_unpoisoned() -> None:
    members, poisoned = injected().members(), victim().planted.poisoned
    assert members is not None
    assert len(members) == 700 - len(poisoned)
    train = splits().train
    expected = train.subset([i for i in range(700) if i not in poisoned])
    assert members.digest() == expected.digest()


def test_members_that_may_have_been_poisoned_in_some_steps_are_told_to_be(tmp_path: Path) -> None:
    """Input-aware draws what it poisons anew in each batch: no image of its training is known to be clean."""
    suspect = left_no_training_set().save(tmp_path)
    members = suspect.members()
    assert members is not None
    assert len(members) == 700
    assert "any may have been seen both clean and with a trigger" in suspect.test_view().members_are
    assert injected().members_words == "training images of the suspect, without those that the attack changed"
    assert adopted().members_words == "training images of the suspect, as the study names them"


def test_members_of_an_adopted_suspect_are_those_the_user_named() -> None:
    assert adopted().members() is None
    named = with_members()
    assert adopted(splits=named).members() is named.members


def test_an_unknown_trigger_is_kept_but_steers_nothing(tmp_path: Path) -> None:
    suspect = adopted(trigger=None).save(tmp_path)
    assert Suspect.load(tmp_path, suspect.bench).card()["trigger"] is None
    for use in (lambda: suspect.trigger, suspect.test_view):
        with pytest.raises(BadInput, match="trigger: unknown"):
            use()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"trigger": Patch(target_label=0, size=2)}, "trigger"),
        ({"trigger": None}, "trigger"),
        ({"augment": Augment(crop=1)}, "augment"),
        ({"compute": Compute(threads=2)}, "compute"),
        ({"architecture": replace(DIGITS, normalize={"mean": [0.5], "std": [1.0]})}, "architecture"),
    ],
)
def test_a_folder_of_another_study_is_refused(tmp_path: Path, changes: dict[str, Any], key: str) -> None:
    adopted().save(tmp_path)
    with pytest.raises(BadInput, match=rf"card.json: {key} is .* the run folder holds another study"):
        Suspect.load(tmp_path, bench(**changes))


def test_weights_twin_or_data_changed_behind_our_back_are_refused(tmp_path: Path) -> None:
    suspect = injected().save(tmp_path / "good")
    assert suspect.twin is not None

    def damaged(name: str, damage: Callable[[Path], object]) -> Path:
        shutil.copytree(tmp_path / "good", tmp_path / name)
        damage(tmp_path / name)
        return tmp_path / name

    other = {name: tensor + 1 for name, tensor in suspect.state.items()}
    for folder, message in (
        (damaged("weights", lambda f: save_weights(other, f / "weights.safetensors")), "weights_digest is"),
        (damaged("twin", lambda f: save_weights(other, f / "never_poisoned.safetensors")), "never_poisoned_digest is"),
        (damaged("no_twin", lambda f: (f / "never_poisoned.safetensors").unlink()), "never_poisoned_digest is"),
        (damaged("no_weights", lambda f: (f / "weights.safetensors").unlink()), "no file weights.safetensors"),
        (damaged("no_card", lambda f: (f / "card.json").unlink()), "card.json: no such file"),
        (damaged("half", lambda f: (f / "card.json").write_text('{"how": ')), "card.json: not readable as JSON"),
        (damaged("old", lambda f: (f / "card.json").write_text('{"how": "adopt"}')), "card.json: damaged"),
        (damaged("list", lambda f: (f / "splits.json").write_text("[]")), "splits.json: damaged"),
    ):
        with pytest.raises(BadInput, match=message):
            Suspect.load(folder, suspect.bench)
    poorer = replace(splits(), selection=splits().selection.subset(range(100)))
    with pytest.raises(BadInput, match=r"card.json: splits is"):
        Suspect.load(tmp_path / "good", replace(suspect.bench, splits=poorer))


def candidate() -> Candidate:
    states = tuple(state_of(DIGITS.build(seed)) for seed in range(3))
    card = {
        "number": 4,
        "defense": {"kind": "fine_tuning"},
        "setting": {},
        "why": "the only one",
        "training_seconds": 1.0,
        "images": 640,
        "seeds": [7, 8, 9],
        "shipped_seed": 8,
        "weights_digest": weights_digest(states[1]),
    }
    return Candidate(card=card, states=states, shown=1)


def test_a_candidate_comes_back_with_the_weights_that_ship(tmp_path: Path) -> None:
    made = candidate()
    made.save(tmp_path)
    loaded = Candidate.load(tmp_path)
    assert loaded.card == made.card
    assert loaded.shown == 1
    assert [weights_digest(s) for s in loaded.states] == [weights_digest(s) for s in made.states]


@pytest.mark.parametrize("name", ["weights.safetensors", "seeds/1/weights.safetensors"])
def test_a_candidate_whose_shipping_weights_were_changed_is_refused(tmp_path: Path, name: str) -> None:
    made = candidate()
    made.save(tmp_path)
    save_weights(made.states[0], tmp_path / name)
    with pytest.raises(BadInput, match=f"{name}: its digest is not the card's"):
        Candidate.load(tmp_path)


def test_a_candidates_damaged_card_is_refused(tmp_path: Path) -> None:
    candidate().save(tmp_path)
    (tmp_path / "card.json").write_text("{}")
    with pytest.raises(BadInput, match=r"card\.json: damaged or of another version; it lacks .*seeds"):
        Candidate.load(tmp_path)


def study() -> Study:
    return Study(
        records=({"number": 0, "setting": {"lr_max1": 0.1}},),
        front=(0,),
        space={"defense": "fine_tuning"},
        sampler="tpe",
        seed=0,
        trials=1,
        suspect_digest="x",
        seconds=1.5,
        workers=1,
        reference=Rate.of(9, 10),
    )


def assessment(suspect: Suspect) -> Assessment:
    view, twin = suspect.test_view(), state_of(victim().twin)
    sanitized = Subject(states=(twin, twin), setting={"a": 1})
    subjects = {"suspect": Subject(states=(suspect.state,)), "candidate": sanitized}
    seen = examine(view, subjects)
    read = membership(view, subjects, seen, trained_on=suspect.bench.splits.clean_set, same_images=None)
    row = seen["candidate"].row
    assert read.suspect_members is not None
    assert row.accuracy_drop is not None
    evidence = Evidence(
        attack_success_rate=row.attack_success_rate,
        accuracy_drop=row.accuracy_drop,
        class_drops=class_drops(seen["suspect"].readings, seen["candidate"].readings),
        membership_auc_rise=read.suspect_members.rise,
    )
    limits = ("attack_success_rate", "accuracy_drop", "class_accuracy_drop", "membership_auc_rise")
    return Assessment(
        suspect=seen["suspect"].row,
        references={},
        selected=row,
        never_poisoned=None,
        sequela=Sequela(membership=read, reinjection=None),
        checks=Gate(**{f"max_{limit}": 0.1 for limit in limits}).judge(evidence),
        membership_auc_rise=read.suspect_members.rise,
        test_looks=1,
        weights_digest=weights_digest(twin),
    )


def test_studies_and_assessments_come_back_as_they_were(tmp_path: Path) -> None:
    for name, made in (("search", study()), ("assess", assessment(injected()))):
        made.save(tmp_path / name)
        assert type(made).load(tmp_path / name) == made


@pytest.mark.parametrize("cls", [Study, Assessment])
@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"front": 3, "surprise": 1}'])
def test_a_damaged_card_is_bad_input_that_names_the_file(tmp_path: Path, cls: Any, content: str) -> None:
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(BadInput, match=rf"{tmp_path}/card\.json: "):
        cls.load(tmp_path)
