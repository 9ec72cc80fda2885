"""The whole flow, in process, on digits: what comes out, what is refused, and what is never looked at."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

from raybd import pipeline, tracking
from raybd.artifacts import GateRefused, NothingFeasible
from raybd.data import ImageSet
from raybd.defenses import SuperFineTuning
from raybd.registry import BadInput, as_json
from raybd.settings import StudySettings, load_study, parse_study
from raybd.stages import preparation
from raybd.weights import load_weights, weights_digest
from tests.studies import SPACE, adopting, card, contents, study

IMPOSSIBLE = {
    **SPACE,
    "search": {**SPACE["search"], "lr_max1": {"type": "float", "low": 1e-5, "high": 2e-5}},
    "first": [],
}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudySettings, Path]:
    """A finished run that was promoted, and the folder of its runs; tests only read it."""
    folder = tmp_path_factory.mktemp("flow")
    settings = study(folder)
    pipeline.run(settings, runs=folder / "runs")
    return settings, folder / "runs"


def test_a_run_ends_with_a_report_and_the_summary_that_later_tools_read(done: tuple[StudySettings, Path]) -> None:
    run = done[1] / "tiny"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert (run / "report.html").stat().st_size > 0
    for row in (summary["suspect"], summary["references"]["super_fine_tuning"], summary["selected"]):
        for rate in ("clean_accuracy", "attack_success_rate", "robust_accuracy"):
            assert {"rate", "n", "low", "high"} <= row[rate].keys()
    assert summary["selected"]["setting"]
    search = summary["search"]
    assert search["trials"] == search["complete"] + search["pruned"] == 2
    assert search["collapsed"] <= search["complete"]
    assert search["trials_per_hour"] > 0
    assert summary["registry"] == {
        "name": "tiny",
        "version": "1",
        "alias": "candidate",
        "promoted": True,
        "refusals": [],
    }


def test_the_backdoor_was_there_and_is_gone_on_images_nobody_chose_on(done: tuple[StudySettings, Path]) -> None:
    assessed = card(done[1], "assess")
    assert assessed["suspect"]["attack_success_rate"]["low"] > 0.9
    assert assessed["selected"]["attack_success_rate"]["high"] < 0.2
    assert assessed["never_poisoned"]["attack_success_rate"]["rate"] < 0.1
    assert assessed["test_looks"] == 1


def test_what_is_registered_is_bit_for_bit_what_the_gate_judged(
    done: tuple[StudySettings, Path], tmp_path: Path
) -> None:
    runs = done[1]
    uri = f"sqlite:///{runs / 'tiny' / 'mlflow.db'}"
    fetched = tracking.fetch("models:/tiny@candidate", tracking_uri=uri, folder=tmp_path)
    digest = weights_digest(load_weights(fetched))
    assert digest == card(runs, "assess")["weights_digest"] == card(runs, "select")["weights_digest"]


def test_a_promoted_model_can_be_adopted_from_the_registry(done: tuple[StudySettings, Path], tmp_path: Path) -> None:
    uri = f"sqlite:///{done[1] / 'tiny' / 'mlflow.db'}"
    again = adopting(
        tmp_path,
        name="again",
        suspect={"name": "small_convnet", "weights": "models:/tiny@candidate"},
        tracking={"uri": uri},
    )
    suspect = pipeline.adopt(again, runs=tmp_path / "runs")
    assert weights_digest(suspect.state) == card(done[1], "select")["weights_digest"]
    assert card(tmp_path / "runs", "adopt", "again")["facts"]["origin"] == "models:/tiny@candidate"


def test_a_registry_address_without_a_registry_is_refused(tmp_path: Path) -> None:
    settings = adopting(
        tmp_path,
        suspect={"name": "small_convnet", "weights": "models:/tiny@candidate"},
    )
    with pytest.raises(BadInput, match=r"tracking\.uri is null"):
        pipeline.adopt(settings, runs=tmp_path / "runs")


def test_a_second_run_repeats_nothing(done: tuple[StudySettings, Path]) -> None:
    settings, runs = done
    stages: list[str] = []
    kept: list[str] = []
    pipeline.run(settings, runs=runs, on_stage=stages.append, on_kept=kept.append)
    assert stages == ["report"]
    assert kept == ["inject", "search", "select", "assess", "promote"]
    assert card(runs, "assess")["test_looks"] == 1


def test_single_words_refuse_what_would_cost_a_search_and_say_how_to_go_on(
    done: tuple[StudySettings, Path], tmp_path: Path
) -> None:
    """Unlike `run`, which keeps what is done; on the command line it is the same."""
    settings = done[0]
    runs = Path(shutil.copytree(done[1], tmp_path / "runs"))
    before = contents(runs)
    with pytest.raises(BadInput, match="`run` goes on with it"):
        pipeline.inject(settings, runs=runs)
    with pytest.raises(BadInput, match=r"resume=True, extend=N\); `run` goes on by itself"):
        pipeline.search(settings, runs=runs)
    assert contents(runs) == before
    records = card(runs, "search")["records"]
    assert [as_json(record) for record in pipeline.search(settings, runs=runs, resume=True).records] == records


def test_the_resolved_study_is_the_one_that_ran(
    done: tuple[StudySettings, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back, it is the same study; and a trial's defense holds the fields of space and setting, no defaults."""
    settings = done[0]
    runs = Path(shutil.copytree(done[1], tmp_path / "runs"))
    text = (runs / "tiny" / "study.yaml").read_text(encoding="utf-8")
    assert parse_study(yaml.safe_load(text), folder=settings.folder).identity() == settings.identity()
    ran: list[SuperFineTuning] = []
    original = SuperFineTuning.run

    def spy(self: SuperFineTuning, *args: Any, **kwargs: Any) -> Any:
        ran.append(self)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(SuperFineTuning, "run", spy)
    pipeline.search(settings, runs=runs, resume=True, extend=1)
    record = card(runs, "search")["records"][-1]
    (defense,) = ran
    fields = dataclasses.asdict(defense)
    assert {k: fields[k] for k in record["setting"]} == record["setting"]
    assert {k: fields[k] for k in SPACE["fixed"]} == SPACE["fixed"]


