"""Hostile files, made by code: each takes the place of a good file beside the others that its loader needs."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from tests.security.valid import state


@dataclass(frozen=True, kw_only=True)
class Case:
    """A file called `file` for `loader`; `make` gives its bytes, told which file would betray that code ran."""

    loader: str
    file: str
    name: str
    make: Callable[[Path], bytes]

    @property
    def id(self) -> str:
        return f"{self.loader}-{self.name}"


@dataclass(frozen=True)
class Bomb:
    """What runs a command once it is unpickled."""

    marker: Path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


def _torch_zip(pickled: bytes, storage: bytes = b"\0" * 4, packed: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packed) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/version", b"3\n")
        archive.writestr("archive/data/0", storage)
    return out.getvalue()


def saved(held: Any, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(held, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def _repacked(content: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))
    return out.getvalue()


def _shared_tuples() -> bytes:
    """A dictionary whose key is a tuple of a tuple of a tuple, twice each: hashing it takes 2^60 steps."""
    return _torch_zip(b"\x80\x02}K\x01\x85" + b"q\x01h\x01\x86" * 60 + b"K\x01s.")


def _bytearrays() -> bytes:
    return _torch_zip(b"\x80\x02cbuiltins\nbytearray\n\x8a\x05" + (50 * 10**9).to_bytes(5, "little") + b"\x85R.")


def _safetensors(header: Any, data: bytes = b"", *, claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if claimed is None else claimed).to_bytes(8, "little") + text + data


def _tensor(dtype: str, shape: list[int], size: int) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}


def _with(value: float, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    changed = {name: tensor.clone() for name, tensor in state().items()}
    name = next(n for n, t in changed.items() if t.ndim == 4)
    changed[name] = changed[name].to(dtype)
    changed[name].flatten()[0] = value
    return changed


def _weights() -> Iterator[tuple[str, str, Callable[[Path], bytes]]]:
    whole = state()
    yield "w.pt", "pickle bomb", lambda marker: saved({"a": Bomb(marker)})
    yield "nested.pt", "pickle bomb beside good weights", lambda marker: saved({"net": whole, "x": Bomb(marker)})
    yield "legacy.pth", "legacy pickle bomb", lambda marker: saved(Bomb(marker), legacy=True)
    yield "legacy.pth", "bare pickle bomb", lambda marker: pickle.dumps(Bomb(marker))
    yield "w.pt", "whole pickled module", lambda _: saved(torch.nn.Linear(1, 1))
    yield "w.pt", "bytearray of 50 GB", lambda _: _bytearrays()
    yield "w.pt", "tuples that share", lambda _: _shared_tuples()
    yield "w.pt", "one number as 10^12", lambda _: saved({"a": torch.zeros(1).expand(10**12)})
    yield "w.pt", "sparse of 10^12", lambda _: saved({"a": torch.sparse_coo_tensor(size=(10**6, 10**6))})
    yield "w.pt", "meta", lambda _: saved({"a": torch.zeros(10**6, device="meta")})
    yield "w.pt", "compressed", lambda _: _repacked(saved({"a": torch.zeros(2**22)}))
    yield "w.pt", "names that are no text", lambda _: saved(dict(enumerate(whole.values())))
    yield "w.safetensors", "names that steer a terminal", lambda _: save({"\x1b]0;x\x07": torch.zeros(1)})
    yield "w.safetensors", "header of 2^64", lambda _: _safetensors(b"{}", claimed=2**64 - 1)
    yield "w.safetensors", "header of 100 GB", lambda _: _safetensors(b"{}" + b" " * 99, claimed=10**11)
    yield "w.safetensors", "tensor of 10^12", lambda _: _safetensors(_tensor("F32", [10**12], 4 * 10**12))
    yield "w.safetensors", "shape without bytes", lambda _: _safetensors(_tensor("F32", [10**12], 4), b"\0" * 4)
    yield "w.safetensors", "shape that overflows", lambda _: _safetensors(_tensor("F32", [2**33, 2**33], 0))
    yield "w.safetensors", "no such type", lambda _: _safetensors(_tensor("X", [1], 4), b"\0" * 4)
    yield "w.safetensors", "numbers of eight bits", lambda _: save({"a": torch.zeros(4).to(torch.float8_e4m3fn)})
    yield "w.safetensors", "nested header", lambda _: _safetensors(b'{"a":' * 20_000)
    yield "w.safetensors", "nan", lambda _: save(_with(float("nan")))
    yield "w.safetensors", "infinite", lambda _: save(_with(float("-inf")))
    yield "w.safetensors", "finite only in double precision", lambda _: save(_with(1e300, torch.float64))
    yield "w.safetensors", "whole numbers for real ones", lambda _: save(_with(1, torch.int64))
    yield "w.safetensors", "complex", lambda _: save(_with(1, torch.complex64))
    for sixteenth in range(16):
        for file, content in (("w.safetensors", save(whole)), ("w.pt", saved(whole))):
            yield file, f"{sixteenth} sixteenths of {file}", _cut(content, sixteenth)
        yield "legacy.pth", f"{sixteenth} sixteenths of legacy.pth", _cut(saved(whole, legacy=True), sixteenth)


def _cut(content: bytes, sixteenth: int) -> Callable[[Path], bytes]:
    return lambda _: content[: len(content) * sixteenth // 16]


def npz(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **{"x_train": np.zeros((4, 8, 8), np.uint8), "y_train": np.arange(4) % 2, **arrays})
    return out.getvalue()


def _archive(members: dict[str, bytes], *, claimed: int | None = None, encrypted: bool = False) -> bytes:
    """A zip whose directory may claim another size of its first member, or that it is encrypted."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    data = bytearray(out.getvalue())
    entry = data.index(b"PK\x01\x02")
    if claimed is not None:
        data[entry + 24 : entry + 28] = struct.pack("<I", claimed)
    if encrypted:
        data[entry + 8] |= 1
    return bytes(data)


