"""Weights that a worker on another machine has made, brought to the driver's disk, where the run folder is."""

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raybd.registry import BadInput


class Keeper:
    """A process on the driver's machine that writes what workers send, and only below one folder."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def keep(self, path: str, content: bytes) -> None:
        """Write a file so that a reader sees all of it or nothing.

        Raises:
            BadInput: if it would lie outside the folder.
        """
        target = Path(os.path.normpath(path))
        if not target.is_relative_to(self._root):
            raise BadInput(f"weights: expected a file below {self._root}, got {path}")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.sent")
        draft.write_bytes(content)
        draft.replace(target)


@dataclass(frozen=True, kw_only=True)
class Courier:
    """Knows where the driver is. Machines need no file system in common: NFS on some clusters is slow, or missing."""

    node: str
    keeper: Any

    @classmethod
    def from_here(cls, root: Path) -> "Courier":
        """Return a courier whose files arrive below `root` on this machine."""
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        options: dict[str, Any] = {"num_cpus": 0, "scheduling_strategy": here}
        keeper = ray.remote(**options)(Keeper).remote(str(root.absolute()))
        return cls(node=node, keeper=keeper)

    def close(self) -> None:
        """End the keeper."""
        ray.kill(self.keeper)


class Desk:
    """Where one worker process writes weights; without a courier, or beside the driver, at their place itself."""

    def __init__(self, courier: Courier | None) -> None:
        away = courier is not None and courier.node != ray.get_runtime_context().get_node_id()
        self._courier = courier if away else None
        self._scratch: Path | None = None

    def draft(self, target: Path) -> Path:
        """Return where to write what is meant for `target`; of one that is not sent the next takes the place."""
        if self._courier is None:
            return target
        self._scratch = self._scratch or Path(tempfile.mkdtemp(prefix="raybd-"))
        return self._scratch / target.name

    def send(self, target: Path) -> None:
        """Bring to `target` what was drafted for it, if anything was."""
        if self._courier is None:
            return
        draft = self.draft(target)
        if draft.is_file():
            ray.get(self._courier.keeper.keep.remote(str(target), draft.read_bytes()))
        self.close()

    def close(self) -> None:
        """Leave nothing behind on a machine that is not the driver's."""
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
