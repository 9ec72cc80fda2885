"""Structure-aware mutations: a valid file bent where its format is read, or bit by bit, as random numbers say."""

import copy
import io
import json
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 2, 2**31, 2**63, 2**70, 10**30, 0.5, -0.0, 1e308, 5e-324, "", "x", "0", "nan", "1e999"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "os:system",
        "os.system",
        "models:/../x@y",
        "a\0b",
        "\x1b]0;x\x07",
        "a" * 3000,
    ),
    *("\u202e", "😀", [], {}, [[]], [None], {"kind": "os"}, {"": []}, [1] * 40, {"a": {"b": {"c": [{}]}}}),
)
TEXTS = (
    b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b"[" * 3000, b'{"a":' * 3000, b"\xff\xfe",
    b"!!python/object/apply:os.system [touch x]", b"!!python/name:os.system", b"&a [*a]", b"*gone", b"!!binary x",
    b"!!timestamp x", b"2001-01-01", b".inf", b"{<<: {a: 1}}", b"? [a]", b"!!int x", b"- - - -", b"\t", b"\0",
    b"%TAG ! x", b"--- a\n--- b", b"'", b'"',
)  # fmt: skip
GLOBALS = (
    *(b"os system", b"builtins eval", b"builtins bytearray", b"builtins set", b"collections Counter", b"torch Size"),
    *(b"torch._utils _rebuild_sparse_tensor", b"torch._utils _rebuild_meta_tensor_no_storage", b"torch Tensor"),
    *(b"torch FloatStorage", b"torch.storage UntypedStorage", b"torch.nn.parameter Parameter", b"_codecs encode"),
)
HEADERS = (
    *(b"'shape': (1000000000000,)", b"'shape': (-1,)", b"'shape': ()", b"'shape': (2, 2)", b"'shape': (0, 9999999999)"),
    *(b"'descr': '|O'", b"'descr': '<U99999999'", b"'descr': '<f8'", b"'descr': [('a', '<i4')]", b"'descr': '>u1'"),
)


