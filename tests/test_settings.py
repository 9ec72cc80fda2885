"""A study file either becomes settings, or every fault in it is named by file, key, what was got and expected."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raybd.registry import BadInput
from raybd.settings import StudySettings, load_study, parse_study
from raybd.triggers import Patch

ADOPT = """
name: gtsrb-badnets
scenario: standalone
suspect:
  factory: my_nets:small_vgg
  arguments: {num_classes: 43}
  weights: gtsrb_badnets.pth
  state_dict_key: net
  normalize: null
  head: null
data:
  source: gtsrb_roi_5000_6000.npz
  clean_set: {from: train, size: 1960}
  selection: {from: test, size: 2000}
  members: {from: train}
augment: {crop: 0, flip: false}
trigger: {kind: patch, size: 4, row: 27, column: 27, value: 255, target_label: 8}
space: standalone
search: {trials: 32, sampler: tpe, seed: 0, max_accuracy_drop: 0.02}
references: [super_fine_tuning, fine_tuning]
gate:
  max_attack_success_rate: 0.05
  max_accuracy_drop: 0.03
  max_class_accuracy_drop: 0.25
  max_membership_auc_rise: 0.03
tracking: {uri: null, model_name: gtsrb-classifier, alias: candidate}
resources: {cpus_per_trial: 1, gpus_per_trial: 0}
"""
INJECT = {
    "model": {"name": "small_resnet"},
    "attack": {"kind": "badnets", "poison_ratio": 0.1, "target_label": 0},
    "training": {"epochs": 20, "lr": 0.05, "batch_size": 64},
}


def adopt(**changes: Any) -> dict[str, Any]:
    """The design's study with dotted `changes`, `__` for a dot; `...` takes a key out."""
    study: dict[str, Any] = yaml.safe_load(ADOPT)
    for dotted, value in changes.items():
        place, *path = [study, *dotted.split("__")]
        for key in path[:-1]:
            place = place[key]
        if value is ...:
            del place[path[-1]]
        else:
            place[path[-1]] = value
    return study


def inject(**changes: Any) -> dict[str, Any]:
    return {**adopt(suspect=..., trigger=..., data__members=..., **changes), **INJECT}


def parse(mapping: Any, folder: Path = Path("/studies")) -> StudySettings:
    return parse_study(mapping, folder=folder, file="study.yaml")


def faults(mapping: Any) -> list[str]:
    with pytest.raises(BadInput) as refused:
        parse(mapping)
    return str(refused.value).split("\n")


def test_the_study_of_the_design_is_read_as_written() -> None:
    study = parse(adopt())
    assert study.trigger == Patch(size=4, row=27, column=27, value=255, target_label=8)
    assert (study.search.trials, study.data.clean_set.size, study.gate.max_accuracy_drop) == (32, 1960, 0.03)
    assert (study.trigger_knowledge, study.injects, study.model_name) == ("given", False, "gtsrb-classifier")


def test_an_injected_study_knows_its_trigger_and_members() -> None:
    study = parse(inject())
    assert (study.trigger_knowledge, study.injects) == ("planted", True)
    assert study.attack is not None
    assert study.attack.trigger().target_label == 0


def test_the_resolved_study_is_complete_and_gives_the_same_study_again() -> None:
    for mapping in (adopt(), inject(), adopt(trigger="unknown")):
        whole = parse(mapping).resolved()
        assert whole["data"]["seed"] == 0
        assert whole["resources"]["precision"] == "auto"
        assert parse(whole).resolved() == whole


def test_files_count_from_the_studys_folder_and_moving_it_changes_nothing(tmp_path: Path) -> None:
    trigger = {"kind": "additive", "pattern": "delta.npy", "target_label": 1}
    here, there = parse(adopt(trigger=trigger), tmp_path / "a"), parse(adopt(trigger=trigger), tmp_path / "b")
    assert here.trigger.pattern == tmp_path / "a" / "delta.npy"
    assert here.resolved()["trigger"]["pattern"] == "delta.npy"
    assert here.identity() == there.identity()


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"search__trials": 64}, True),
        ({"tracking__uri": "http://tracking:5000"}, True),
        ({"resources__workers": 2}, True),
        ({"cluster": {"storage": "s3://bucket/runs", "placement": "pack"}}, True),
        ({"search__seed": 1}, False),
        ({"data__seed": 1}, False),
        ({"trigger__row": 26}, False),
        ({"suspect__weights": "other.pth"}, False),
    ],
)
def test_a_study_is_the_same_study_with_another_budget_tracking_or_machine(changes: dict[str, Any], same: bool) -> None:
    assert (parse(adopt(**changes)).identity() == parse(adopt()).identity()) is same


