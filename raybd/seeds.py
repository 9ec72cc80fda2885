"""Random streams: seeds derived by name, and isolation of torch's global generator."""

import hashlib
from types import TracebackType
from typing import Self

import torch
from torch import Tensor


def derive(seed: int, *names: str | int) -> int:
    """Return a 63-bit seed that depends on `seed` and every name, and on nothing else.

    Hashing keeps streams independent: neighbouring seeds or trial numbers do not give neighbouring streams.
    """
    text = "/".join([str(int(seed)), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> torch.Generator:
    """Return a CPU generator seeded with `derive(seed, *names)`."""
    return torch.Generator().manual_seed(derive(seed, *names))


class IsolatedRandom:
    """A private stream for code that only knows torch's global generator (dropout, weight initialisation).

    Inside the `with` block the global generators run on this stream; outside they are as they were. The block
    can be entered again and goes on where it stopped, so a training generator may yield between entries.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Tensor, list[Tensor]] | None = None
        self._outer: tuple[Tensor, list[Tensor]] | None = None

    def __enter__(self) -> Self:
        """Put the private stream in place of the global one."""
        self._outer = _states()
        if self._own is None:
            torch.manual_seed(self._seed)
        else:
            _restore(self._own)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep the private stream's place and give the global one back."""
        self._own = _states()
        if self._outer is not None:
            _restore(self._outer)


def _states() -> tuple[Tensor, list[Tensor]]:
    """States of the CPU generator and, where CUDA is already in use, of every CUDA generator."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    return torch.get_rng_state(), cuda


def _restore(states: tuple[Tensor, list[Tensor]]) -> None:
    cpu, cuda = states
    torch.set_rng_state(cpu)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)
