"""The demo's state directory: where things are, which ports they have, and who owns it.

Invariants: one demo at a time per directory; ports stay the same from start to start unless somebody
took one; nothing is ever removed from a directory that the demo did not make.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replication_pipeline.domain.errors import ConfigurationError
from replication_pipeline.embedded.state import StateDirectory

_OURS: Final = "README.txt"
_README: Final = """\
State of `replication-pipeline demo`: databases, topics, logs. Delete it at will when no demo runs.

a.yaml, b.yaml   configuration of the contours; try: replication-pipeline status --config a.yaml
a, b             their PostgreSQL clusters
dagster          Dagster's home; dagster-db is the PostgreSQL cluster that it stores runs in
kafka            the broker
logs             one file per program
"""
# What the user's shell says must not reach into the demo: it has its own servers and settings.
_FOREIGN_PREFIXES: Final = ("REPLICATION_", "DAGSTER_", "PG")


@dataclass(frozen=True, slots=True)
class Place:
    """Paths and ports of one demo."""

    root: Path
    ports: Mapping[str, int]
    _state: StateDirectory

    @property
    def logs(self) -> Path:
        """Where every program's output goes."""
        return self.root / "logs"

    @property
    def dagster_home(self) -> Path:
        """``DAGSTER_HOME``."""
        return self.root / "dagster"

    def config(self, contour: str) -> Path:
        """The configuration file of a contour."""
        return self.root / f"{contour}.yaml"

    def log(self, program: str) -> Path:
        """The log file of a program."""
        return self.logs / f"{program}.log"

    def release(self) -> None:
        """Let the next demo in."""
        self._state.release()


def claim(root: Path) -> StateDirectory:
    """Become the owner of the directory. An owner that lives is an error, a dead one is not.

    ``ConfigurationError`` for a directory that holds something else.
    """
    root = root.resolve()
    if root.exists() and not root.is_dir():
        raise ConfigurationError(f"{root} is not a directory", remedy="choose another --state")
    if root.is_dir() and any(root.iterdir()) and not (root / _OURS).exists():
        raise ConfigurationError(
            f"{root} holds something else than the state of a demo",
            remedy="choose a new or empty directory with --state",
        )
    root.mkdir(parents=True, exist_ok=True)
    (root / _OURS).write_text(_README, encoding="utf-8")
    state = StateDirectory(root)
    state.claim()
    return state


def prepare(state: StateDirectory, servers: Sequence[str], *, fresh: bool) -> Place:
    """Empty the directory if asked to, choose ports, make the folders, put the last logs aside."""
    if fresh:
        for entry in state.path.iterdir():
            if entry.name in (_OURS, "lock"):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    place = Place(state.path, state.ports(servers, fixed={}), state)
    for folder in (place.logs, place.dagster_home):
        folder.mkdir(exist_ok=True)
    for log in place.logs.glob("*.log"):
        log.replace(log.with_suffix(".log.last"))
    return place


def set_environment() -> None:
    """Drop variables that would redirect the demo's programs; let the broker start fast.

    Java's second compiler pays off after minutes under load and takes two seconds of a start.
    """
    for name in [name for name in os.environ if name.startswith(_FOREIGN_PREFIXES)]:
        del os.environ[name]
    os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")
