"""Every door through which a file comes in: how good files are made for it, and what opening them means."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raybd.artifacts import Suspect
from raybd.imagesets import ImageSet
from raybd.registry import as_json, digest_of
from raybd.search.space import Space
from raybd.settings import load_study
from raybd.sources import load_source
from raybd.stages.cards import load_card
from raybd.suspect import planted_trigger, test_looks
from raybd.tracking.outbox import Outbox
from raybd.tracking.sender import read_state
from raybd.triggers.pictures import pattern_of
from raybd.weights import check_finite, load_into, load_weights, state_of
from tests.digits import TINY
from tests.search.fakes import open_decider
from tests.security import valid


@dataclass(frozen=True, kw_only=True)
class Loader:
    """A door.

    `make` writes good files into a folder; `load` opens one of them as raybd does, and uses what it got as far as a
    valid object must allow. `share` says how large a part of a fuzzing run it gets.
    """

    make: Callable[[Path], None]
    load: Callable[[Path], Any]
    share: float
    read_only: bool = True


def _weights(path: Path) -> None:
    state = load_weights(path, key="net" if path.stem == "nested" else None)
    model = TINY.build(0)
    load_into(model, state)
    check_finite(state_of(model), path.name)


def _suspect(path: Path) -> None:
    suspect = Suspect.load(path.parent, valid.bench())
    test_looks(path.parent)
    planted_trigger(path.parent)
    as_json(suspect.card())


def _card(path: Path) -> None:
    digest_of(load_card(path.parent, path.parent.name))


def _study(path: Path) -> None:
    settings = load_study(path.with_name("study.yaml") if path.name == "space.yaml" else path)
    settings.identity()
    settings.load_space()


def _space(path: Path) -> None:
    space = Space.load(str(path), path.parent)
    space.digest()
    space.build(space.at([0.5] * len(space.search)))


def _npz(path: Path) -> None:
    source = load_source(path.name, folder=path.parent)
    assert isinstance(source.train, ImageSet)
    source.train.digest()


def _picture(path: Path) -> None:
    if path.suffix == ".npy":
        pattern_of(path, 3, "trigger")
    else:
        load_source("images", folder=path.parents[2], size=8)


def _journal(path: Path) -> None:
    with open_decider(path.parent, trials=7) as decider:
        decider.ask()
        decider.records()


def _outbox(path: Path) -> None:
    read_state(path.parent)
    Outbox(path.parent).records()


LOADERS: dict[str, Loader] = {
    "weights": Loader(make=valid.weights, load=_weights, share=0.22),
    "suspect": Loader(make=valid.suspect, load=_suspect, share=0.08),
    "card": Loader(make=valid.cards, load=_card, share=0.2),
    "study": Loader(make=valid.study, load=_study, share=0.08),
    "space": Loader(make=valid.space, load=_space, share=0.1),
    "npz": Loader(make=valid.npz, load=_npz, share=0.14),
    "pictures": Loader(make=valid.pictures, load=_picture, share=0.05),
    "journal": Loader(make=valid.journal, load=_journal, share=0.05, read_only=False),
    "outbox": Loader(make=valid.outbox, load=_outbox, share=0.08),
}


@dataclass
class Bench:
    """One loader with its good files, whose contents are put back after each bad one."""

    loader: Loader
    folder: Path

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.loader.make(self.folder)
        self.good = {path: path.read_bytes() for path in sorted(self.folder.rglob("*")) if path.is_file()}

    def open(self, path: Path, content: bytes) -> None:
        """Put `content` in the place of a good file, open it, and put everything back as it was."""
        path.write_bytes(content)
        try:
            with warnings.catch_warnings(action="ignore"):
                self.loader.load(path)
        finally:
            self.left = path.read_bytes()
            for each in self.folder.rglob("*"):
                if each.is_file() and each not in self.good:
                    each.unlink()
            path.write_bytes(self.good[path])
