"""The model at raybd's door: normalisation inside, head and features by name, built from a name or a factory."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from raybd.architectures import ARCHITECTURES
from raybd.factories import load_factory
from raybd.registry import BadInput, as_number, nearest, renaming
from raybd.seeds import IsolatedRandom


class Classifier(nn.Module):
    """A network `body` that takes images in [0, 1], normalises them first and gives logits (n, classes).

    `head` names its classification layer, by default the last linear one; '' says that it has none.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(self, body: nn.Module, *, normalize: Mapping[str, Any] | None = None, head: str | None = None) -> None:
        super().__init__()
        self.body = body
        self.head_name = _last_linear(body) if head is None else head
        for name in ("mean", "std"):
            # Not in the state dict: the weights that raybd writes fit the user's own network as it is.
            values = torch.tensor([float(v) for v in normalize[name]]).view(1, -1, 1, 1) if normalize else None
            self.register_buffer(name, values, persistent=False)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Return logits (n, classes) for images (n, c, h, w) in [0, 1]."""
        return self.body(self.normalized(x))  # type: ignore[no-any-return]

    def normalized(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Return what the network itself gets for images in [0, 1]."""
        return x if self.mean is None or self.std is None else (x - self.mean) / self.std

    @property
    def head(self) -> nn.Linear:
        """The classification layer.

        Raises:
            BadInput: if there is no such linear layer.
        """
        named = dict(self.body.named_modules())
        layer = named.get(self.head_name)
        if not isinstance(layer, nn.Linear):
            linear = [name for name, module in named.items() if isinstance(module, nn.Linear)]
            raise BadInput(f"suspect.head: no linear layer '{self.head_name}'{nearest(self.head_name, linear)}")
        return layer

    def replace_head(self, classes: int) -> None:
        """Put a fresh classification layer, for so many classes, in the place of the old one.

        Raises:
            BadInput: if there is no such linear layer.
        """
        old = self.head
        parent, _, name = self.head_name.rpartition(".")
        setattr(self.body.get_submodule(parent), name, nn.Linear(old.in_features, classes))

    def features(self, x: Float[Tensor, "n c h w"]) -> Tensor:
        """Return what the head sees, (n, d); of a network without a head what it gives."""
        if not self.head_name:
            return self(x)  # type: ignore[no-any-return]
        seen: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self(x)
        finally:
            handle.remove()
        return seen[0]


