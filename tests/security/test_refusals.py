"""What the corpus cannot hold in one file: links, pictures, names, factories, the outbox, the terminal."""

import json
import os
import pickle
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from raybd.cli import app
from raybd.factories import load_factory
from raybd.registry import BadInput
from raybd.screening import EXPANSION, FREE_BYTES, screen_expansion
from raybd.sources import load_source
from raybd.tracking import sync
from raybd.tracking.client import resolve_uri
from raybd.tracking.outbox import Outbox
from raybd.tracking.sender import Sender
from raybd.triggers.pictures import pattern_of
from tests.security import valid
from tests.security.corpus import Bomb, npz, saved
from tests.test_bad_input import NETS, SPACE, STUDY, changed, weights, write_npz


def picture(path: Path, size: int = 8) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((size, size), np.uint8)).save(path)
    return path


@pytest.mark.parametrize("link", ["0/x.png", "1"])
def test_a_link_out_of_an_image_folder_is_refused(tmp_path: Path, link: str) -> None:
    picture(tmp_path / "data" / "0" / "a.png")
    outside = picture(tmp_path / "outside" / "x.png")
    (tmp_path / "data" / link).symlink_to(outside if link.endswith(".png") else outside.parent)
    with pytest.raises(BadInput, match="leads out of"):
        load_source("data", folder=tmp_path)


def test_a_link_within_an_image_folder_is_an_image(tmp_path: Path) -> None:
    (tmp_path / "data" / "1").mkdir(parents=True)
    (tmp_path / "data" / "1" / "b.png").symlink_to(picture(tmp_path / "data" / "0" / "a.png"))
    assert len(load_source("data", folder=tmp_path).train) == 2


def png_of(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_read(tmp_path: Path, side: int) -> None:
    path = picture(tmp_path / "data" / "0" / "a.png")
    path.write_bytes(png_of(side, side))
    with pytest.raises(BadInput, match="decompression bomb"):
        load_source("data", folder=tmp_path, size=8)
    with pytest.raises(BadInput, match="decompression bomb"):
        pattern_of(path, 1, "trigger")


def test_no_picture_is_handed_to_another_program(tmp_path: Path) -> None:
    path = picture(tmp_path / "data" / "0" / "a.png")
    (path.parent / "b.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(%pipe%touch x) (w) file\n")
    assert len(load_source("data", folder=tmp_path).train) == 1
    (path.parent / "b.eps").rename(path)
    with pytest.raises(BadInput, match="not readable as an image"):
        load_source("data", folder=tmp_path)


def test_data_unpacks_to_a_gibibyte_or_so_many_times_its_size() -> None:
    screen_expansion(FREE_BYTES, 1)
    screen_expansion(EXPANSION * FREE_BYTES, FREE_BYTES)
    with pytest.raises(BadInput, match="would unpack to"):
        screen_expansion(FREE_BYTES + 1, 1)


def test_the_pickles_of_cifar_are_opened_by_their_checksums_alone(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    names = [name for name, _ in (*CIFAR10.train_list, *CIFAR10.test_list)]
    for name in (*names, CIFAR10.meta["filename"]):
        (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "marker")))
    with pytest.raises(BadInput, match="no complete copy"):
        load_source("CIFAR10", root=tmp_path, folder=tmp_path)
    assert not (tmp_path / "marker").exists()


def test_an_array_file_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 4), np.float32))
    content = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(content.replace(b"(4, 4), }      ", b"(40000, 40000)}"))
    with pytest.raises(BadInput, match="claims"):
        pattern_of(tmp_path / "a.npy", 1, "trigger")


@pytest.mark.parametrize(
    "spec",
    [
        "os:system",
        "subprocess:run",
        "builtins:eval",
        "../nets:build",
        "/nets:build",
        ".nets:build",
        "nets\x00:build",
        "nets/..:build",
        "a" * 5000 + ":build",
        "nets:__class__.x",
        ":",
        "os.path:join",
        "raybd.cli.guard:app",
    ],
)
def test_a_factory_from_elsewhere_is_refused(tmp_path: Path, spec: str) -> None:
    (tmp_path / "nets.py").write_text("def build(): ...\n")
    with pytest.raises(BadInput):
        load_factory(spec, folder=tmp_path, packages=())
    with pytest.raises(BadInput):
        load_factory(spec, folder=tmp_path, packages=("", "."))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "../../x"},
        {"name": "/x"},
        {"name": ".."},
        {"tracking": {"model_name": "../x"}},
        {"tracking": {"alias": "a/../b"}},
        {"space": "a" * 5000},
        {"space": "../" * 50 + "etc/passwd"},
        {"data__source": "a" * 5000 + ".npz"},
        {"suspect__weights": "a" * 5000 + ".pt"},
        {"suspect__weights": "models:/../../x@y"},
        {"suspect__factory": "os:system"},
    ],
)
def test_a_name_or_path_in_a_study_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    said = adopt(home(tmp_path), **changes)
    assert len(said.splitlines()) <= 3
    assert not (tmp_path / "runs").exists()


