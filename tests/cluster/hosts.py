"""Two hosts on this machine: network namespaces with a cable between them, each with a Ray node and its own disk."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RAYBD = (sys.executable, "-c", "from raybd.cli import main; main()")
HEAD, WORKER = "10.213.77.1", "10.213.77.2"
PORT = 6379
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}

needed = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "mount"))),
    reason="network namespaces need root, iproute2 and util-linux",
)


class Hosts:
    """Namespaces `head`, where the driver runs and no trial does, and `worker`; what lies in `runs` only head sees.

    Whatever runs in a namespace is ended by its process ids, which the kernel lists by namespace: nobody else's.
    """

    def __init__(self, folder: Path) -> None:
        self.runs = folder / "runs"
        self._ray = Path("/tmp") / f"rb{os.getpid()}"  # short: sockets lie in it
        self._log = folder / "ray.log"
        self._names = {"head": f"rbh{os.getpid()}", "worker": f"rbw{os.getpid()}"}
        self.runs.mkdir(parents=True)
        self._ray.mkdir()

    def plug(self) -> None:
        """Make the namespaces and the cable."""
        head, worker = self._names["head"], self._names["worker"]
        for name in (head, worker):
            _do("ip", "netns", "add", name)
            _do("ip", "-n", name, "link", "set", "lo", "up")
        _do("ip", "link", "add", "eth9", "netns", head, "type", "veth", "peer", "name", "eth9", "netns", worker)
        for name, address in ((head, HEAD), (worker, WORKER)):
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth9")
            _do("ip", "-n", name, "link", "set", "eth9", "up")

    def start_head(self) -> None:
        """Start Ray's head without room for a trial."""
        place = f"--port={PORT} --node-ip-address={HEAD} --temp-dir={self._ray}"
        self._start("head", "", f"--head --include-dashboard=false --num-cpus=0 {place}")
        self._wait_for_port()

    def start_worker(self, cpus: int = 2) -> None:
        """Start a worker whose /tmp of Ray is its own, and for which the run folder does not exist."""
        own = f"mount -t tmpfs tmpfs {self._ray} && mount -t tmpfs -o ro tmpfs {self.runs} && "
        self._start("worker", own, f"--address={HEAD}:{PORT} --node-ip-address={WORKER} --num-cpus={cpus}")

    def _start(self, where: str, before: str, options: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        command = f"{before}exec {ray} start --block --disable-usage-stats {options}"
        with self._log.open("a") as log:
            subprocess.Popen(
                ["ip", "netns", "exec", self._names[where], "unshare", "--mount", "sh", "-c", command],
                stdout=log,
                stderr=log,
                env=ENVIRONMENT,
                start_new_session=True,
            )

    def _wait_for_port(self) -> None:
        for _ in range(600):
            listening = _do("ip", "netns", "exec", self._names["head"], "ss", "-Htln", f"sport = {PORT}")
            if listening:
                return
            time.sleep(0.1)
        raise RuntimeError(self._log.read_text()[-2000:])

    def raybd(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `raybd` on the head, as a driver of the cluster."""
        return subprocess.Popen(
            ["ip", "netns", "exec", self._names["head"], *RAYBD, *arguments, "--runs", str(self.runs)],
            env={**ENVIRONMENT, "RAY_ADDRESS": f"{HEAD}:{PORT}", "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def cut(self, seconds: float) -> None:
        """Pull the cable and put it back."""
        _do("ip", "-n", self._names["head"], "link", "set", "eth9", "down")
        time.sleep(seconds)
        _do("ip", "-n", self._names["head"], "link", "set", "eth9", "up")

    def kill(self, where: str) -> None:
        """End everything on a host at once, as a power cut does."""
        for _ in range(100):
            found = _do("ip", "netns", "pids", self._names[where]).split()
            if not found:
                return
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
        raise RuntimeError(f"{where}: processes {found} do not end")

    def unplug(self) -> None:
        """End everything and take the namespaces away."""
        for where, name in self._names.items():
            with contextlib.suppress(subprocess.CalledProcessError):
                self.kill(where)
                _do("ip", "netns", "delete", name)
        shutil.rmtree(self._ray, ignore_errors=True)


@contextlib.contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts with Ray running on both, for as long as the block lasts."""
    both = Hosts(folder)
    try:
        both.plug()
        both.start_head()
        both.start_worker()
        yield both
    finally:
        both.unplug()


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _do(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