def bytes_bent(random: Random, content: bytes) -> bytes:
    """Flips, cuts, insertions, repetitions, and numbers of eight bytes made huge."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(data) + 1)
        way = random.randrange(6)
        if way == 0 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif way == 1:
            del data[at:]
        elif way == 2:
            data[at:at] = random.randbytes(random.randint(1, 16))
        elif way == 3:
            end = min(len(data), at + random.randint(1, 64))
            data[at:end] = data[at:end] * random.randint(0, 3)
        elif way == 4:
            data[at : at + 8] = random.choice((2**64 - 1, 2**63, 10**12, 0, 255)).to_bytes(8, "little")
        elif way == 5:
            data[at:at] = random.choice(TEXTS)
    return bytes(data)


def tree_bent(random: Random, value: Any) -> Any:
    """Plain data with a few of its nodes replaced, dropped, doubled, renamed or wrapped."""
    root = [copy.deepcopy(value)]
    for _ in range(random.randint(1, 3)):
        holder, key = random.choice(_places(root))
        way = random.randrange(6)
        if way <= 2:
            holder[key] = copy.deepcopy(random.choice(ODD))
        elif way == 3 and holder is not root:
            del holder[key]
        elif way == 4 and isinstance(holder, dict):
            holder[str(random.choice(ODD))] = holder.pop(key)
        elif way == 5:
            holder[key] = random.choice(([holder[key]], {"x": holder[key]}, [holder[key], copy.deepcopy(holder[key])]))
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    found, waiting = [], [root]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                waiting.append(holder[key])
    return found


def json_bent(random: Random, content: bytes) -> bytes:
    """JSON with a bent tree, and now and then a text that JSON should not hold in the place of a number or word."""
    bent = json.dumps(tree_bent(random, json.loads(content))).encode()
    if random.randrange(4) == 0:
        words = bent.split(b" ")
        words[random.randrange(len(words))] = random.choice(TEXTS)
        bent = b" ".join(words)
    return bent


def yaml_bent(random: Random, content: bytes) -> bytes:
    """YAML, which JSON is too, with a bent tree; or a line of it with something else as its value."""
    import yaml

    if random.randrange(2):
        return json.dumps(tree_bent(random, yaml.safe_load(content)), indent=1).encode()
    lines = content.split(b"\n")
    at = random.randrange(len(lines))
    key = lines[at].partition(b":")[0]
    lines[at] = key + b": " + random.choice((*TEXTS, *(json.dumps(odd).encode() for odd in ODD)))
    return b"\n".join(lines)


def lines_bent(random: Random, content: bytes) -> bytes:
    """JSON lines, one of them bent, gone, doubled or moved."""
    lines = content.splitlines(keepends=True)
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    way = random.randrange(6)
    if way <= 2:
        lines[at] = json_bent(random, lines[at]) + b"\n"
    elif way == 3:
        del lines[at]
    elif way == 4:
        lines.insert(other, lines[at])
    else:
        lines[at], lines[other] = lines[other], lines[at]
    return b"".join(lines)


def safetensors_bent(random: Random, content: bytes) -> bytes:
    """Safetensors with a bent header, a wrong length of it, or odd numbers in its tensors."""
    size = int.from_bytes(content[:8], "little")
    header, tensors = content[8 : 8 + size], bytearray(content[8 + size :])
    way = random.randrange(4)
    if way == 0:
        claimed = random.choice((2**64 - 1, 10**11, 10**8, size - 1, size + 1, 0))
        return claimed.to_bytes(8, "little") + header + tensors
    if way == 1:
        at = random.randrange(0, max(len(tensors) - 4, 1), 4)
        tensors[at : at + 4] = random.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\x7f", b"\xff\xff\x7f\x7f"))
    else:
        header = json_bent(random, header)
        if way == 2:
            header = header.replace(b'"F32"', random.choice((b'"F64"', b'"I64"', b'"F8_E4M3"', b'"BOOL"', b'"X"')), 1)
    return len(header).to_bytes(8, "little") + header + tensors


def pickle_bent(random: Random, content: bytes) -> bytes:
    """A pickle whose globals, numbers or instructions are others."""
    places = _instructions(content)
    at = random.choice(places)[1]
    end = next((later for _, later in places if later > at), len(content))
    way = random.randrange(4)
    if way == 0 and any(c.name == "GLOBAL" for c, _ in places):
        at = random.choice([a for c, a in places if c.name == "GLOBAL"])
        end = next(later for _, later in places if later > at)
        return content[:at] + b"c" + random.choice(GLOBALS).replace(b" ", b"\n") + b"\n" + content[end:]
    if way == 1:
        return content[:at] + content[at:end] * random.choice((0, 2, 3)) + content[end:]
    if way == 2:
        huge = b"\x8a\x06" + (10**12).to_bytes(6, "little")
        return (
            content[:at]
            + random.choice((huge, b"K\x00", b"N", b"0", b"\x86", b"\x85", b"(", b"R", b"b"))
            + content[end:]
        )
    return content[:at] + b"\x85" + b"q\xfah\xfah\xfa\x86" * random.randint(1, 40) + content[at:]


def _instructions(content: bytes) -> list[tuple[Any, int]]:
    """The instructions of the pickles, one or several, that `content` begins with, and where they lie."""
    stream, places = io.BytesIO(content), []
    for _ in range(5):
        try:
            places += [(code, at) for code, _, at in pickletools.genops(stream)]
        except ValueError:
            break
    return places


def npy_bent(random: Random, content: bytes) -> bytes:
    """An array whose header tells another shape or type, the length of the header kept."""
    start = content.index(b"{")
    header, rest = content[start:].split(b"\n", 1)
    told = random.choice(HEADERS)
    key = told.split(b":")[0]
    before, _, after = header.partition(key)
    end = after.index(b")") + 1 if key == b"'shape'" else after.index(b",")
    header = (before + told + after[end:]).rstrip().ljust(len(header))[: len(header)]
    return content[:start] + header + b"\n" + rest


def archive_bent(random: Random, content: bytes) -> bytes:
    """A zip, one of whose members is bent, renamed, doubled, packed otherwise or gone."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(m.filename, archive.read(m), m.compress_type) for m in archive.infolist()]
    at = random.randrange(len(members))
    name, inner, packed = members[at]
    way = random.randrange(8)
    if way <= 3:
        members[at] = (name, _member_bent(random, name, inner), packed)
    elif way == 4:
        members[at] = (random.choice(("../../../x.npy", "/tmp/x", "x", name.upper(), "a/" + name, "é")), inner, packed)
    elif way == 5:
        members.append((name, _member_bent(random, name, inner), packed))
    elif way == 6:
        members[at] = (name, inner, random.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))
    else:
        del members[at]
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive, warnings.catch_warnings(action="ignore"):
        for name, inner, packed in members:
            archive.writestr(name, inner, packed)
    return out.getvalue()


def _member_bent(random: Random, name: str, inner: bytes) -> bytes:
    if name.endswith(".pkl") and random.randrange(4):
        return pickle_bent(random, inner)
    if name.endswith(".npy") and random.randrange(4):
        return npy_bent(random, inner)
    return bytes_bent(random, inner) if inner else b"x"


_BENDERS: dict[str, Callable[[Random, bytes], bytes]] = {
    ".json": json_bent,
    ".yaml": yaml_bent,
    ".jsonl": lines_bent,
    ".log": lines_bent,
    ".safetensors": safetensors_bent,
    ".pt": archive_bent,
    ".npz": archive_bent,
    ".pth": pickle_bent,
    ".npy": npy_bent,
}


def bent(random: Random, path: Path, content: bytes) -> bytes:
    """The content of a valid file, bent as its kind is; one in four times bit by bit, whatever it is."""
    bend = _BENDERS.get(path.suffix, bytes_bent)
    changed = bend(random, content) if random.randrange(4) else bytes_bent(random, content)
    return bytes_bent(random, changed) if random.randrange(8) == 0 else changed
