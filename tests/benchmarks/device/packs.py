"""Settings trained side by side in one process, all their state in tensors that stay where they are.

`step` reads its draws and rates by a counter on the device and changes everything in place, so it can run as it is,
be captured as a CUDA graph, or be compiled, without a value from the host.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from raybd.evaluation.metrics import answers, attackable
from tests.benchmarks.device.bench import Bench, Finished, Job, finite
from tests.benchmarks.device.draws import Draws, augmented, padded

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
EVALUATION_IMAGES = 8000
"""So many images at most are in flight in one evaluation batch, over all settings of a pack."""


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`: a pack that is not compiled."""
    return function


class Pack(ABC):
    """`size` settings trained side by side. A subclass says how they share a forward pass."""

    def __init__(self, bench: Bench, size: int, wrap: Wrap = as_it_is) -> None:
        self.bench, self.size, self.compute = bench, size, bench.view.compute
        clean, augment = bench.view.clean_set, bench.view.augment
        self._images = padded(clean.images.to(self.compute.device), augment)
        self._labels = clean.labels.to(self.compute.device)
        self._shape = clean.shape[1:]
        self.template = bench.suspect()
        self._jobs: tuple[Job, ...] = ()
        self._draws = self._drawn(bench.jobs(0, size)).to(self.compute.device)
        self.rates = torch.zeros(bench.steps, size, device=self.compute.device)
        self.losses = torch.zeros(bench.steps, size, device=self.compute.device)
        self.at = torch.zeros(1, dtype=torch.int64, device=self.compute.device)
        self._batch, self._forward, self._update = wrap(self._make_batch), wrap(self._make_losses), wrap(sgd)

    params: dict[str, Tensor]
    buffers: dict[str, Tensor]
    momenta: dict[str, Tensor]

    @abstractmethod
    def member(self, state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """Return one setting's tensors out of `params` or `buffers`."""

    @abstractmethod
    def _make_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each setting, (size,), on inputs (size * b, c, h, w) and labels (size, b)."""

    @abstractmethod
    def _rates(self, lr: Tensor) -> Tensor | list[Tensor]:
        """Return `lr` (size,) in a shape that multiplies the momenta."""

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (size, n, classes) of uint8 images (n, c, h, w), in evaluation mode."""

    def load(self, jobs: Sequence[Job]) -> None:
        """Begin `size` jobs: the suspect's weights, no momentum, their own draws and rates; all in place."""
        self._jobs = tuple(jobs)
        self._draws.copy_(self._drawn(jobs))
        schedules = [job.defense.plan(len(self._labels))[0] for job in jobs]
        rates = [[schedule(step) for schedule in schedules] for step in range(self.bench.steps)]
        self.rates.copy_(torch.tensor(rates))
        self.losses.zero_()
        self.at.zero_()
        with torch.no_grad():
            for name, momentum in self.momenta.items():
                self.params[name].copy_(self._suspect[name])  # broadcast over the pack
                momentum.zero_()
            for name, buffer in self.buffers.items():
                buffer.copy_(self._suspect[name])

    def step(self) -> None:
        """Take one optimiser step of every setting."""
        inputs, labels = self._batch()
        with self.compute.autocast():
            losses = self._forward(inputs, labels)
        params = list(self.params.values())
        grads = torch.autograd.grad(losses.sum(), params)
        lr = self.rates.index_select(0, self.at).flatten()
        common = self.bench.common
        self._update(
            params, list(grads), list(self.momenta.values()), self._rates(lr), common.momentum, common.weight_decay
        )
        self.losses.index_copy_(0, self.at, losses.detach().float()[None])
        self.at.add_(1)

    def alive(self, step: int) -> bool:
        """Whether the loss of any setting was still finite in `step`; waits for the device."""
        return bool(self.losses[step].isfinite().any())

    def finish(self, evaluation: "Evaluation") -> tuple[Finished, ...]:
        """Measure every setting on selection."""
        correct, goal = evaluation.of(self.logits)
        losses = self.losses[-self.bench.last_steps :].mean(dim=0).tolist()
        rows = zip(self._jobs, correct, goal, losses, self._distances(), strict=True)
        return tuple(
            Finished(
                index=job.index,
                clean_accuracy=accuracy,
                attack_success_rate=success,
                loss=finite(loss),
                distance=finite(distance),
            )
            for job, accuracy, success, loss, distance in rows
        )

    def _keep_suspect(self) -> None:
        named = {**dict(self.template.named_parameters()), **dict(self.template.named_buffers())}
        self._suspect = {name: tensor.detach().clone() for name, tensor in named.items()}

    def _distances(self) -> list[float]:
        squares = torch.zeros(self.size, device=self.compute.device)
        for name, tensor in self.params.items():
            moved = tensor.detach() - self._suspect[name]
            squares += moved.reshape(self.size, -1).square().sum(dim=1)
        return squares.sqrt().tolist()

    def _drawn(self, jobs: Sequence[Job]) -> Draws:
        return Draws.of(
            [job.seed for job in jobs],
            images=len(self._labels),
            batch_size=self.bench.common.batch_size,
            steps=self.bench.steps,
            augment=self.bench.view.augment,
        )

    def _make_batch(self) -> tuple[Tensor, Tensor]:
        chosen, *changes = self._draws.at(self.at)
        images = augmented(self._images, self._shape, chosen, *changes)
        labels = self._labels.index_select(0, chosen).view(self.size, -1)
        return images.float().div_(255), labels

    def _laid_out(self, images: Tensor) -> Tensor:
        if self.compute.channels_last:
            return images.contiguous(memory_format=torch.channels_last)
        return images.contiguous()


class Single(Pack):
    """One setting: the module as it is."""

    def __init__(self, bench: Bench, size: int = 1, wrap: Wrap = as_it_is) -> None:
        assert size == 1
        super().__init__(bench, size, wrap)
        self._keep_suspect()
        self.params = dict(self.template.named_parameters())
        self.buffers = dict(self.template.named_buffers())
        self.momenta = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.template.train()

    def member(self, state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """Return `state` itself."""
        return state

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (1, n, classes) on the CPU in float32."""
        self.template.eval()
        with torch.no_grad(), self.compute.autocast():
            batches = torch.split(images, min(1000, EVALUATION_IMAGES))
            outputs = [self.template(self.compute.inputs(batch)).float().cpu() for batch in batches]
        self.template.train()
        return torch.cat(outputs)[None]

    def _make_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.template(self._laid_out(inputs)), labels[0])[None]

    def _rates(self, lr: Tensor) -> Tensor:
        return lr[0]


class Fused(Pack):
    """K settings in one forward pass: the weights are stacked and `vmap` makes each layer one operation.

    `packed_last` says how the images of K settings lie in memory: channels last over all K, or contiguous.
    """

    def __init__(self, bench: Bench, size: int, wrap: Wrap = as_it_is, *, packed_last: bool = False) -> None:
        super().__init__(bench, size, wrap)
        self._keep_suspect()
        self._packed_last = packed_last
        self.params = {
            name: tensor.detach().repeat(size, *[1] * tensor.ndim).requires_grad_()
            for name, tensor in self.template.named_parameters()
        }
        # Batch statistics are stacked too: vmap refuses to write K means into one buffer.
        self.buffers = {n: t.detach().repeat(size, *[1] * t.ndim) for n, t in self.template.named_buffers()}
        self.momenta = {name: torch.zeros_like(tensor) for name, tensor in self.params.items()}
        self.template.train()

    def member(self, state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
        """Return the tensors of setting `index`."""
        return {name: tensor[index] for name, tensor in state.items()}

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits (size, n, classes) on the CPU in float32."""
        self.template.eval()
        forward = vmap(self._one, in_dims=(0, 0, None))
        with torch.no_grad(), self.compute.autocast():
            batches = torch.split(images, max(1, EVALUATION_IMAGES // max(8, self.size)))
            states = self.params, self.buffers
            outputs = [forward(*states, self.compute.inputs(batch)).float().cpu() for batch in batches]
        self.template.train()
        return torch.cat(outputs, dim=1)

    def _one(self, params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(self.template, (params, buffers), (inputs,))

    def _loss(self, params: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self._one(params, buffers, inputs), labels)

    def _make_losses(self, inputs: Tensor, labels: Tensor) -> Tensor:
        # Dimension 1 is the pack, as in the grouped convolution (b, K * c, h, w) that vmap makes of it.
        stacked = inputs.unflatten(0, (self.size, -1))
        if self._packed_last:
            stacked = stacked.permute(1, 3, 4, 0, 2).contiguous().permute(0, 3, 4, 1, 2)
        else:
            stacked = stacked.transpose(0, 1).contiguous()
        forward = vmap(self._loss, in_dims=(0, 0, 1, 0), randomness="different")
        return forward(self.params, self.buffers, stacked, labels)

    def _rates(self, lr: Tensor) -> list[Tensor]:
        return [lr.view(-1, *[1] * (tensor.ndim - 1)) for tensor in self.momenta.values()]


def sgd(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    rates: Tensor | list[Tensor],
    momentum: float,
    weight_decay: float,
) -> None:
    """Take the step of torch.optim.SGD, in place; the rate is a tensor, of one setting or of each of K."""
    with torch.no_grad():
        decayed = torch._foreach_add(grads, params, alpha=weight_decay)
        torch._foreach_mul_(momenta, momentum)
        torch._foreach_add_(momenta, decayed)
        torch._foreach_sub_(params, torch._foreach_mul(momenta, rates))


class Evaluation:
    """Selection and its triggered images, resident, for evaluations without the host's help."""

    def __init__(self, bench: Bench) -> None:
        view = bench.view
        targets, self._goals = attackable(view.selection, view.trigger)
        self._clean, self._labels = view.selection.images, view.selection.labels
        self._triggered = view.trigger.apply(targets.images)

    def of(self, logits: Callable[[Tensor], Tensor]) -> tuple[list[float], list[float]]:
        """Return C-Acc and ASR of each setting, in [0, 1]."""
        rates = []
        for images, wanted in ((self._clean, self._labels), (self._triggered, self._goals)):
            given = logits(images)
            rates.append([(answers(row) == wanted).float().mean().item() for row in given])
        return rates[0], rates[1]