def test_one_e_minus_4_which_yaml_reads_as_text_is_a_number(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(inject()).replace("lr: 0.05", "lr: 1e-4"))
    study = load_study(tmp_path / "study.yaml")
    assert study.training is not None
    assert study.training.lr == 1e-4
    assert parse(adopt(search__max_accuracy_drop="2e-2")).search.max_accuracy_drop == 0.02
    assert parse(adopt(search__trials="1e2")).search.trials == 100


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (adopt(sapce="x"), "sapce: unknown key; did you mean 'space'?"),
        (adopt(data__clean_set__sise=3), "data.clean_set.sise: unknown key; did you mean 'size'?"),
        (adopt(gate__max_asr=0.1), "gate: unknown key 'max_asr'; known: "),
        (adopt(trigger__colum=3), "trigger: unknown key 'colum'; did you mean 'column'?"),
        (adopt(trigger__kind="pach"), "trigger.kind: unknown 'pach'; did you mean 'patch'?"),
        (adopt(trigger="unknwon"), "trigger: expected a mapping with a 'kind', or unknown, got 'unknwon'"),
        (adopt(search__trials=0), "search.trials: expected greater than or equal to 1, got 0"),
        (adopt(search__trials=True), "search.trials: expected a valid integer, got True"),
        (adopt(search__trials="many"), "search.trials: expected a valid integer, got 'many'"),
        (adopt(search__trials=2.5), "search.trials: expected a valid integer, got 2.5"),
        (adopt(search__sampler="tpee"), "search.sampler: expected 'tpe', "),
        (adopt(name="a/b"), "name: expected letters, digits"),
        (adopt(name=3), "name: expected a valid string, got 3"),
        (adopt(tracking__alias="latest"), "tracking.alias: expected letters, digits"),
        (adopt(tracking__alias="Latest"), "tracking.alias: expected letters, digits"),
        (adopt(references=["super_finetuning"]), "references: unknown defense 'super_finetuning'; did you mean "),
        (adopt(space="standalon"), "space: "),
        (adopt(scenario="standalon"), "scenario: unknown 'standalon'; did you mean 'standalone'?"),
        (adopt(data__source=...), "data.source: missing"),
        (adopt(suspect__weights=...), "suspect.weights: missing"),
        (adopt(suspect__name="small_resnet"), "suspect: expected either 'name'"),
        (adopt(trigger=...), "trigger: missing; a study of your own model gives its trigger"),
        (adopt(suspect=...), "suspect: missing; to plant a backdoor instead, give 'model'"),
        ({**adopt(), **INJECT}, "suspect: a suspect is either adopted ('suspect') or injected, but 'model', "),
        ({**inject(), "trigger": adopt()["trigger"]}, "trigger: not with 'attack', which plants its own"),
        (inject() | {"attack": None}, "attack: missing; injecting needs it"),
        (adopt(data__members=None), "gate.max_membership_auc_rise: got 0.03, but data.members is null"),
        (None, "expected a mapping of keys, got None"),
    ],
)
def test_a_fault_is_one_line_with_file_key_got_and_expected(study: Any, said: str) -> None:
    (line,) = faults(study)
    assert line.startswith(f"study.yaml: {said}")


CLUSTER = {
    "address": "https://head:8265",
    "storage": "s3://models.example/raybd",
    "s3_endpoint": "http://10.0.0.5:9000",
    "optuna": "postgresql://raybd@db:5432/raybd",
    "placement": "pack",
}


def test_a_cluster_is_part_of_the_resolved_study() -> None:
    assert parse(adopt(cluster=CLUSTER)).resolved()["cluster"] == CLUSTER
    assert parse(adopt()).resolved()["cluster"] == {**dict.fromkeys(CLUSTER), "placement": "spread"}
    assert parse(adopt(cluster={"storage": "/nfs/raybd/"})).cluster.folder == Path("/nfs/raybd")
    assert parse(adopt(cluster=CLUSTER)).cluster.folder is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adress": "x"}, "cluster.adress: unknown key; did you mean 'address'?"),
        ({"address": "ray://head:10001"}, "cluster.address: got ray://, Ray Client, under which Tune falls back"),
        ({"address": "head:8265"}, "cluster.address: expected http://HOST:PORT or https://HOST:PORT, got 'head:8265'"),
        ({"address": "http://head:port"}, "cluster.address: not readable as an address, SCHEME://HOST:PORT"),
        ({"address": 8265}, "cluster.address: expected a valid string, got 8265"),
        ({"storage": "runs"}, "cluster.storage: expected s3://BUCKET/PREFIX or the absolute path of a shared folder"),
        ({"storage": "/nfs/../etc"}, "cluster.storage: expected s3://BUCKET/PREFIX or the absolute path"),
        ({"storage": "s3://Bucket/x"}, "cluster.storage: expected s3://BUCKET or s3://BUCKET/PREFIX, got 's3://Buck"),
        ({"storage": "s3://bucket/../x"}, "cluster.storage: expected s3://BUCKET or s3://BUCKET/PREFIX"),
        ({"storage": "/nfs"}, "cluster.s3_endpoint: only with cluster.storage on S3, s3://BUCKET/PREFIX"),
        ({"s3_endpoint": "10.0.0.5"}, "cluster.s3_endpoint: expected http://HOST:PORT or https://HOST:PORT, got"),
        ({"optuna": "sqlite:///x.db"}, "cluster.optuna: expected postgresql://USER@HOST:PORT/DATABASE, got 'sqlite"),
        ({"optuna": "postgresql://db"}, "cluster.optuna: expected postgresql://USER@HOST:PORT/DATABASE, got"),
        ({"placement": "near"}, "cluster.placement: expected 'spread' or 'pack', got 'near'"),
    ],
)
def test_a_fault_in_the_cluster_is_one_line_with_what_was_expected(changes: dict[str, Any], said: str) -> None:
    [line] = faults(adopt(cluster={**CLUSTER, **changes}))
    assert line.startswith(f"study.yaml: {said}")


