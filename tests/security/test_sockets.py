"""What raybd starts listens on loopback alone, unless it is told otherwise."""

import os
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/net/tcp"),
]
LISTENING = "0A"


def descendants(process: int) -> set[int]:
    """This process and all that it started, and they."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text(encoding="utf-8")
            except OSError:  # it has ended meanwhile
                continue
            parents[int(entry.name)] = int(text.rpartition(")")[2].split()[1])
    ours = {process}
    while more := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return ours


def sockets(processes: set[int]) -> dict[str, str]:
    """The sockets of these processes: inode to the process's name."""
    found = {}
    for process in processes:
        try:
            name = Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
            links = [str(link.readlink()) for link in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue
        found |= {link.removeprefix("socket:[")[:-1]: name for link in links if link.startswith("socket:[")}
    return found


def listening(processes: set[int]) -> dict[str, str]:
    """Addresses in the kernel's hexadecimal, with ports, on which these processes listen, and which of them does."""
    ours, found = sockets(processes), {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if words[3] == LISTENING and words[9] in ours:
                found[words[1]] = ours[words[9]]
    return found


def loopback(address: str) -> bool:
    """Whether a hexadecimal address is 127.x.x.x, ::1, or the former written as the latter."""
    host = address.partition(":")[0]
    if len(host) == 8 or host.startswith("0" * 16 + "FFFF0000"):
        return host.endswith("7F")
    return host == "0" * 24 + "01000000"


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("0100007F:1F90", True),
        ("00000000:1F90", False),
        ("020200C0:1F90", False),
        ("0" * 24 + "01000000:1", True),
        ("0" * 32 + ":1", False),
        ("0" * 16 + "FFFF00000100007F:1", True),
    ],
)
def test_the_addresses_are_told_apart(address: str, local: bool) -> None:
    assert loopback(address) is local


def test_ray_listens_on_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from raybd.search.tuner import connected

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connected(workers=1) as workers:
        assert workers.map_calls(os.path.basename, ["a/b"]) == ["b"]
        found = listening(descendants(os.getpid()))
    assert found
    assert {address: name for address, name in found.items() if not loopback(address)} == {}