def _last_linear(body: nn.Module) -> str:
    names = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    return names[-1] if names else ""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How to build a network: a name of `ARCHITECTURES`, or the user's factory `module:function`.

    A factory's module is a file in `folder`, the study's folder, or belongs to one of `packages`. `head_from` says
    where the classification layer comes from: it is the network's `own`; a `fresh` one takes the place of the one it
    was trained with, for `upstream_classes`; or it is `added` to a network that gives features, which is `headless`
    before that. Of `any` network nobody asks how many logits it gives. Errors name keys of `section`, where the study
    describes the network.
    """

    classes: int
    shape: tuple[int, ...]
    name: str | None = None
    factory: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    normalize: dict[str, Any] | None = None
    head: str | None = None
    folder: Path | None = None
    packages: tuple[str, ...] = ()
    head_from: Literal["own", "fresh", "added", "headless", "any"] = "own"
    upstream_classes: int | None = None
    # Left out of cards and digests: what a section is called makes no other network.
    section: Literal["suspect", "model"] = field(default="suspect", repr=False, compare=False)

    def __post_init__(self) -> None:
        with renaming("suspect", self.section):
            if (self.name is None) == (self.factory is None):
                raise BadInput("suspect: expected either a name or a factory")
            if self.name is not None and self.name not in ARCHITECTURES:
                raise BadInput(f"suspect.name: unknown '{self.name}'{nearest(self.name, ARCHITECTURES)}")
            self._check_normalize()

    def _check_normalize(self) -> None:
        if self.normalize is None:
            return
        channels = self.shape[0]
        for key in ("mean", "std"):
            values = self.normalize.get(key)
            if not isinstance(values, list | tuple) or len(values) != channels:
                raise BadInput(f"suspect.normalize.{key}: expected {channels} numbers, one per channel, got {values!r}")
            for value in values:
                as_number(value, where=f"suspect.normalize.{key}")
        if min(map(float, self.normalize["std"])) <= 0:
            raise BadInput(f"suspect.normalize.std: expected numbers above 0, got {self.normalize['std']!r}")

    def build(self, seed: int) -> Classifier:
        """Return a freshly initialised classifier, checked with one batch of blank images.

        Raises:
            BadInput: if the factory fails, gives no module, or the network cannot take images of `shape`.
        """
        with renaming("suspect", self.section):
            model = self._built(seed)
            if self.head is not None:
                _ = model.head
            self._check_output(model)
        return model

    def _built(self, seed: int) -> Classifier:
        with IsolatedRandom(seed):
            body = self._body()
            if not isinstance(body, nn.Module):
                raise BadInput(f"suspect.factory: '{self.factory}' must return an nn.Module, got {type(body).__name__}")
            return self._with_head(body).eval()

    def _with_head(self, body: nn.Module) -> Classifier:
        if self.head_from == "added":
            features = self._features(Classifier(body, normalize=self.normalize, head="").eval())
            body = nn.Sequential(OrderedDict(encoder=body, head=nn.Linear(features.shape[1], self.classes)))
            return Classifier(body, normalize=self.normalize, head="head")
        model = Classifier(body, normalize=self.normalize, head="" if self.head_from == "headless" else self.head)
        if self.head_from == "fresh":
            model.replace_head(self.classes)
        return model

    def _body(self) -> Any:
        try:
            if self.factory is not None:
                build = load_factory(self.factory, folder=self.folder, packages=self.packages)
                return build(**self.arguments)
            assert self.name is not None
            return ARCHITECTURES[self.name](
                classes=self.upstream_classes or self.classes, channels=self.shape[0], **self.arguments
            )
        except BadInput:
            raise
        except Exception as error:  # whatever the user's factory, or torch on odd arguments, raises
            fault = f"{type(error).__name__}: {error}"
            raise BadInput(
                f"suspect.arguments: {self.factory or self.name} failed on {self.arguments} ({fault})"
            ) from error

    @property
    def _images(self) -> str:
        return f"images of {self.shape[0]} x {' x '.join(map(str, self.shape[1:]))} (channels, height, width)"

    def _output(self, model: Classifier) -> Tensor:
        """What the network gives for two blank images."""
        try:
            with torch.inference_mode():
                output = model.body(model.normalized(torch.zeros(2, *self.shape)))
        except Exception as error:  # whatever the user's network raises
            fault = f"{type(error).__name__}: {error}"
            raise BadInput(f"suspect: the model cannot take {self._images}: {fault}") from error
        if not isinstance(output, Tensor):
            raise BadInput(f"suspect: the model gave a {type(output).__name__}, expected one tensor of logits")
        return output

    def _features(self, encoder: Classifier) -> Tensor:
        features = self._output(encoder)
        if features.ndim != 2:
            raise BadInput(
                f"suspect: an encoder gives features (n, d), this one gave {tuple(features.shape)}; name the "
                "layer to replace as suspect.head if it is a whole classifier"
            )
        return features

    def _check_output(self, model: Classifier) -> None:
        if self.head_from == "headless":
            self._features(model)
            return
        got = tuple(self._output(model).shape)
        if self.head_from != "any" and got != (2, self.classes):
            hint = "" if model.head_name else ". An encoder without a head belongs in scenario: encoder"
            raise BadInput(
                f"suspect: for two {self._images} the model gave an output of shape {got}, "
                f"expected (2, {self.classes}): one logit per class{hint}"
            )
