"""Is the process of a run still there? For runs whose host died, which nobody could report.

Dagster's launcher starts runs on the code server's host and can't check on them; a run that was
lost with its host stays "started" until its longest time is over, and would be counted as a window.
So a run carries its process's mark, and the sensor, which runs on the code server's host too, looks.
A mark from another host, or none, says nothing: such a run counts as alive.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path


def mark() -> str | None:
    """Host, process and the process's start: no later process has the same."""
    started = _started(os.getpid())
    return f"{socket.gethostname()}/{os.getpid()}/{started}" if started else None


def is_gone(mark: str | None) -> bool:
    """True only if the marked process was on this host and is no more."""
    match (mark or "").split("/"):
        case [host, pid, started] if host == socket.gethostname() and pid.isdigit():
            return _started(int(pid)) != started
        case _:
            return False


def _started(pid: int) -> str | None:
    """When ``pid`` started, in the kernel's ticks; ``None`` if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # ended, or a system without /proc, where no mark is made either
        return None
    # The second field is the program's name in parentheses and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
