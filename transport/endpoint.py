"""Addresses of parties, `tcp://HOST:PORT`, and which of them never leave this machine."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from transport.errors import ConfigError
from transport.foreign import shown

_ADDRESS = re.compile(r"tcp://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+|\*):(\d{1,5}|\*)")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked address."""

    host: str
    """Name, IPv4 address or IPv6 address without brackets; `*` is every interface."""
    port: int
    """0 lets the system choose when listening."""

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """Read `tcp://HOST:PORT`; `ConfigError` when it is anything else."""
        match = _ADDRESS.fullmatch(text)
        port = 0 if match is None or match[2] == "*" else int(match[2])
        if match is None or port > _MAX_PORT:
            raise ConfigError(
                f"endpoint {shown(text)} is not an address; write tcp://HOST:PORT "
                "with a port up to 65535, for example tcp://127.0.0.1:5555"
            )
        # The name is fixed here, so that no resolver decides whether bytes leave the machine.
        host = "127.0.0.1" if match[1].lower() == "localhost" else match[1].strip("[]")
        if match[1].startswith("["):
            _require_ipv6(host, text)
        return cls(host, port)

    @property
    def is_ipv6(self) -> bool:
        """Whether the host is a literal IPv6 address."""
        return ":" in self.host

    @property
    def is_loopback(self) -> bool:
        """Whether the host is 127.0.0.0/8 or ::1; other names count as remote, unresolved."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if self.is_ipv6 else self.host
        return f"tcp://{host}:{self.port or '*'}"


def _require_ipv6(host: str, text: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise ConfigError(
            f"endpoint {shown(text)}: {host} is not an IPv6 address; write it as tcp://[::1]:PORT"
        ) from None
