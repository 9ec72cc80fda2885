"""Mappings become checked components and go back to JSON unchanged; every refusal says where, what and what else."""

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raybd.registry import (
    BadInput,
    as_json,
    as_number,
    build,
    construct,
    describe,
    digest_of,
    nearest,
    read_json,
    revive,
    write_json,
)


@pytest.fixture(scope="module", autouse=True)
def _denormals() -> None:
    """A training in this process, of another file's tests, made them zero, and hypothesis needs them."""
    torch.set_flush_denormal(False)


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise BadInput(f"rate: expected at most 1, got {self.rate}")


@dataclass(frozen=True, kw_only=True)
class Outer:
    kind: ClassVar[str] = "outer"
    lr_max1: float
    epochs: int = 1
    flip: bool = False
    text: str = ""
    scope: Literal["whole", "head"] = "whole"
    sizes: tuple[int, ...] = ()
    inner: Inner = field(default_factory=Inner)
    path: Path | None = None
    anything: Any = None
    named: dict[str, Inner | None] = field(default_factory=dict)
    secret: int = field(default=0, repr=False)


TABLE = {"outer": Outer}


def test_yaml_text_such_as_1e_4_is_a_number() -> None:
    assert as_number("1e-4", where="lr") == 1e-4
    assert construct(Outer, {"lr_max1": "1e-4", "epochs": "1e1"}, where="x") == Outer(lr_max1=1e-4, epochs=10)


@pytest.mark.parametrize("value", [True, None, "fast", "nan", "inf", math.nan, [1], 10**400])
def test_what_is_no_finite_number_is_refused_by_name(value: object) -> None:
    with pytest.raises(BadInput, match=r"search.lr: expected a number, got"):
        as_number(value, where="search.lr")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"lr_max1": 1, "lrmax1": 2}, "trial: unknown key 'lrmax1'; did you mean 'lr_max1'?"),
        ({"lr_max1": 1, 3: 2}, "trial: unknown key '3'; known: anything, epochs"),
        ({}, "trial: missing key 'lr_max1'"),
        ({"lr_max1": "fast"}, "trial.lr_max1: expected a number, got 'fast'"),
        ({"lr_max1": 1, "epochs": 1.5}, "trial.epochs: expected a whole number, got 1.5"),
        ({"lr_max1": 1, "epochs": True}, "trial.epochs: expected a number, got True"),
        ({"lr_max1": 1, "flip": 1}, "trial.flip: expected bool, got 1"),
        ({"lr_max1": 1, "text": 3}, "trial.text: expected str, got 3"),
        ({"lr_max1": 1, "scope": "haed"}, "trial.scope: got 'haed'; did you mean 'head'?"),
        ({"lr_max1": 1, "sizes": [1, "x"]}, r"trial.sizes\[1\]: expected a number, got 'x'"),
        ({"lr_max1": 1, "sizes": "12"}, "trial.sizes: expected tuple, got '12'"),
        ({"lr_max1": 1, "inner": {"rat": 1}}, "trial.inner: unknown key 'rat'; did you mean 'rate'?"),
        ({"lr_max1": 1, "inner": {"rate": 2}}, "trial.inner: rate: expected at most 1, got 2.0"),
        ({"lr_max1": 1, "inner": 2}, "trial.inner: expected Inner, got 2"),
        ([1], r"trial: expected a mapping, got \[1\]"),
    ],
)
def test_what_cannot_be_constructed_is_named_with_place_key_and_nearest(mapping: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message.replace("?", r"\?")):
        construct(Outer, mapping, where="trial")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"kind": "outre", "lr_max1": 1}, "attack.kind: unknown 'outre'; did you mean 'outer'"),
        ({"kind": ["outer"], "lr_max1": 1}, "attack.kind: unknown"),
        ({"lr_max1": 1}, "attack: expected a mapping with a 'kind', one of outer"),
        ("outer", "attack: expected a mapping with a 'kind'"),
        ({"kind": "outer", "lr_max1": None}, "attack.lr_max1: expected a number, got None"),
    ],
)
def test_what_cannot_be_built_is_named_too(mapping: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build(TABLE, mapping, where="attack")


def test_nothing_near_means_all_known_words_are_listed() -> None:
    assert nearest("zzz", ["b", "a"]) == "; known: a, b"
    assert nearest("zzz", []) == "; known: none"


def test_a_union_takes_the_first_type_that_fits_and_a_path_may_be_digits() -> None:
    built = construct(Outer, {"lr_max1": 1, "path": "123", "inner": {"rate": "1e-1"}, "sizes": [1, "2"]}, where="x")
    assert built == Outer(lr_max1=1.0, path=Path("123"), inner=Inner(rate=0.1), sizes=(1, 2))


outers = st.builds(
    Outer,
    lr_max1=st.floats(allow_nan=False, allow_infinity=False),
    epochs=st.integers(),
    flip=st.booleans(),
    text=st.text(),
    scope=st.sampled_from(["whole", "head"]),
    sizes=st.lists(st.integers()).map(tuple),
    inner=st.builds(Inner, rate=st.floats(0, 1)),
    path=st.none() | st.just(Path("a/b.png")),
    anything=st.none() | st.integers() | st.lists(st.text()),
    named=st.dictionaries(st.text(), st.none() | st.builds(Inner)),
)


@settings(max_examples=40)
@given(outers)
def test_json_and_back_is_the_same_object(outer: Outer) -> None:
    assert revive(Outer, json.loads(json.dumps(as_json(outer)))) == outer
    assert revive(list[Outer | None], as_json([outer, None])) == [outer, None]


@settings(max_examples=40)
@given(outers)
def test_what_describe_gives_build_takes(outer: Outer) -> None:
    plain = json.loads(json.dumps({k: v for k, v in describe(outer).items() if k != "named"}))
    assert describe(build(TABLE, plain, where="x")) == describe(outer) | {"named": {}}


def test_fields_that_are_not_shown_stay_out_of_json() -> None:
    assert "secret" not in as_json(Outer(lr_max1=1.0, secret=3))


@pytest.mark.parametrize(
    ("cls", "data"),
    [(Outer, {}), (Outer, {"lr_max1": 1.0, "gone": 2}), (Outer, [1]), (tuple[Outer, ...], 3), (dict[str, Outer], [1])],
)
def test_a_card_of_another_version_is_bad_input_not_a_crash(cls: Any, data: Any) -> None:
    with pytest.raises(BadInput):
        revive(cls, data)


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest_of({"a": 1, "b": [1, 2]}) == digest_of({"b": (1, 2), "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    # Fixed for good: digests are compared with those of older run folders.
    assert digest_of({"a": 1.5}) == "3b1cb40b22933d83e9242f8ac724f114d812ddd49909917b365375c24b69a455"


def test_writing_leaves_the_old_file_whole_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "card.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.nan})

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert read_json(path) == {"a": 1}
    assert [p.name for p in path.parent.iterdir()] == ["card.json"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "card.json", []
    write_json(path, {"a": 1})
    swap = Path.replace

    def spied(self: Path, target: Path) -> Path:
        seen.append((self.parent, read_json(self), read_json(path)))
        return swap(self, target)

    monkeypatch.setattr(Path, "replace", spied)
    write_json(path, {"a": 2})
    # Written beside it, on the same file system, while the old one stood; then swapped in.
    assert seen == [(tmp_path, {"a": 2}, {"a": 1})]
    assert read_json(path) == {"a": 2}


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe"])
def test_a_missing_or_broken_json_file_is_bad_input_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadInput, match=r"card\.json: "):
        read_json(path)