def test_same_study_and_seed_twice_propose_the_same_and_measure_the_same(tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        settings = study(tmp_path / name, training={"epochs": 3}, search={"trials": 3})
        pipeline.inject(settings, runs=tmp_path / name / "runs")
        pipeline.search(settings, runs=tmp_path / name / "runs")
        records.append(card(tmp_path / name / "runs", "search")["records"])
    for one, other in zip(*records, strict=True):
        for varying in ("training_seconds", "evaluation_seconds", "worker"):
            del one[varying], other[varying]
        assert one == other


def test_search_and_select_finish_without_a_single_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = study(tmp_path, search={"trials": 1})
    pipeline.inject(settings, runs=tmp_path / "runs")
    original = preparation.bench

    class NoImages(ImageSet):
        """Stands where the test images were: it has their length and digest, which the card names, and no pixels."""

        def __init__(self, images: ImageSet) -> None:
            object.__setattr__(self, "facts", (len(images), images.digest()))

        def __len__(self) -> int:
            return self.facts[0]

        def digest(self) -> str:
            return self.facts[1]

        def __getattribute__(self, name: str) -> Any:
            if name in ("images", "labels", "subset", "shape"):
                raise AssertionError(f"a look at the test split: {name}")
            return super().__getattribute__(name)

    def blind(given: StudySettings, home: Path | None = None) -> Any:
        ready = original(given, home)
        object.__setattr__(ready.splits, "test", NoImages(ready.splits.test))
        return ready

    monkeypatch.setattr(preparation, "bench", blind)
    pipeline.search(settings, runs=tmp_path / "runs")
    assert pipeline.select(settings, runs=tmp_path / "runs").card["number"] >= 0
    with pytest.raises(AssertionError, match="a look at the test split"):
        pipeline.assess(settings, runs=tmp_path / "runs")


def test_nothing_feasible_is_said_with_the_nearest_points_and_promotes_nothing(tmp_path: Path) -> None:
    settings = study(tmp_path, space=IMPOSSIBLE, training={"epochs": 5})
    with pytest.raises(NothingFeasible, match="Nearest"):
        pipeline.run(settings, runs=tmp_path / "runs")
    run = tmp_path / "runs" / "tiny"
    assert not (run / "promote").exists()
    assert not (run / "assess").exists()
    assert json.loads((run / "summary.json").read_text(encoding="utf-8"))["selected"] is None
    assert "No trial meets the gate" in (run / "report.html").read_text(encoding="utf-8")


def test_a_refusal_names_each_failed_limit_and_registers_nothing(tmp_path: Path) -> None:
    """The gate on class accuracy is judged on test alone, so that only `promote` can fail it."""
    gate = {"max_class_accuracy_drop": 0.0001, "max_membership_auc_rise": 0.0001}
    settings = study(tmp_path, gate=gate, search={"trials": 1}, references=[])
    with pytest.raises(GateRefused) as refused:
        pipeline.run(settings, runs=tmp_path / "runs")
    assert "class" in str(refused.value)
    assert str(refused.value).count("\n- ") >= 1
    promoted = card(tmp_path / "runs", "promote")
    assert promoted["version"] is None
    assert not promoted["promoted"]


def test_weights_changed_after_selection_are_not_promoted(tmp_path: Path, done: tuple[StudySettings, Path]) -> None:
    settings, runs = done
    weights = runs / "tiny" / "select" / "weights.safetensors"
    before = weights.read_bytes()
    state = load_weights(weights)
    name = next(n for n, t in state.items() if t.is_floating_point())
    state[name] = state[name] + 1
    try:
        safetensors.torch.save_file(state, weights)
        with pytest.raises(BadInput, match="digest"):
            pipeline.promote(settings, runs=runs)
    finally:
        weights.write_bytes(before)


def test_weights_of_the_front_that_were_lost_are_made_again_bit_for_bit(
    tmp_path: Path, done: tuple[StudySettings, Path]
) -> None:
    settings, runs = done
    shutil.copytree(runs, tmp_path / "runs")
    trials = tmp_path / "runs" / "tiny" / "search" / "trials"
    before = contents(trials)
    shutil.rmtree(trials)
    pipeline.search(settings, runs=tmp_path / "runs", resume=True)
    assert contents(trials) == before


def test_an_unknown_trigger_is_taken_in_and_refused_by_search(tmp_path: Path, done: tuple[StudySettings, Path]) -> None:
    torch.save({"net": load_weights(done[1] / "tiny" / "inject" / "weights.safetensors")}, tmp_path / "suspect.pth")
    settings = adopting(
        tmp_path,
        suspect={"name": "small_convnet", "weights": "suspect.pth", "state_dict_key": "net"},
        trigger="unknown",
    )
    suspect = pipeline.adopt(settings, runs=tmp_path / "runs")
    assert suspect.knowledge == "none"
    with pytest.raises(BadInput, match="trigger: unknown"):
        pipeline.search(settings, runs=tmp_path / "runs")
    assert pipeline.report(settings, runs=tmp_path / "runs").is_file()


def test_a_run_folder_of_another_study_is_refused_and_left_alone(done: tuple[StudySettings, Path]) -> None:
    settings, runs = done
    other = study(settings.folder, data={"seed": 1})
    before = contents(runs)
    with pytest.raises(BadInput, match="different study"):
        pipeline.search(other, runs=runs, resume=True)
    assert contents(runs) == before


def test_the_shipped_demo_can_be_read_and_validated() -> None:
    found = pipeline.validate(load_study("demo"))
    assert (found["train"], found["clean set"], found["selection"], found["test"]) == (700, 250, 400, 447)


def test_more_trials_make_the_old_choice_out_of_date(tmp_path: Path) -> None:
    """What was chosen from the smaller search is neither reported nor promoted as the choice from the larger one."""
    settings = study(tmp_path, search={"trials": 1}, references=[])
    pipeline.run(settings, runs=tmp_path / "runs")
    pipeline.search(settings, runs=tmp_path / "runs", extend=1)
    pipeline.report(settings, runs=tmp_path / "runs")
    summary = json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text(encoding="utf-8"))
    assert summary["search"]["trials"] == 2
    assert summary["selected"] is None
    stages: list[str] = []
    pipeline.run(settings, runs=tmp_path / "runs", on_stage=stages.append)
    assert stages == ["select", "assess", "promote", "report"]


