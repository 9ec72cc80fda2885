"""A source divided into train, clean set, selection, test and members: seeded, stratified, disjoint."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from raybd.imagesets import ImageSet, Source
from raybd.registry import BadInput
from raybd.seeds import generator
from raybd.sources import load_npz

_OWN = ("train", "test")
_FILE_PARTS = {"clean_set": ("train", "test"), "selection": ("test", "train"), "members": ("train", "test")}


@dataclass(frozen=True, kw_only=True)
class Part:
    """Where one split comes from: `origin` is 'train', 'test' or an .npz file; `size` None takes the rest."""

    origin: str
    size: int | None = None


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """How a source is divided.

    Attributes:
        clean_set: what the defender trains on.
        selection: what the search looks at.
        test: what only the assessment looks at; None is all that is left of the source's test part. A source
            without one needs a size here, which is carved from train before anything else.
        members: the images the suspect was trained on; None when they are not known.
    """

    clean_set: Part
    selection: Part
    test: Part | None = None
    members: Part | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Splits:
    """The divided data: disjoint by construction within one source.

    Attributes:
        train: what is left of the train part: the attacker's, and the members when these come from it.
        clean_set: what the defender trains on.
        selection: what the search looks at.
        test: what only the assessment looks at.
        members: images the suspect was trained on, without the clean set; None when not known.
        indices: for each split, its places in the part or file it was cut from, ascending.
        warnings: what a reader of the figures must know about the data.
    """

    train: ImageSet
    clean_set: ImageSet
    selection: ImageSet
    test: ImageSet
    members: ImageSet | None
    indices: dict[str, list[int]] = field(repr=False)
    warnings: tuple[str, ...] = ()


def split(
    source: Source,
    plan: SplitPlan,
    *,
    seed: int,
    folder: Path = Path(),
    trained_on: Literal["train", "unknown", "other"] = "train",
) -> Splits:
    """Divide `source` by `plan`: stratified draws, the same for the same seed.

    Args:
        source: the data.
        plan: which split comes from where.
        seed: the study's split seed.
        folder: the study's folder, from which the plan's files count.
        trained_on: what the suspect is trained on: what is left of train (injected); nobody knows what, so perhaps
            any image of the train part, which adds the warnings that follow from it (adopted); or the images of
            another task.

    Raises:
        BadInput: if a split is empty, is larger than what is there or would overlap another, or if the clean
            set has one class only.
    """
    parts = _checked_parts(source, plan)
    cuts = _cut(source, parts, seed)
    files = {name: part for name, part in parts.items() if part.origin not in _OWN}
    sets = {name: source.part(origin).subset(indices) for name, (origin, indices) in cuts.items()}
    indices = {name: indices.tolist() for name, (_, indices) in cuts.items()}
    for name, part in files.items():
        sets[name], indices[name] = _from_file(name, part, source, seed, folder)
    if plan.members is not None and plan.members.origin == "train":
        sets["members"], indices["members"] = _members_of_train(source, cuts["train"][1], plan.members, seed)
    _refuse_useless(sets, needs_train=trained_on == "train")
    warnings = _from_train_warnings(parts) if trained_on == "unknown" else []
    warnings += _duplicates(sets, indices, files)
    members = sets.pop("members", None)
    return Splits(**sets, members=members, indices=indices, warnings=tuple(warnings))


def _checked_parts(source: Source, plan: SplitPlan) -> dict[str, Part]:
    """The plan by name of split, the rest of the test part being the default for `test`."""
    if plan.test is None and source.test is None:
        raise BadInput(f"data.test: missing; {source.name} has no test part: give {{from: train, size: N}}")
    parts = {
        "test": plan.test or Part(origin="test"),
        "clean_set": plan.clean_set,
        "selection": plan.selection,
    }
    if plan.members is not None:
        parts["members"] = plan.members
    for name, part in parts.items():
        _check_part(name, part, source)
    return parts


def _check_part(name: str, part: Part, source: Source) -> None:
    at = f"data.{name}"
    if part.size is not None and part.size < 1:
        raise BadInput(f"{at}.size: expected at least 1 image, got {part.size}")
    if part.origin not in _OWN and not part.origin.endswith(".npz"):
        raise BadInput(f"{at}.from: expected 'train', 'test' or an .npz file, got '{part.origin}'")
    if part.origin == "test" and source.test is None:
        raise BadInput(f"{at}.from: {source.name} has no test part: say 'train'")
    if part.origin == "test" and name == "members":
        raise BadInput(f"{at}.from: members are what the suspect was trained on: 'train' or an .npz file")
    if name == "test" and source.test is not None and part.origin != "test":
        raise BadInput(f"{at}.from: {source.name} has a test part, so expected 'test', got '{part.origin}'")
    if name == "test" and source.test is None and (part.origin != "train" or part.size is None):
        raise BadInput(f"{at}: {source.name} has no test part: expected {{from: train, size: N}}")


def _cut(source: Source, parts: Mapping[str, Part], seed: int) -> dict[str, tuple[str, Tensor]]:
    """For each split of the source itself: the part it is cut from and its places there, ascending."""
    cuts = {}
    for origin in _OWN if source.test is not None else _OWN[:1]:
        labels = source.part(origin).labels
        wanted = {n: p.size for n, p in parts.items() if p.origin == origin and n != "members"}
        _check_sizes(origin, wanted, len(labels))
        left = torch.arange(len(labels))
        for name, size in sorted(wanted.items(), key=lambda item: item[1] is None):  # "the rest" comes last
            taken = _draw(labels[left], len(left) if size is None else size, generator(seed, "split", name))
            cuts[name] = (origin, left[taken])
            left = left[~torch.isin(left, left[taken])]
        if origin == "train":
            cuts["train"] = (origin, left)
    return cuts


def _check_sizes(origin: str, wanted: Mapping[str, int | None], available: int) -> None:
    sized = {name: size for name, size in wanted.items() if size is not None}
    rest = [name for name, size in wanted.items() if size is None]
    total, sum_ = sum(sized.values()), " + ".join(f"{name} {size}" for name, size in sized.items())
    if total > available:
        overlap = ": the splits would overlap" if len(sized) > 1 else ""
        raise BadInput(f"data: {sum_} > {origin} {available}{overlap}")
    if len(rest) > 1:
        raise BadInput(f"data.{rest[1]}.size: missing; {' and '.join(rest)} cannot both take the rest of {origin}")
    if rest and total == available:
        raise BadInput(f"data: {sum_ or 'nothing'} = {origin} {available}: {rest[0]} would be empty")


def _draw(labels: Int64[Tensor, "n"], size: int, stream: torch.Generator) -> Int64[Tensor, "k"]:
    """`size` places, ascending, each class within one image of its share (largest remainder)."""
    by_class = _shuffled_by_class(labels, stream)
    counts = np.array([len(places) for places in by_class])
    quotas, remainders = np.divmod(counts * size, len(labels))
    quotas[np.argsort(-remainders, kind="stable")[: size - quotas.sum()]] += 1
    chosen = [places[:quota] for places, quota in zip(by_class, quotas, strict=True)]
    return torch.from_numpy(np.sort(np.concatenate(chosen)))


def _shuffled_by_class(labels: Int64[Tensor, "n"], stream: torch.Generator) -> list[NDArray[np.int64]]:
    """For each label from 0 on, the places that have it, in random order."""
    shuffled = torch.randperm(len(labels), generator=stream).numpy()
    grouped = shuffled[np.argsort(labels.numpy()[shuffled], kind="stable")]
    return np.split(grouped, np.cumsum(np.bincount(labels.numpy()))[:-1])


def stratified_order(labels: Int64[Tensor, "n"], *, seed: int) -> Int64[Tensor, "n"]:
    """Return a random permutation in every prefix of which each class is within one image of its share.

    Classes are dealt by the quota method (Balinski and Young 1975, "The Quota Method of Apportionment"): next
    comes the class that has waited longest among those that would not exceed their share, rounded up.
    """
    by_class = _shuffled_by_class(labels, generator(seed, "stratified_order"))
    counts = np.array([len(places) for places in by_class])
    dealt, order = np.zeros_like(counts), []
    for place in range(1, len(labels) + 1):
        due = dealt * len(labels) < place * counts
        label = int(np.argmax(np.where(due, counts / (dealt + 1), -1.0)))
        order.append(int(by_class[label][dealt[label]]))
        dealt[label] += 1
    return torch.tensor(order, dtype=torch.int64)


def _from_file(name: str, part: Part, source: Source, seed: int, folder: Path) -> tuple[ImageSet, list[int]]:
    path = folder / part.origin
    images = load_npz(path, prefer=_FILE_PARTS[name], classes=source.train.classes)
    if images.shape != source.train.shape:
        raise BadInput(
            f"data.{name}.from: {path}: images are {images.shape} (channels, height, width), "
            f"those of {source.name} are {source.train.shape}"
        )
    size = len(images) if part.size is None else part.size
    if size > len(images):
        raise BadInput(f"data.{name}.size: {size} > {len(images)} images in {path}")
    taken = _draw(images.labels, size, generator(seed, "split", name))
    return images.subset(taken), taken.tolist()


def _members_of_train(source: Source, left: Tensor, part: Part, seed: int) -> tuple[ImageSet, list[int]]:
    """Members are what no other split took of the train part: neither trained on nor looked at since."""
    size = len(left) if part.size is None else part.size
    if not 0 < size <= len(left):
        raise BadInput(f"data.members: expected 1 to {len(left)} images (what is left of train), got {size}")
    taken = left[_draw(source.train.labels[left], size, generator(seed, "split", "members"))]
    return source.train.subset(taken), taken.tolist()


def _refuse_useless(sets: Mapping[str, ImageSet], *, needs_train: bool) -> None:
    kinds = sets["clean_set"].labels.bincount().nonzero().flatten().tolist()
    if len(kinds) < 2:
        raise BadInput(f"data.clean_set: all {len(sets['clean_set'])} images have label {kinds[0]}")
    if needs_train and not len(sets["train"]):
        raise BadInput("data: the other splits take all of train; nothing is left to train the suspect on")


def _from_train_warnings(parts: Mapping[str, Part]) -> list[str]:
    """A suspect that has memorised a split makes every defense look costly, or free, there."""
    return [
        f"{name} is cut from train: if the suspect was trained on these images, what a defense costs cannot "
        "be read there; give images that it has not seen"
        for name in ("selection", "test")
        if parts[name].origin == "train"
    ]


def _duplicates(sets: dict[str, ImageSet], indices: dict[str, list[int]], files: Mapping[str, Part]) -> list[str]:
    """Warn of exact copies across splits, refuse them in a file of its own, take them out of a members file.

    Real data sets hold a few copies, which no plan can avoid; a file that shares images is a wrong file.
    """
    keys = {name: _keys(sets[name]) for name in ("train", "clean_set", "selection", "test")}
    warnings = []
    for one, other in combinations(keys, 2):
        present = set(keys[one])
        count = sum(key in present for key in keys[other])
        if count and {one, other} & set(files) and "train" not in (one, other):
            name = other if other in files else one
            raise BadInput(
                f"data.{name}.from: overlapping splits: {count} of the {len(keys[other])} images of {other} "
                f"are also in {one} ({files[name].origin})"
            )
        if count:
            warnings.append(f"{count} of the {len(keys[other])} images of {other} are exact copies of images in {one}")
    if "members" in files:
        warnings += _without_clean_set(sets, indices, keys)
    return warnings


def _without_clean_set(
    sets: dict[str, ImageSet], indices: dict[str, list[int]], keys: Mapping[str, Sequence[bytes]]
) -> list[str]:
    own, clean, test = _keys(sets["members"]), set(keys["clean_set"]), set(keys["test"])
    kept = [i for i, key in enumerate(own) if key not in clean]
    if not kept:
        raise BadInput("data.members.from: every image is also in the clean set, so no member is left")
    sets["members"] = sets["members"].subset(kept)
    indices["members"] = [indices["members"][i] for i in kept]
    copies = sum(own[i] in test for i in kept)
    told = [f"{len(own) - len(kept)} members are also in the clean set and were left out"] * (len(kept) < len(own))
    return told + [f"{copies} members are exact copies of test images, the non-members"] * bool(copies)


def _keys(images: ImageSet) -> list[bytes]:
    rows = images.images.cpu().numpy()
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows]