@pytest.mark.parametrize(
    ("section", "key", "address", "variable"),
    [
        ("cluster", "address", "http://me:hunter2@head:8265", "RAY_AUTH_TOKEN"),
        ("cluster", "address", "http://hunter2@head:8265", "RAY_AUTH_TOKEN"),
        ("cluster", "address", "ray://me:hunter2@head:10001", "8265"),
        ("cluster", "address", "http://me:hunter2/x@head:8265", "SCHEME://HOST:PORT"),
        ("cluster", "storage", "s3://id:hunter2@bucket/prefix", "AWS_SECRET_ACCESS_KEY"),
        ("cluster", "storage", "s3://hunter2@bucket/prefix", "AWS_SECRET_ACCESS_KEY"),
        ("cluster", "s3_endpoint", "http://id:hunter2@s3:9000", "AWS_SECRET_ACCESS_KEY"),
        ("cluster", "optuna", "postgresql://raybd:hunter2@db/raybd", "PGPASSWORD"),
        ("cluster", "optuna", "postgresql://raybd@db/raybd?password=hunter2", "PGPASSWORD"),
        ("tracking", "uri", "http://me:hunter2@tracking:5000", "MLFLOW_TRACKING_PASSWORD"),
        ("tracking", "uri", "ftp://me:hunter2@tracking:5000", "MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(
    section: str, key: str, address: str, variable: str
) -> None:
    [line] = faults(adopt(**{section: {key: address}}))
    assert line.startswith(f"study.yaml: {section}.{key}: ")
    assert "hunter2" not in line
    assert variable in line


def test_all_faults_are_named_at_once() -> None:
    keys = [line.split(": ")[1] for line in faults(adopt(name=3, sapce=1, search__trials=0, data__root=1))]
    assert sorted(keys) == ["data.root", "name", "sapce", "search.trials"]


def test_a_membership_limit_is_fine_when_we_inject_or_when_it_is_null() -> None:
    assert parse(inject()).gate.max_membership_auc_rise == 0.03
    assert parse(adopt(data__members=None, gate__max_membership_auc_rise=None)).data.members is None


def test_an_unknown_trigger_is_accepted_and_said_to_be_none() -> None:
    assert parse(adopt(trigger="unknown")).trigger_knowledge == "none"


def test_the_shipped_demo_is_found_by_name_and_a_wrong_name_gets_a_hint() -> None:
    assert load_study("demo").injects
    with pytest.raises(BadInput, match="did you mean 'demo'"):
        load_study("demos")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1", "not YAML"), ("name: a\nname: b", "key 'name' is given twice"), ("\xff", "")],
)
def test_a_file_that_is_no_plain_yaml_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=f"study.yaml: .*{said}"):
        load_study(path)


def test_an_attack_that_the_scenario_cannot_carry_is_said_before_its_keys(tmp_path: Path) -> None:
    """A key of the right attack is no fault of its own under the wrong one."""
    study = adopt(suspect=..., trigger=..., data__members=..., scenario="transfer") | INJECT
    study["attack"] = {"kind": "bad_encoder", "target_label": 0, "weight": 1.0}
    with pytest.raises(BadInput) as refused:
        parse_study(study, folder=tmp_path)
    assert str(refused.value) == (
        "study: attack.kind: bad_encoder cannot be planted in scenario transfer, only in encoder"
    )


def test_a_folder_is_no_study_and_the_one_in_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"STUDY: \S+ is a folder$"):
        load_study(tmp_path)
    (tmp_path / "study.yaml").touch()
    with pytest.raises(BadInput, match=r"STUDY: \S+ is a folder; did you mean \S+/study\.yaml\?$"):
        load_study(tmp_path)
