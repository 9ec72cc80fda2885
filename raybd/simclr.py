"""SimCLR: how an encoder is trained without labels, from two random views of each image."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raybd import seeds
from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.registry import BadInput
from raybd.training import Batches, Compute, Epoch, check_not_negative, check_positive, descend_passes

JITTER = 0.4
"""By up to so much brightness, contrast and saturation are changed."""
JITTERED, GREY = 0.8, 0.2
"""The shares of views whose colours are changed, and that lose them."""
LARGEST_RATIO = 4 / 3
"""A crop is at most so many times as wide as high, or as high as wide."""
LUMA = (0.299, 0.587, 0.114)
"""How much red, green and blue count in grey (ITU-R BT.601)."""


@dataclass(frozen=True, kw_only=True)
class SimCLR:
    """Training without labels by contrast (Chen et al. 2020, arXiv 2002.05709).

    Each image of a batch is seen in two views, see `view`; their projections are to be more alike than those of any
    two images. The projection, two layers upon the features, is thrown away afterwards; the head takes no part.
    The defaults are those of BadEncoder's encoders (arXiv 2108.00352), which were trained for 1,000 epochs.

    Attributes:
        epochs: passes over the images.
        lr: of Adam, all the time.
        batch_size: images per step, from which the other images of a contrast come.
        weight_decay: of Adam.
        temperature: of the contrast; the smaller, the more the nearest of the other images count.
        projection: width of what is contrasted.
        smallest_crop: a view shows at least this share of its image; more than the default for very small images.
        flip: whether half the views are mirrored; not for images that mean something else then, such as digits.
    """

    epochs: int
    lr: float = 1e-3
    batch_size: int = 256
    weight_decay: float = 1e-6
    temperature: float = 0.5
    projection: int = 128
    smallest_crop: float = 0.08
    flip: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "lr", "temperature", "projection", "smallest_crop")
        check_not_negative(self, "weight_decay")
        if self.batch_size < 2:
            raise BadInput(f"batch_size: one image has no other to differ from, got {self.batch_size}")
        if self.smallest_crop > 1:
            raise BadInput(f"smallest_crop: expected at most 1, the whole image, got {self.smallest_crop}")

    def fit(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        augment: Augment,  # noqa: ARG002 - every recipe is called alike, and views take its place
        compute: Compute,
        seed: int,
    ) -> Iterator[Epoch]:
        """Train the features of `model` in place, yielding each epoch; labels are not looked at.

        The views take the place of `augment`. The loss of an Epoch is the contrast's, ln(2 * batch_size - 1) where
        nothing has been learnt; one that is not finite ends the training.
        """
        compute.place(model)
        projection = compute.place(self._projection(model, data, compute, seed))
        both = nn.ModuleList([model, projection])
        optimizer = torch.optim.Adam(both.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        batches = Batches(data, self.batch_size, Augment(), compute, seed)
        stream = seeds.generator(seed, "views")

        def loss_of_step() -> Tensor:
            inputs, _ = batches.next()
            views = torch.cat([view(inputs, stream, self.smallest_crop, mirror=self.flip) for _ in range(2)])
            if compute.channels_last:
                views = views.contiguous(memory_format=torch.channels_last)
            with compute.autocast():
                projected = projection(model.features(views))
            return nt_xent(projected.float(), self.temperature)

        yield from descend_passes(
            loss_of_step,
            optimizer,
            batches,
            epochs=self.epochs,
            lr=self.lr,
            compute=compute,
            seed=seed,
            begin=both.train,
        )

    def _projection(self, model: Classifier, data: ImageSet, compute: Compute, seed: int) -> nn.Module:
        model.eval()
        with torch.inference_mode():
            wide = model.features(compute.inputs(data.images[:1])).shape[1]
        with seeds.IsolatedRandom(seeds.derive(seed, "projection")):
            return nn.Sequential(
                nn.Linear(wide, wide, bias=False),
                nn.BatchNorm1d(wide),
                nn.ReLU(),
                nn.Linear(wide, self.projection),
            )


def nt_xent(projected: Float[Tensor, "m d"], temperature: float) -> Float[Tensor, ""]:
    """Return how badly each view's other view is told from all the rest, by cosine, in nats.

    The first half of `projected` holds one view of each image, the second half the other.
    """
    unit = functional.normalize(projected, dim=1)
    alike = unit @ unit.T / temperature
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    partner = torch.arange(len(unit), device=unit.device).roll(len(unit) // 2)
    return functional.cross_entropy(alike.masked_fill(itself, -math.inf), partner)


def view(
    images: Float[Tensor, "n c h w"], stream: torch.Generator, smallest_crop: float, *, mirror: bool
) -> Float[Tensor, "n c h w"]:
    """Return a random view of each image, in [0, 1]; every draw comes from `stream`.

    A crop of random place, area and proportions, scaled back and perhaps mirrored; then brightness and contrast, and
    of three channels saturation, changed in this order, and now and then grey. It is the recipe of arXiv 2002.05709
    for small images without its change of hue.
    """
    draws = torch.rand(10, len(images), generator=stream, device=stream.device)
    draws = draws.to(images.device, non_blocking=True)  # else a GPU's host would wait for the steps before
    return _recoloured(_cropped(images, draws[:5], smallest_crop, mirror=mirror), draws[5:])


def _cropped(images: Tensor, draws: Tensor, smallest: float, *, mirror: bool) -> Tensor:
    area = smallest + (1 - smallest) * draws[0]
    ratio = torch.exp((2 * draws[1] - 1) * math.log(LARGEST_RATIO))
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    # Image coordinates go from -1 to 1, so the middle of a crop of width w lies within 1 - w of zero.
    theta[:, 0, 2], theta[:, 1, 2] = (1 - wide) * (2 * draws[2] - 1), (1 - high) * (2 * draws[3] - 1)
    theta[:, 0, 0] = torch.where(draws[4] < 0.5, -wide, wide) if mirror else wide
    theta[:, 1, 1] = high
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _recoloured(images: Tensor, draws: Tensor) -> Tensor:
    changed = (draws[0] < JITTERED).float()[:, None, None, None]
    brightness, contrast, saturation = (
        1 + JITTER * changed * (2 * draw - 1) for draw in draws[1:4, :, None, None, None]
    )
    images = (images * brightness).clamp(0, 1)
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    images = torch.lerp(mean, images, contrast).clamp(0, 1)
    if images.shape[1] != len(LUMA):
        return images
    images = torch.lerp(_grey(images), images, saturation).clamp(0, 1)
    return torch.where((draws[4] < GREY)[:, None, None, None], _grey(images), images)


def _grey(images: Tensor) -> Tensor:
    if images.shape[1] != len(LUMA):
        return images.mean(dim=1, keepdim=True)
    return (images * torch.tensor(LUMA, device=images.device).view(1, -1, 1, 1)).sum(dim=1, keepdim=True)
