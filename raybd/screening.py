"""What a file of others claims, looked at before a library believes it: headers, archives, what a pickle would build.

The libraries behind this never run code of a file. They do allocate what its header asks for, and follow its sharing
to the end; each function here refuses a file of a few KB that would cost gigabytes or hours.
"""

import io
import math
import pickletools
import warnings
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from raybd.registry import BadInput, within

HEADER_BYTES = 32 * 2**20
"""Of a safetensors file: names, types and shapes. One of 10,000 tensors has 1 MB."""
PICKLE_BYTES = 16 * 2**20
"""Of what a `.pt` says of its tensors, which lie beside it."""
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""The formats that are opened. Pillow knows dozens, and hands some of them to other programs (EPS to Ghostscript)."""
FREE_BYTES = 2**30
EXPANSION = 100
"""Data unpacks to at most so many times its size on disk, or to `FREE_BYTES`; images rarely reach ten."""
_WORK = 64
"""So much sharing, for each instruction of a pickle, may be followed: state dicts share strings and storages."""


def screen_safetensors(path: Path) -> None:
    """Refuse a header that claims more than the file holds, or than any model needs.

    Raises:
        BadInput: saying what it claims.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    claimed = int.from_bytes(head, "little")
    if len(head) < 8 or claimed > min(size - 8, HEADER_BYTES):
        raise BadInput(f"its header claims {claimed:,} bytes, the file has {size:,}; at most {HEADER_BYTES:,} are read")


def screen_torch(path: Path) -> None:
    """Refuse a `.pt` whose records are compressed or overlap, and one whose pickle asks for more than it holds.

    Raises:
        BadInput: saying what it asks for.
    """
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":  # as torch tells the formats apart
            file.seek(0)
            _screen_pickles(file.read(PICKLE_BYTES), 5)  # magic, version, machine, the object, names of its storages
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        stored = all(m.compress_type == zipfile.ZIP_STORED for m in members)
        if not stored or sum(m.file_size for m in members) > path.stat().st_size:
            raise BadInput("its records are compressed or overlap, which torch.save never does")
        for member in (m for m in members if m.filename.lower().endswith(".pkl")):
            if member.file_size > PICKLE_BYTES:
                raise BadInput(f"{member.filename} has {member.file_size:,} bytes; at most {PICKLE_BYTES:,} are read")
            _screen_pickles(archive.read(member), 1)


def _screen_pickles(data: bytes, count: int) -> None:
    stream = io.BytesIO(data)
    for _ in range(count):
        try:
            _screen_pickle(stream)
        except ValueError as error:
            if isinstance(error, BadInput):
                raise
            return  # no pickle from here on, which torch finds too, in words of its own


def _screen_pickle(stream: io.BytesIO) -> None:
    """Follow a pickle without building anything, adding up how large each object is once sharing is written out."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    work = steps = 0
    for code, argument, _ in pickletools.genops(stream):
        steps += 1
        if code.name == "GLOBAL" and str(argument).endswith(" bytearray"):
            raise BadInput("it asks for a bytearray, which may be of any size and is no part of a state dict")
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if code.name == "MEMOIZE" else argument] = stack[-1]
            continue
        before = [kind.name for kind in code.stack_before]
        popped: list[int] = []
        if "mark" in before:
            at = marks.pop()
            popped, stack = stack[at:], stack[:at]
            before = before[: before.index("mark")]
        if before:
            popped = stack[-len(before) :] + popped
            stack = stack[: -len(before)]
        size = memo[argument] if code.name in ("GET", "BINGET", "LONG_BINGET") else 1 + sum(popped)
        if code.name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"):
            stack.append(popped[0])  # only the object grows, and what it holds was counted
            continue
        if code.name == "MARK":
            marks.append(len(stack))
            continue
        work += size
        if work > _WORK * steps + 100_000:
            raise BadInput("its objects hold each other over and over: written out they would fill any memory")
        stack.extend([size] * len(code.stack_after))


def screen_npz(path: Path) -> None:
    """Refuse an archive of arrays that names paths, is encrypted, or holds more than a file of its size should.

    Raises:
        BadInput: saying what is wrong.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        screen_expansion(sum(m.file_size for m in members), path.stat().st_size)
        for member in members:
            if Path(member.filename).name != member.filename or "\\" in member.filename:
                raise BadInput(f"{member.filename!r:.80} names a path, expected the name of an array")
            if member.flag_bits & 1:
                raise BadInput(f"{member.filename!r:.80} is encrypted")
            try:
                with archive.open(member) as file:
                    screen_npy(file, member.file_size)  # type: ignore[arg-type]
            except Exception as error:  # whatever zipfile, zlib or NumPy say of a damaged array
                raise BadInput(f"{member.filename.removesuffix('.npy'):.80}: not readable as .npz ({error})") from error
        names = [m.filename for m in members]
        if len(set(names)) < len(names):
            raise BadInput("an array is given twice")


def screen_expansion(unpacked: int, packed: int) -> None:
    """Refuse what unpacks to far more than its size on disk.

    Raises:
        BadInput: saying to how much.
    """
    if unpacked > max(FREE_BYTES, EXPANSION * packed):
        raise BadInput(
            f"{packed:,} bytes would unpack to {unpacked:,}; at most {FREE_BYTES:,} or {EXPANSION} times are read"
        )


def screen_npy(file: io.BufferedIOBase, size: int) -> None:
    """Refuse an array, at the start of `file`, whose header claims other than the rest of its `size` bytes.

    Raises:
        BadInput: saying what it claims.
        ValueError: if this is no array.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise BadInput(f"version {version} of NumPy's format, expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Python objects, which are pickled")
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != held or min(shape, default=0) < 0:
        raise BadInput(f"its header claims {claimed:,} bytes of {dtype} {shape}, {held:,} are there")


def open_image(path: Path) -> Image.Image:
    """Return the picture in `path`, its pixels not read yet; to be closed by the caller.

    Raises:
        OSError: if it is of none of `IMAGE_FORMATS`.
        PIL.Image.DecompressionBombWarning: if it has more than about 89 million pixels.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return Image.open(path, formats=IMAGE_FORMATS)


def inside(path: Path, folder: Path) -> None:
    """Refuse a path that leads, by a link or otherwise, out of `folder`.

    Raises:
        BadInput: if it does.
    """
    if not within(path, folder):
        raise BadInput(f"{path}: leads out of {folder}; copy what is meant into it")