def test_a_changed_space_is_refused_with_the_run_folder_as_it_was(tmp_path: Path) -> None:
    settings = study(tmp_path, training={"epochs": 2}, search={"trials": 1})
    pipeline.inject(settings, runs=tmp_path / "runs")
    pipeline.search(settings, runs=tmp_path / "runs")
    before = contents(tmp_path / "runs")
    wider = {**SPACE, "search": {**SPACE["search"], "epochs": {"type": "int", "low": 4, "high": 30}}}
    changed = study(tmp_path, space=wider, training={"epochs": 2}, search={"trials": 1})
    for act in (
        lambda: pipeline.search(changed, runs=tmp_path / "runs", resume=True),
        lambda: pipeline.select(changed, runs=tmp_path / "runs"),
    ):
        with pytest.raises(BadInput, match="space"):
            act()
    assert contents(tmp_path / "runs") == before


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "go on with --resume"),
        ({"resume": True, "trials": 0}, "at least 1"),
        ({"extend": 0}, "at least 1"),
        ({"resume": True, "trials": 1}, "budget is 2 already"),
    ],
)
def test_a_search_is_not_gone_on_with_by_accident(
    done: tuple[StudySettings, Path], how: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        pipeline.search(done[0], runs=done[1], **how)


def test_a_given_trigger_that_does_not_work_is_warned_of(tmp_path: Path, done: tuple[StudySettings, Path]) -> None:
    torch.save(load_weights(done[1] / "tiny" / "inject" / "weights.safetensors"), tmp_path / "suspect.pth")
    settings = adopting(
        tmp_path,
        suspect={"name": "small_convnet", "weights": "suspect.pth"},
        trigger={"kind": "patch", "size": 1, "row": 0, "column": 0, "value": 10, "target_label": 0},
    )
    suspect = pipeline.adopt(settings, runs=tmp_path / "runs")
    for warnings in (suspect.card()["warnings"], pipeline.validate(settings)["warnings"]):
        assert any("trigger is weak" in warning for warning in warnings)


def test_an_edited_network_file_is_another_suspect(tmp_path: Path, done: tuple[StudySettings, Path]) -> None:
    """The weights still fit and the name is the same, but trials of two networks must not mix."""
    nets = tmp_path / "nets.py"
    source = "from raybd.architectures import small_convnet\n\n\ndef build():\n    return small_convnet(10, 1)\n"
    nets.write_text(source, encoding="utf-8")
    torch.save(load_weights(done[1] / "tiny" / "inject" / "weights.safetensors"), tmp_path / "suspect.pth")
    settings = adopting(
        tmp_path,
        suspect={"factory": "nets:build", "weights": "suspect.pth"},
    )
    pipeline.adopt(settings, runs=tmp_path / "runs")
    nets.write_text(source + "# edited\n", encoding="utf-8")
    with pytest.raises(BadInput, match="architecture"):
        pipeline.search(settings, runs=tmp_path / "runs")
