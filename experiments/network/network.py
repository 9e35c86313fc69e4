"""Two network namespaces of this machine joined by a slow link, for unsuspecting programs.

Where the kernel has netem, a veth pair with `tc netem` on both ends; elsewhere two TUN devices, one
in each namespace, and a process a direction that holds every IP packet back until a link of that
bandwidth and latency would have delivered it. Needs root and iproute2. Packets are delayed, not
frames: congestion control, acknowledgements and headers are the kernel's own.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context

from transport.errors import UsageError
from transport.link import LinkModel

MTU = 9000
"""Packets of this size keep the forwarder at a third of a core at 1 Gbps."""
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_QUEUE_PACKETS = 1_000_000


@dataclass
class Wire:
    """When packets of one direction arrive: one after the other, then the latency."""

    link: LinkModel
    free_at: float = 0.0

    def arrival(self, now: float, size: int) -> float:
        """Of a packet of `size` bytes handed over now."""
        self.free_at = max(self.free_at, now) + 8 * size / self.link.bandwidth_bps
        return self.free_at + self.link.latency_s


@dataclass(frozen=True)
class Network:
    """Names and addresses of both ends, and how they are joined."""

    spaces: tuple[str, str]
    addresses: tuple[str, str]
    kind: str

    def command(self, end: int, command: Sequence[str]) -> list[str]:
        """The command as it runs at one end."""
        return ["ip", "netns", "exec", self.spaces[end], *command]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise UsageError(f"network: `{' '.join(command)}` failed: {done.stderr.strip()}")


@contextmanager
def network(link: LinkModel, mtu: int = MTU) -> Iterator[Network]:
    """Two namespaces and the link between them; everything is removed at the end."""
    if os.geteuid() or shutil.which("ip") is None:
        raise UsageError("network: making namespaces needs root and the program `ip` (iproute2)")
    mark = f"{os.getpid() % 100000}"
    spaces = f"hpi{mark}a", f"hpi{mark}b"
    devices = f"hp{mark}a", f"hp{mark}b"
    subnet = f"10.{os.getpid() % 200 + 20}.7"
    addresses = f"{subnet}.1", f"{subnet}.2"
    forwarders = []
    try:
        for space in spaces:
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
        kind = "tc netem" if _netem(spaces, devices, link) else "packets delayed over TUN"
        if kind != "tc netem":
            ends = [_tun(space, device) for space, device in zip(spaces, devices, strict=True)]
            context = get_context("fork")
            for source, target in (ends, ends[::-1]):
                process = context.Process(target=forward, args=(source, target, link), daemon=True)
                process.start()
                forwarders.append(process)
            for end in ends:
                os.close(end)
        for index, (space, device) in enumerate(zip(spaces, devices, strict=True)):
            pair = addresses[index], "peer", addresses[1 - index]
            _run("ip", "-n", space, "addr", "add", *pair, "dev", device)
            _run("ip", "-n", space, "link", "set", device, "mtu", str(mtu), "up")
        yield Network(spaces, addresses, kind)
    finally:
        for process in forwarders:
            process.terminate()
            process.join()
        for space in spaces:
            with suppress(UsageError):
                _run("ip", "netns", "del", space)


def _netem(spaces: tuple[str, str], devices: tuple[str, str], link: LinkModel) -> bool:
    """A veth pair with netem on both ends; False where the kernel has no netem."""
    first, second = devices
    _run("ip", "-n", spaces[0], "link", "add", first, "type", "veth", "peer", "name", second)
    _run("ip", "-n", spaces[0], "link", "set", second, "netns", spaces[1])
    rate, delay = f"{link.bandwidth_bps:.0f}bit", f"{link.latency_s * 1e6:.0f}us"
    for space, device in zip(spaces, devices, strict=True):
        try:
            _run(
                "tc", "-n", space, "qdisc", "add", "dev", device, "root", "netem",
                "delay", delay, "rate", rate, "limit", str(_QUEUE_PACKETS),
            )  # fmt: skip
        except UsageError:
            _run("ip", "-n", spaces[0], "link", "del", first)
            return False
    return True


def _tun(space: str, device: str) -> int:
    """A TUN device inside the namespace; its end stays here."""
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI)
    fcntl.ioctl(end, _TUNSETIFF, request)
    _run("ip", "link", "set", device, "netns", space)
    return end


def forward(source: int, target: int, link: LinkModel) -> None:
    """Hand packets from one device to the other, each at its time; until killed."""
    wire, waiting = Wire(link), deque[tuple[float, bytes]]()
    while True:
        now = time.perf_counter()
        timeout = max(0.0, waiting[0][0] - now) if waiting else None
        if select.select([source], [], [], timeout)[0]:
            now = time.perf_counter()
            with suppress(BlockingIOError):
                while True:
                    packet = os.read(source, 65536)
                    waiting.append((wire.arrival(now, len(packet)), packet))
        while waiting and waiting[0][0] <= time.perf_counter():
            # A full or closed device loses the packet, as a network may.
            with suppress(OSError):
                os.write(target, waiting.popleft()[1])
