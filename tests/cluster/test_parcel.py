"""What of a study travels to a cluster is what it names and its own Python files; what cannot travel is refused."""

from pathlib import Path
from typing import Any

import pytest
import studies
import yaml

from raybd.cluster import parcel
from raybd.registry import BadInput
from raybd.settings import StudySettings, load_study, parse_study


def written(folder: Path, **changes: Any) -> StudySettings:
    """A study on Ray in a file of `folder`, with everything around it that must not travel."""
    settings = studies.study(folder, **{"resources": {"executor": "ray"}} | changes)
    (folder / "study.yaml").write_text(yaml.safe_dump(settings.resolved()), encoding="utf-8")
    for stray in (".git/config", ".venv/lib/x.py", "runs/tiny/card.json", "notes.txt", "other.npz", "sub/loose.py"):
        put(folder / stray)
    return load_study(folder / "study.yaml")


def put(path: Path, size: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def refusal(settings: StudySettings) -> str:
    with pytest.raises(BadInput) as refused:
        parcel.pack(settings)
    return str(refused.value)


def test_without_a_factory_only_the_study_and_what_it_names_travel(tmp_path: Path) -> None:
    put(tmp_path / "own.py")
    settings = written(tmp_path)
    assert set(parcel.pack(settings).files) == {"study.yaml", "space.yaml"}


def test_with_a_factory_the_modules_beside_the_study_and_its_packages_travel(tmp_path: Path) -> None:
    for module in (
        "own.py",
        "blocks.py",
        "pack/__init__.py",
        "pack/deep/more.py",
        "pack/.hidden/x.py",
        "nets/small.py",
    ):
        put(tmp_path / module)
    modules = {"own.py", "blocks.py", "pack/__init__.py", "pack/deep/more.py"}
    beside = written(tmp_path, model={"name": None, "factory": "own:build"})
    assert set(parcel.pack(beside).files) - modules == {"study.yaml", "space.yaml"}
    deeper = written(tmp_path, model={"name": None, "factory": "nets.small:build"})
    assert set(parcel.pack(deeper).files) == {"study.yaml", "space.yaml", "nets/small.py", *modules}


def test_files_and_folders_named_by_a_path_travel_and_absolute_ones_are_the_clusters(tmp_path: Path) -> None:
    put(tmp_path / "weights.pth")
    put(tmp_path / "images" / "train" / "0" / "a.png")
    put(tmp_path / "images" / ".cache" / "b.png")
    put(tmp_path / "delta.npy")
    settings = written(
        tmp_path,
        model=None,
        attack=None,
        training=None,
        suspect={"name": "small_convnet", "weights": "weights.pth"},
        trigger={"kind": "additive", "pattern": "delta.npy", "target_label": 1},
        data={"source": "images", "members": {"from": "/nfs/members.npz"}},
    )
    packed = parcel.pack(settings)
    assert set(packed.files) == {"study.yaml", "space.yaml", "weights.pth", "images/train/0/a.png", "delta.npy"}
    assert packed.elsewhere == ("/nfs/members.npz",)


def test_what_travels_is_the_same_study_at_its_goal(tmp_path: Path) -> None:
    put(tmp_path / "here" / "own.py")
    settings = written(tmp_path / "here", model={"name": None, "factory": "own:build"})
    parcel.pack(settings).unpack(tmp_path / "there")
    assert load_study(tmp_path / "there" / "study.yaml").identity() == settings.identity()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("large.npz", "data.source: large.npz has 11 MiB, and files over 10 MiB do not travel; put it where every"),
        ("many", "data.source: 13 files with 110 MiB together, and over 100 MiB do not travel; put it where every"),
        ("../large.npz", "data.source: ../large.npz lies outside the study's folder"),
        ("none.npz", "data.source: no file or folder"),
    ],
)
def test_what_cannot_travel_is_refused_by_name_with_a_way_out(tmp_path: Path, source: str, said: str) -> None:
    put(tmp_path / "study" / "large.npz", size=11 * 2**20)
    for number in range(11):
        put(tmp_path / "study" / "many" / f"{number}.png", size=10 * 2**20)
    assert refusal(written(tmp_path / "study", data={"source": source})).startswith(said)


def test_a_study_that_would_compute_on_the_head_or_keep_its_runs_there_is_refused(tmp_path: Path) -> None:
    assert "resources.executor" in refusal(written(tmp_path, resources={"executor": "local"}))
    assert "tracking.uri: sqlite:///mlflow.db" in refusal(written(tmp_path, tracking={"uri": "sqlite:///mlflow.db"}))
    kept = written(tmp_path, tracking={"uri": "sqlite:////nfs/mlflow.db"})
    assert "study.yaml" in parcel.pack(kept).files


def test_a_study_that_is_no_file_cannot_travel(tmp_path: Path) -> None:
    whole = {**studies.STUDY, "resources": {"executor": "ray"}, "space": "demo"}
    with pytest.raises(BadInput, match="STUDY: no file"):
        parcel.pack(parse_study(whole, folder=tmp_path))
