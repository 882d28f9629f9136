"""Results as JSON lines: one measurement a line, with all that is needed to judge it.

``run`` numbers the rounds of a scenario; ``date`` is when it began and is the same in all of its
lines: those with equal ``scenario`` and ``date`` come from one run on one server and may be compared.
Neither host names nor paths get into a line.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import psycopg

from bench.server import settings_of
from replication_pipeline import __version__
from replication_pipeline.embedded import EmbeddedPostgres

FOLDER: Final = Path(__file__).parent / "results"
GIB: Final = 2**30


def machine_facts() -> dict[str, Any]:
    """What the numbers depend on, and nothing that tells whose machine it is."""
    return {
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def commit_of_checkout() -> str:
    """The checked-out commit; ``+`` behind it when files have changed since."""
    here = Path(__file__).parent.parent
    git = ["git", "--no-optional-locks", "-C", str(here)]

    def ask(*arguments: str) -> str:
        return subprocess.run(
            [*git, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        head = ask("rev-parse", "--short=12", "HEAD")
        changes = ask("status", "--porcelain", "--", ".", ":!bench/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changes else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    scenario: str
    contestant: str
    metric: str
    value: float
    unit: str
    run: int
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    machine: Mapping[str, Any]
    commit: str
    date: str
    command: str

    def line(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def parse(cls, line: str) -> Self:
        return cls(**json.loads(line))


@dataclass(slots=True)
class Recorder:
    """Writes each result at once: a run that is interrupted keeps what it has measured."""

    scenario: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    folder: Path = FOLDER
    results: list[Result] = field(default_factory=list)
    _began: datetime = field(default_factory=lambda: datetime.now(UTC))
    _commit: str = field(default_factory=commit_of_checkout)
    _machine: Mapping[str, Any] = field(default_factory=machine_facts)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.scenario}-{self._began:%Y%m%dT%H%M%SZ}.jsonl"

    def add(self, contestant: str, metric: str, value: float, unit: str, *, run: int) -> None:
        result = Result(
            scenario=self.scenario,
            contestant=contestant,
            metric=metric,
            value=float(f"{value:.6g}"),
            unit=unit,
            run=run,
            settings=self.settings,
            versions=self.versions,
            machine=self._machine,
            commit=self._commit,
            date=self._began.isoformat(timespec="seconds"),
            command=command(sys.argv[1:]),
        )
        self.results.append(result)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(result.line() + "\n")


def recorder(
    scenario: str,
    server: EmbeddedPostgres,
    *,
    contestants: Sequence[str],
    more_versions: Mapping[str, str] = {},
    **parameters: Any,
) -> Recorder:
    """A recorder that says what server and parameters the numbers belong to.

    The first contestant is what the others are compared with.
    """
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        server_version = str(connection.info.parameter_status("server_version")).split()[0]
        server_settings = settings_of(connection)
    versions = {
        "postgresql": server_version,
        "replication_pipeline": __version__,
        "python": platform.python_version(),
        "psycopg": psycopg.__version__,
    }
    settings = {
        "contestants": list(contestants),
        **parameters,
        "load_before": round(os.getloadavg()[0], 2),
        "server": server_settings,
    }
    return Recorder(scenario, settings, {**versions, **more_versions})


def load(paths: Iterable[Path]) -> list[Result]:
    return [
        Result.parse(line)
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
        if line
    ]


def newest(folder: Path = FOLDER) -> list[Path]:
    """The newest file of each scenario."""
    latest = {path.stem.rpartition("-")[0]: path for path in sorted(folder.glob("*.jsonl"))}
    return list(latest.values())


def command(arguments: Sequence[str]) -> str:
    """The command as it was given, with every path replaced by its last part."""
    return " ".join(["python -m bench", *(_without_path(part) for part in arguments)])


def _without_path(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + ("…/" + Path(value).name if "/" in value else value)
