"""Which live processes belong to a state directory: those that carry its path in their environment.

Dagster starts runs as grandchildren of ours, in groups of their own, so neither parenthood nor process
groups tell; a variable is inherited by all of them. Databases and the broker look after their own
leftovers (``embedded.state``) and don't carry it. Light, because the watchdog lives on this alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

STATE_VARIABLE: Final = "REPLICATION_DEMO_STATE"


def processes_of(root: Path) -> list[psutil.Process]:
    """Live processes of the demo in ``root``, but not the calling one."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.pid != os.getpid()
                and process.environ().get(STATE_VARIABLE) == str(root)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or another user's and so not one of ours
    return found


def is_run(process: psutil.Process) -> bool:
    """Whether this is the process of a Dagster run: its launcher starts them by ``spawn``."""
    try:
        return any("spawn_main" in part for part in process.cmdline())
    except psutil.Error:
        return False


def kill_leftovers(
    root: Path, *, spare: Callable[[psutil.Process], bool] = lambda _: False
) -> Sequence[psutil.Process]:
    """SIGKILL until none is left: one that is being killed may just have started another."""
    killed: dict[int, psutil.Process] = {}
    while found := [process for process in processes_of(root) if not spare(process)]:
        for process in found:
            killed[process.pid] = process
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(found, timeout=1)
    return list(killed.values())
