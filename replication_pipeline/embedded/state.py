"""The directory in which one embedded server keeps its data, logs and ports.

Invariants: one live owner per directory (an advisory lock that the kernel drops with the owner,
however it ends); ports once chosen are written down, so that addresses in other programs'
configuration stay right over restarts; a server that outlived its owner is recognised by its
working directory, never by a process id from a file, which may long belong to someone else.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from replication_pipeline.embedded.process import EmbeddedServerError, free_port, port_is_free


class StateDirectory:
    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._lock: int | None = None
        self._ports: dict[str, int] = {}

    def claim(self) -> None:
        """Become the owner; a live owner elsewhere is an error, a dead one is not."""
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EmbeddedServerError(
                f"{self.path} is in use by another running server of this package. "
                "Stop that one first, or choose another directory."
            ) from None
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def ports(self, names: Sequence[str], *, fixed: dict[str, int]) -> dict[str, int]:
        """The ports to listen on: those asked for, else those of the last time, else new ones.

        Within the life of this object they never change, since callers have read them.
        """
        promised = fixed | self._ports
        for name, port in promised.items():
            if not port_is_free(port):
                raise EmbeddedServerError(
                    f"Port {port} on 127.0.0.1 ({name} of {self.path}) is taken by another "
                    "program. Stop that program, or ask for another port."
                )
        chosen = {name: port for name, port in self._remembered().items() if port_is_free(port)}
        chosen |= promised
        for name in names:
            while chosen.get(name) is None or list(chosen.values()).count(chosen[name]) > 1:
                chosen[name] = free_port()
        self._ports = {name: chosen[name] for name in names}
        self._remember(self._ports)
        return self._ports

    def _remembered(self) -> dict[str, int]:
        try:
            return {str(k): int(v) for k, v in json.loads(self._ports_file.read_text()).items()}
        except (OSError, ValueError, AttributeError):  # none yet, or unusable: choose anew
            return {}

    def _remember(self, ports: dict[str, int]) -> None:
        draft = self._ports_file.with_suffix(".new")
        draft.write_text(json.dumps(ports))
        draft.replace(self._ports_file)

    @property
    def _ports_file(self) -> Path:
        return self.path / "ports.json"


def processes_in(directory: Path, *, program: str) -> list[psutil.Process]:
    """Live processes called `program` whose working directory is `directory`."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        if process.info["name"] != program or process.info["status"] == psutil.STATUS_ZOMBIE:
            continue
        try:
            if process.cwd() == str(directory):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # gone meanwhile, or another user's and so not one of ours
    return found


def kill_all(processes: Sequence[psutil.Process], *, grace: float) -> None:
    """Wait up to `grace` seconds for processes that should be ending, then kill the rest."""
    _, lingering = psutil.wait_procs(processes, timeout=grace)
    for process in lingering:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(lingering, timeout=10)


@contextlib.contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """One holder of `lock_file` at a time, thread or process; the others wait.

    A symbolic link is refused, so that a lock in a directory open to all can't be led elsewhere.
    """
    lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