def npy(header: str) -> bytes:
    """The start of an array file of version 1.0, whatever its header says."""
    padded = header.ljust(118) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(padded)) + padded.encode() + b"\0" * 64


def _header(descr: str, shape: str) -> bytes:
    return npy(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}")


def _npz() -> Iterator[tuple[str, str, Callable[[Path], bytes]]]:
    good = _header("'|u1'", "(1, 8, 8)")

    def pickled(marker: Path) -> bytes:
        bomb = np.empty(1, dtype=object)
        bomb[0] = Bomb(marker)
        return npz(x_train=bomb)

    yield "plain.npz", "pickled objects", pickled
    yield "plain.npz", "zip slip", lambda _: _archive({"../../../x_train.npy": good, "y_train.npy": good})
    yield "plain.npz", "zip slip of Windows", lambda _: _archive({"..\\..\\x_train.npy": good})
    yield "plain.npz", "array of 10^12", lambda _: _archive({"x_train.npy": _header("'|u1'", "(1000000000000,)")})
    yield "plain.npz", "negative shape", lambda _: _archive({"x_train.npy": _header("'|u1'", "(-1, 8, 8)")})
    yield "plain.npz", "letters of a gigabyte", lambda _: _archive({"x_train.npy": _header("'<U268435456'", "(1,)")})
    yield "plain.npz", "header that is code", lambda _: _archive({"x_train.npy": npy("__import__('os').getpid()")})
    yield "plain.npz", "deep header", lambda _: _archive({"x_train.npy": npy("(" * 110)})
    yield "plain.npz", "zip bomb", lambda _: _archive({"x_train.npy": good}, claimed=2**31)
    yield "plain.npz", "encrypted", lambda _: _archive({"x_train.npy": good}, encrypted=True)
    yield "plain.npz", "no zip at all", lambda _: b"PK\x03\x04" + b"\0" * 200
    yield "plain.npz", "real numbers", lambda _: npz(x_train=np.zeros((4, 8, 8)))
    yield "plain.npz", "five dimensions", lambda _: npz(x_train=np.zeros((4, 1, 1, 8, 8), np.uint8))
    yield "plain.npz", "labels beyond counting", lambda _: npz(y_train=np.array([0, 1, 2, 2**62]))
    yield "plain.npz", "labels of 64 bits", lambda _: npz(y_train=np.array([0, 1, 2, 2**63], np.uint64))
    yield "plain.npz", "structured", lambda _: npz(x_train=np.zeros(4, [("a", "u1")]))
    for sixteenth in range(16):
        yield "plain.npz", f"{sixteenth} sixteenths", _cut(npz(), sixteenth)