def home(folder: Path) -> Path:
    """A user's folder with a good study."""
    (folder / "nets.py").write_text(NETS, encoding="utf-8")
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE), encoding="utf-8")
    write_npz(folder / "data.npz")
    save_file(weights(), folder / "suspect.safetensors")
    return folder


def adopt(folder: Path, **changes: Any) -> str:
    """What `raybd adopt` says as it refuses: exit 2, nothing on stdout, no traceback."""
    (folder / "study.yaml").write_text(yaml.safe_dump(changed(**changes) if changes else STUDY), encoding="utf-8")
    done = CliRunner().invoke(app, ["adopt", str(folder / "study.yaml"), "--runs", str(folder / "runs")])
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        pytest.param("suspect.pt", lambda marker: saved(Bomb(marker)), "does not unpickle", id="pickle"),
        pytest.param("suspect.pt", lambda _: saved({"a": torch.zeros(1).expand(10**12)}), "claims", id="10^12"),
        pytest.param("data.npz", lambda _: npz()[:300], "data.npz", id="half-an-npz"),
        pytest.param("space.yaml", lambda m: f"!!python/object/apply:os.system [touch {m}]".encode(), "tag", id="tag"),
    ],
)
def test_the_command_line_refuses_in_words(tmp_path: Path, file: str, content: Any, said: str) -> None:
    marker = tmp_path / "marker"
    (home(tmp_path) / file).write_bytes(content(marker))
    told = adopt(tmp_path, **({"suspect__weights": file} if file.startswith("suspect") else {}))
    assert said in told
    assert not marker.exists()


def test_weights_that_are_not_finite_are_no_suspect(tmp_path: Path) -> None:
    state = {**weights(), "1.bias": torch.tensor([0.0, float("nan"), 0.0])}
    save_file(state, home(tmp_path) / "suspect.safetensors")
    assert "1.bias holds values that are not finite" in adopt(tmp_path)


def test_what_steers_a_terminal_is_shown_not_done(tmp_path: Path) -> None:
    (home(tmp_path) / "study.yaml").write_text('name: "\\x1b]0;owned\\x07"\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["validate", str(tmp_path / "study.yaml")])
    assert done.exit_code == 2
    assert "\x1b]" not in done.stderr
    assert "x1b]0;owned" in done.stderr


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("x")
    valid.outbox(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "model", "folder": "../victim"},
        {"kind": "child", "folder": "mlmodels/../../victim"},
        {"kind": "child", "folder": "mlmodels/.."},
        {"kind": "child", "folder": "mlmodels/link"},
        {"kind": "child", "files": {"x": "/etc/passwd"}},
        {"kind": "child", "texts": {"../../x": "owned"}},
        {"kind": "child", "files": {"/x": "card.json"}},
        {"kind": "child", "files": {"x": "card\0.json"}},
    ],
)
def test_a_record_that_reaches_out_of_the_run_folder_is_never_sent(run_dir: Path, changes: dict[str, Any]) -> None:
    (run_dir / "mlmodels").mkdir()
    (run_dir / "mlmodels" / "link").symlink_to(run_dir.parent / "victim")
    record = {"key": "k", "name": "n", "started": 1, "ended": 2, **changes}
    (run_dir / "outbox.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert Outbox(run_dir).records() == []
    left = Sender(None, run_dir, "tiny").flush()
    assert (left.sent, left.left) == (0, 1)
    assert (run_dir.parent / "victim" / "precious").exists()


def test_a_run_folder_does_not_say_which_server_is_sent_passwords(run_dir: Path) -> None:
    state = json.loads((run_dir / "tracking.json").read_text())
    (run_dir / "tracking.json").write_text(json.dumps({**state, "uri": "http://127.0.0.1:1"}), encoding="utf-8")
    with pytest.raises(BadInput, match=r"tracking\.uri: the study names no server"):
        sync(run_dir)


@pytest.mark.parametrize(
    "uri",
    [
        "http://me:hunter2@host",
        "postgresql://me:hunter2@db/x",
        "postgresql://db/x?password=hunter2",
        "x://a:hunter2@b",
        "http://[hunter2",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path: Path, uri: str) -> None:
    with pytest.raises(BadInput) as refused:
        resolve_uri(uri, tmp_path)
    assert "hunter2" not in str(refused.value)


def test_what_a_registry_sends_must_arrive_where_it_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow.artifacts

    from raybd.tracking import fetch, registry

    outside = tmp_path / "outside.safetensors"
    outside.write_bytes(b"x")
    held = [SimpleNamespace(path="extra_files/weights.safetensors", is_dir=False)]
    monkeypatch.setattr(registry, "_location", lambda *_: "file:///x")
    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", lambda *_, **__: held)
    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", lambda **_: os.fspath(outside))
    with pytest.raises(BadInput, match="did not arrive"):
        fetch("models:/m/1", tracking_uri=f"sqlite:///{tmp_path}/m.db", folder=tmp_path / "to")
    held[0].is_dir = True
    with pytest.raises(BadInput, match="holds no extra_files"):
        fetch("models:/m/1", tracking_uri=f"sqlite:///{tmp_path}/m.db", folder=tmp_path / "to")
