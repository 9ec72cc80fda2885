"""Where images come from: digits, torchvision sets, .npz files, image folders."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from raybd.images import resize
from raybd.imagesets import ImageSet, Source
from raybd.registry import BadInput, is_file, is_folder, nearest
from raybd.screening import IMAGE_FORMATS, inside, open_image, screen_expansion, screen_npz

MAX_CLASSES = 100_000
"""So many classes may labels speak of that nobody counted: the network gets a logit for each."""

_Part = tuple[Tensor, Tensor]  # images and labels, not yet checked
_Arguments = Mapping[str, Any]

_TRAIN_FLAG = ({"train": True}, {"train": False})
_SPLIT = ({"split": "train"}, {"split": "test"})
_TRAINVAL = ({"split": "trainval"}, {"split": "test"})
_WHOLE: tuple[_Arguments, None] = ({}, None)

TORCHVISION: Mapping[str, tuple[_Arguments, _Arguments | None]] = MappingProxyType(
    {  # class name -> arguments of its train part, arguments of its test part (None: it has none)
        "CIFAR10": _TRAIN_FLAG,
        "CIFAR100": _TRAIN_FLAG,
        "Caltech101": _WHOLE,
        "Caltech256": _WHOLE,
        "Country211": _SPLIT,
        "DTD": _SPLIT,
        "EuroSAT": _WHOLE,
        "FER2013": _SPLIT,
        "FGVCAircraft": _TRAINVAL,
        "FashionMNIST": _TRAIN_FLAG,
        "Flowers102": _SPLIT,
        "Food101": _SPLIT,
        "GTSRB": _SPLIT,
        "Imagenette": ({"split": "train"}, {"split": "val"}),
        "KMNIST": _TRAIN_FLAG,
        "MNIST": _TRAIN_FLAG,
        "OxfordIIITPet": _TRAINVAL,
        "PCAM": _SPLIT,
        "QMNIST": _TRAIN_FLAG,
        "RenderedSST2": _SPLIT,
        "SEMEION": ({"download": False}, None),  # the one class here that would download by itself
        "STL10": _SPLIT,
        "SUN397": _WHOLE,
        "SVHN": _SPLIT,
        "StanfordCars": _SPLIT,
        "USPS": _TRAIN_FLAG,
    }
)


def load_source(
    source: str,
    *,
    root: Path | None = None,
    folder: Path,
    classes: int | None = None,
    size: int | None = None,
) -> Source:
    """Load a data set into memory, always in the same order.

    Args:
        source: 'digits' (scikit-learn's, no test part); the name of a torchvision classification set; an
            `.npz` with x_train, y_train and perhaps x_test, y_test (uint8, NHWC or NHW); or an image folder
            with one folder per class, either directly or under train/ and test/. Class folders are labelled
            in the order of their names as text, as torchvision does ('10' comes before '2').
        root: where torchvision finds the set; nothing is downloaded.
        folder: the study's folder, from which relative paths count.
        classes: number of classes of the task; by default what the data says.
        size: scale all images to size x size pixels; needed where they differ in size.

    Raises:
        BadInput: if the data is missing or unusable; the message names the file and key.
    """
    if size is not None and size < 1:
        raise BadInput(f"data.size: expected at least 1 pixel, got {size}")
    path = folder / source
    by_name = source in TORCHVISION and (root is not None or not is_folder(path))
    if root is not None and not by_name:
        raise BadInput(f"data.root: only a torchvision set takes a root, and data.source is '{source}'")
    if source == "digits":
        return _digits(classes, size)
    if source.endswith(".npz"):
        return _npz_source(path, source, classes, size)
    if by_name:
        return _torchvision(source, root, folder, classes, size)
    if is_folder(path):
        return _image_folder(path, source, classes, size)
    raise BadInput(
        f"data.source: '{source}' is neither 'digits', nor an .npz file, nor a torchvision classification "
        f"set, nor a folder ({path} does not exist){nearest(source, ['digits', *TORCHVISION])}"
    )


def load_npz(path: Path, *, prefer: Sequence[str], classes: int | None = None, size: int | None = None) -> ImageSet:
    """Load one part of an `.npz`: the first in `prefer` ('train', 'test') that the file has.

    Raises:
        BadInput: if the file is missing or unusable, or holds none of them; the message names file and key.
    """
    arrays = _npz_arrays(path)
    for part in prefer:
        if f"x_{part}" in arrays:
            images, labels = _npz_part(arrays, part, path, size)
            return _source(str(path), f"{path}: y_{part}", (images, labels), None, classes).train
    wanted = " or ".join(f"x_{part}" for part in prefer)
    raise BadInput(f"{path}: no key {wanted}; keys: {', '.join(sorted(arrays)) or 'none'}")


def _digits(classes: int | None, size: int | None) -> Source:
    from sklearn.datasets import load_digits

    data: Any = load_digits()
    images = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    images = images if size is None else resize(images, size)
    return _source("digits", "digits", (images, labels), None, classes or 10)


def _npz_source(path: Path, name: str, classes: int | None, size: int | None) -> Source:
    arrays = _npz_arrays(path)
    has_test = "x_test" in arrays or "y_test" in arrays
    train = _npz_part(arrays, "train", path, size)
    test = _npz_part(arrays, "test", path, size) if has_test else None
    return _source(name, f"{path}: y_{{part}}", train, test, classes)


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz; never unpickles."""
    if not is_file(path):
        raise BadInput(f"{path}: no such file")
    key = ""
    try:
        screen_npz(path)  # also because numpy would open a single array, or speak of pickles
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for key in file.files:
                arrays[key] = file[key]
            return arrays
    except Exception as error:  # whatever zipfile, zlib or NumPy say of a damaged file
        hint = "; Python objects are pickled, which raybd does not open: save arrays of uint8 and of integers"
        at = f"{path}: {key}: " if key else f"{path}: "
        why = f"{error}" if isinstance(error, BadInput) else f"not readable as .npz ({error})"
        raise BadInput(f"{at}{why}{hint if 'pickle' in str(error) else ''}") from error


def _npz_part(arrays: dict[str, NDArray[Any]], part: str, path: Path, size: int | None) -> tuple[Tensor, Tensor]:
    for key in (f"x_{part}", f"y_{part}"):
        if key not in arrays:
            raise BadInput(f"{path}: no key {key}; keys: {', '.join(sorted(arrays)) or 'none'}")
    images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
    at = f"{path}: x_{part}"
    if images.dtype != np.uint8:
        raise BadInput(f"{at}: expected uint8 pixels 0..255, got {images.dtype}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape[1:]:
        hint = " (images first by channel? move the channels to the end)" if images.ndim == 4 else ""
        raise BadInput(
            f"{at}: expected (n, height, width) or (n, height, width, 1 or 3), got {arrays[f'x_{part}'].shape}{hint}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
        raise BadInput(
            f"{path}: y_{part}: expected integers ({len(images)},), one per image, got {labels.dtype} {labels.shape}"
        )
    if labels.dtype == np.uint64 and labels.max(initial=0) > np.iinfo(np.int64).max:
        raise BadInput(f"{path}: y_{part}: expected labels below 2^63, got {labels.max()}")
    if not len(images):
        raise BadInput(f"{at}: holds no images")
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return tensor if size is None else resize(tensor, size), torch.from_numpy(labels.astype(np.int64))


def _torchvision(name: str, root: Path | None, folder: Path, classes: int | None, size: int | None) -> Source:
    if root is None:
        raise BadInput(f"data.root: missing; '{name}' is a torchvision set and needs the folder of its files")
    first, second = TORCHVISION[name]
    train, named = _torchvision_part(name, folder / root, first, size)
    test = None if second is None else _torchvision_part(name, folder / root, second, size)[0]
    return _source(name, f"{name} in {folder / root}, {{part}} part", train, test, classes or named)


def _torchvision_part(name: str, root: Path, arguments: _Arguments, size: int | None) -> tuple[_Part, int | None]:
    """Images and labels of one part, and the number of classes if the data set says it."""
    from torchvision import datasets

    said = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    at = f"torchvision's {name}({said}) in {root}"
    try:
        data: Any = getattr(datasets, name)(root, **arguments)
        pairs = [data[i] for i in range(len(data))]
    except Exception as error:  # whatever torchvision, or the library behind a set, says of a damaged copy
        # torchvision's own words may advise a download, which raybd never does.
        raise BadInput(
            f"data.root: no complete copy of {at}; looked for {_looked_for(name, root)}; torchvision says: {error}"
        ) from error
    labels = [label for _, label in pairs]
    if any(isinstance(label, bool) or not isinstance(label, int | np.integer) for label in labels):
        raise BadInput(f"data.source: {at} has images without a class label")
    pixels = [_pixels(image, f"{at}: image {i}", size) for i, (image, _) in enumerate(pairs)]
    names = getattr(data, "classes", None)
    images = _stack(pixels, [f"image {i}" for i in range(len(pixels))], at)
    return (images, torch.tensor([int(v) for v in labels], dtype=torch.int64)), len(names) if names else None


def _looked_for(name: str, root: Path) -> str:
    """The file or folder whose absence is the usual fault, for a message."""
    from torchvision import datasets

    cls = getattr(datasets, name)
    if issubclass(cls, datasets.MNIST):
        return f"{root / name / 'raw'} (gunzipped IDX files)"
    if isinstance(inner := getattr(cls, "base_folder", None), str):
        return str(root / inner)
    return f"{root} laid out as torchvision.datasets.{name} documents"


def _image_folder(path: Path, name: str, classes: int | None, size: int | None) -> Source:
    if (path / "test").is_dir() and not (path / "train").is_dir():
        raise BadInput(f"{path}: has a folder test but no folder train")
    nested = (path / "train").is_dir()
    names = _class_folders(path / "train" if nested else path)
    train = _folder_part(path / "train" if nested else path, names, size)
    test = _folder_part(path / "test", names, size) if (path / "test").is_dir() else None
    return _source(name, f"{path}, {{part}} part", train, test, classes or len(names))


def _class_folders(path: Path) -> list[str]:
    names = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not names:
        raise BadInput(f"{path}: expected one folder per class, found none")
    return names


def _folder_part(path: Path, names: list[str], size: int | None) -> _Part:
    """Images of one part; a file counts as an image by its ending, as Pillow knows it."""
    unknown = sorted(set(_class_folders(path)) - set(names))
    if unknown:
        raise BadInput(f"{path / unknown[0]}: no class of that name among the training images")
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in IMAGE_FORMATS}
    files = [
        (file, label)
        for label, name in enumerate(names)
        for file in sorted((path / name).rglob("*"))
        if file.suffix.lower() in endings and is_file(file)
    ]
    if not files:
        raise BadInput(f"{path}: no image in any class folder")
    pixels = []
    packed = unpacked = 0
    for file, _ in files:
        inside(file, path)
        pixels.append(_opened(file, size))
        packed, unpacked = packed + file.stat().st_size, unpacked + pixels[-1].numel()
        _within(path, unpacked, packed)
    images = _stack(pixels, [str(file.relative_to(path)) for file, _ in files], str(path))
    return images, torch.tensor([label for _, label in files], dtype=torch.int64)


def _within(path: Path, unpacked: int, packed: int) -> None:
    try:
        screen_expansion(unpacked, packed)
    except BadInput as error:
        raise BadInput(f"{path}: {error}") from error


def _opened(file: Path, size: int | None) -> UInt8[Tensor, "c h w"]:
    try:
        with open_image(file) as image:
            return _pixels(image, str(file), size)
    except BadInput:
        raise
    except Exception as error:  # whatever Pillow says of a damaged file
        raise BadInput(f"{file}: not readable as an image ({error})") from error


def _pixels(image: object, at: str, size: int | None) -> UInt8[Tensor, "c h w"]:
    """One channel for a grey image, else three."""
    if not isinstance(image, Image.Image):
        raise BadInput(f"{at}: expected an image, got {type(image).__name__}")
    if image.mode.startswith(("I", "F")):
        # Pillow would clip these to white instead of scaling them.
        raise BadInput(f"{at}: expected 8 bits per channel, got Pillow mode {image.mode}")
    array = np.array(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    tensor = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)
    return tensor if size is None else resize(tensor[None], size)[0]


def _stack(pixels: list[Tensor], names: list[str], at: str) -> UInt8[Tensor, "n c h w"]:
    if not pixels:
        raise BadInput(f"{at}: holds no images")
    channels = max(image.shape[0] for image in pixels)
    for image, name in zip(pixels, names, strict=True):
        if image.shape[1:] != pixels[0].shape[1:]:
            got, first = ("x".join(map(str, i.shape[1:])) for i in (image, pixels[0]))
            raise BadInput(f"{at}: {name} is {got} pixels, {names[0]} is {first}; give data.size to scale them all")
    return torch.stack([image.expand(channels, -1, -1) for image in pixels])


def _source(name: str, where: str, train: _Part, test: _Part | None, classes: int | None) -> Source:
    """Both parts as checked image sets; `where` names the data in messages, with a place for the part."""
    labels = [part[1] for part in (train, test) if part is not None]
    if not classes:
        classes = max((int(values.max()) + 1 for values in labels if len(values)), default=1)
        if classes > MAX_CLASSES:
            at = where.replace("{part}", "train")
            raise BadInput(f"{at}: expected labels below {MAX_CLASSES:,}, got {classes - 1}; say so as data.classes")
    first = _image_set(train, classes, where.replace("{part}", "train"))
    second = None if test is None else _image_set(test, classes, where.replace("{part}", "test"))
    if second is not None and second.shape != first.shape:
        raise BadInput(
            f"{where.replace('{part}', 'test')}: images are {second.shape} (channels, height, width), "
            f"those of train are {first.shape}; give data.size to scale them all"
        )
    return Source(train=first, test=second, name=name)


def _image_set(part: _Part, classes: int, at: str) -> ImageSet:
    images, labels = part
    if not len(images):
        raise BadInput(f"{at}: holds no images")
    try:
        return ImageSet(images=images, labels=labels, classes=classes)
    except BadInput as error:
        raise BadInput(f"{at}: {error}") from error