YAML_BOMB = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
MERGE_BOMB = "a0: &a0 {k: v}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 10)
)


def _yaml() -> Iterator[tuple[str, Callable[[Path], bytes]]]:
    yield "object tag", lambda marker: f"name: !!python/object/apply:os.system ['touch {marker}']\n".encode()
    yield "new object tag", lambda marker: f"!!python/object/new:os.system ['touch {marker}']\n".encode()
    yield "name tag", lambda _: b"name: !!python/name:os.system\n"
    yield "module tag", lambda _: b"name: !!python/module:os\n"
    texts = {
        "nine levels of aliases": YAML_BOMB,
        "nine levels of merges": MERGE_BOMB,
        "what holds itself": "&a [*a]",
        "deep lists": "[" * 100_000,
        "deep mappings": "".join(" " * i + "a:\n" for i in range(400)),
        "a megabyte": "a: 1\n" * 200_000,
        "many keys": "{" + ", ".join(f"k{i}: 1" for i in range(20_000)) + "}",
        "a huge number": "a: 0x" + "f" * 100_000,
        "an endless number": "a: " + "9" * 100_000,
        "an infinite number": "search: {trials: .inf}",
        "a date": "name: 2001-01-01",
        "a number that is none": "name: !!int x",
        "a time that is none": "name: !!timestamp x",
        "bytes": "name: !!binary aGk=",
        "a key twice": "name: a\nname: b",
        "half a character": 'name: "\\ud800"',
        "no mapping": "[1, 2]",
        "nothing": "",
        "null bytes": "name: a\0",
        "kinds that are no words": "defense: [a]\nattack: {kind: [a]}\nsearch: {lr: {type: [a]}}",
    }
    yield from ((name, lambda _, text=text: text.encode()) for name, text in texts.items())


def hostile_json() -> Iterator[tuple[str, bytes]]:
    yield "deep", b"[" * 200_000
    yield "deep enough", b'{"a":' * 100 + b"1" + b"}" * 100
    yield "not a number", b'{"seconds": NaN}'
    yield "infinite", b'{"seconds": 1e999}'
    yield "endless number", b"9" * 5000
    yield "no text", b"\xff\xfe\x00"
    yield "nothing", b""
    yield "a list", b"[]"
    yield "a word", b'"card"'
    yield "half a character", b'{"a": "\\ud800"}'


CARDS = tuple(f"{word}/card.json" for word in ("search", "select", "assess", "promote"))


def cases() -> list[Case]:
    """All of them; every one is refused."""
    found = [Case(loader="weights", file=file, name=name, make=make) for file, name, make in _weights()]
    found += [Case(loader="npz", file=file, name=name, make=make) for file, name, make in _npz()]
    for name, make in _yaml():
        found.append(Case(loader="study", file="study.yaml", name=name, make=make))
        found.append(Case(loader="space", file="space.yaml", name=name, make=make))
    for name, content in hostile_json():
        files = [("suspect", "card.json"), ("suspect", "splits.json"), ("outbox", "tracking.json")]
        for loader, file in (*files, *(("card", card) for card in CARDS)):
            found.append(Case(loader=loader, file=file, name=f"{file} {name}", make=lambda _, content=content: content))
        middle = b'{"op_code":5}\n' + content + b"\n" + b'{"op_code":5}\n'
        found.append(
            Case(loader="journal", file="journal.log", name=f"{name} inside", make=lambda _, middle=middle: middle)
        )
    return found
