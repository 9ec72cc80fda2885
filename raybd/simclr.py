"""SimCLR: an encoder trained without labels, by telling two views of one image from all others (arXiv 2002.05709)."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from raybd import schedules, seeds
from raybd.data import Augment, ImageSet
from raybd.models import Classifier
from raybd.training import Compute, Epoch, check_not_negative, check_positive, steps_per_epoch

SMALLEST_CROP = 0.2
"""Share of an image's area that a view shows at least (SimCLR on CIFAR-10, appendix B.9, begins at 0.08)."""


@dataclass(frozen=True, kw_only=True)
class SimCLR:
    """How an encoder is trained from scratch without labels (Chen et al. 2020, arXiv 2002.05709).

    Adam with a cosine rate from `lr`; a projection of two layers, `projection` wide at its end, is thrown away. The
    defaults but `epochs` are BadEncoder's (arXiv 2108.00352), which trains 1,000 of them. `flip` mirrors views.
    """

    epochs: int
    lr: float = 1e-3
    batch_size: int = 256
    weight_decay: float = 1e-6
    temperature: float = 0.5
    projection: int = 128
    flip: bool = True

    def __post_init__(self) -> None:
        check_positive(self, "epochs", "lr", "batch_size", "temperature", "projection")
        check_not_negative(self, "weight_decay")

    def fit(
        self,
        model: Classifier,
        data: ImageSet,
        *,
        augment: Augment,  # noqa: ARG002 - the protocol's; views are made by `views`
        compute: Compute,
        seed: int,
    ) -> Iterator[Epoch]:
        """Train `model.features` in place on `data`, whose labels are not looked at, yielding each epoch.

        The head stays as it is. `Epoch.loss` is NT-Xent; one that is not finite ends the training.
        """
        compute.place(model)
        with seeds.IsolatedRandom(seeds.derive(seed, "projection")):
            projection = self._projection(model, data).to(compute.device)
        body = [p for name, p in model.named_parameters() if not name.startswith(f"body.{model.head_name}.")]
        optimizer = torch.optim.Adam([*body, *projection.parameters()], lr=self.lr, weight_decay=self.weight_decay)
        per_epoch = steps_per_epoch(len(data), self.batch_size)
        total = self.epochs * per_epoch
        schedule = schedules.cosine(self.lr, total)
        stream = seeds.generator(seed, "views")
        randomness = seeds.IsolatedRandom(seeds.derive(seed, "layers"))
        start = time.perf_counter()
        for index in range(self.epochs):
            losses: list[float] = []
            with randomness:
                model.train()
                for step, batch in enumerate(self._batches(data, stream)):
                    done = index * per_epoch + step
                    optimizer.param_groups[0]["lr"] = schedule(done)
                    losses.append(self._step(model, projection, optimizer, batch, compute, stream))
            loss = math.fsum(losses[-max(1, len(losses) // 4) :]) / max(1, len(losses) // 4)
            finite = math.isfinite(loss)
            yield Epoch(
                index=index,
                steps=(index + 1) * per_epoch,
                total=total,
                images=(index + 1) * per_epoch * min(self.batch_size, len(data)),
                lr=schedule((index + 1) * per_epoch - 1),
                loss=loss,
                seconds=time.perf_counter() - start,
                collapsed="" if finite else "the loss is not finite",
            )
            if not finite:
                return

    def _projection(self, model: Classifier, data: ImageSet) -> nn.Module:
        with torch.inference_mode():
            wide = model.eval().features(data.images[:2].to(next(model.parameters()).device).float()).shape[1]
        return nn.Sequential(nn.Linear(wide, wide), nn.ReLU(), nn.Linear(wide, self.projection))

    def _batches(self, data: ImageSet, stream: torch.Generator) -> Iterator[Tensor]:
        """Batches of one epoch, each full: the last is filled with images of the beginning."""
        size = min(self.batch_size, len(data))
        order = torch.randperm(len(data), generator=stream)
        whole = steps_per_epoch(len(data), self.batch_size) * size
        for rows in torch.split(torch.cat([order, order[: whole - len(order)]]), size):
            yield data.images[rows]

    def _step(
        self,
        model: Classifier,
        projection: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Tensor,
        compute: Compute,
        stream: torch.Generator,
    ) -> float:
        images = compute.inputs(batch)
        pair = torch.cat([views(images, stream, flip=self.flip) for _ in range(2)])
        if compute.channels_last:
            pair = pair.contiguous(memory_format=torch.channels_last)
        with compute.autocast():
            projected = projection(model.features(pair))
        loss = nt_xent(projected.float(), self.temperature)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.item()


def views(images: Float[Tensor, "n c h w"], stream: torch.Generator, *, flip: bool) -> Float[Tensor, "n c h w"]:
    """Return a random view of each image in [0, 1]: cropped and resized, perhaps mirrored, its colours changed.

    Every draw comes from `stream`, a CPU generator. Brightness and contrast change by up to 40 %; of colour images the
    saturation does too, and every fifth is made gray.
    """
    n, channels = images.shape[:2]

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(n, generator=stream)).to(images.device)

    side = uniform(SMALLEST_CROP, 1).sqrt()
    ratio = uniform(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    wide, high = (side * ratio).clamp(max=1), (side / ratio).clamp(max=1)
    mirrored = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0) if flip else torch.ones_like(wide)
    theta = torch.zeros(n, 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = wide * mirrored, high
    theta[:, 0, 2], theta[:, 1, 2] = uniform(-1, 1) * (1 - wide), uniform(-1, 1) * (1 - high)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    seen = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    seen = seen * _per_image(uniform(0.6, 1.4))
    mean = seen.mean(dim=(1, 2, 3), keepdim=True)
    seen = mean + (seen - mean) * _per_image(uniform(0.6, 1.4))
    if channels == 3:
        gray = seen.mean(dim=1, keepdim=True)
        saturation = torch.where(uniform(0, 1) < 0.2, torch.zeros_like(wide), uniform(0.6, 1.4))
        seen = gray + (seen - gray) * _per_image(saturation)
    return seen.clamp(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def nt_xent(projected: Float[Tensor, "two_n d"], temperature: float) -> Float[Tensor, ""]:
    """Return the normalised temperature-scaled cross-entropy; rows i and i + n are two views of one image."""
    count = len(projected) // 2
    unit = functional.normalize(projected, dim=1)
    similar = (unit @ unit.T / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(2 * count, device=projected.device).roll(count)
    return functional.cross_entropy(similar, partner)
