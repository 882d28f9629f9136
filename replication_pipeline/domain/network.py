"""Whether what is sent to a server leaves the machine."""

from __future__ import annotations

import ipaddress


def is_local(host: str) -> bool:
    """A socket's folder, or a loopback address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def host_of(server: str) -> str:
    """The host of ``host:port``."""
    return server.strip().rsplit(":", 1)[0]
