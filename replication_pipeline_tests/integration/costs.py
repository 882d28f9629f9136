"""What can be counted of publishing, applying, capturing and claiming, and its committed baseline.

``costs.toml`` has what was seen of each cost and how much more a change may take. ``UPDATE_COSTS=1``
(make costs) writes what is seen now; how much more, the bound and why stay a person's decision. Times
are never in it.
"""

from __future__ import annotations

import gc
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals

BASELINE: Final = Path(__file__).with_name("costs.toml")
LOOK: Final = "look at it, and write it with make costs if it is to be so"


def baseline(path: Path = BASELINE) -> dict[str, dict[str, Any]]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def allowed(cost: dict[str, Any]) -> float:
    """What was seen and what it may be more, but never above its bound."""
    grown = float(cost["seen"]) * (1 + float(cost["more"])) + float(cost.get("plus", 0))
    return min(grown, float(cost.get("bound", grown)))


def costs_no_more(name: str, value: float) -> None:
    """Fail when ``value`` is above what the baseline allows."""
    if os.environ.get("UPDATE_COSTS"):
        rewrite(name, f"{value:.4g}")
    cost = baseline()[name]
    assert value <= allowed(cost), f"{name} was {cost['seen']} {cost['unit']}: {LOOK}"


def goes_as(name: str, plan: str) -> None:
    """Fail when a statement's plan has another shape."""
    if os.environ.get("UPDATE_COSTS"):
        rewrite(name, f'"""\n{plan}\n"""')
    assert plan == baseline()[name]["seen"].strip("\n"), f"{name} has another plan: {LOOK}"


def rewrite(name: str, seen: str, path: Path = BASELINE) -> None:
    """Write what is seen of one cost; all else in the file stays as it is."""
    text = path.read_text(encoding="utf-8")
    head, section, rest = text.partition(f"[{name}]\n")
    assert section, f"costs.toml has no [{name}]; add it with a unit, what is allowed, and why"
    pattern = re.compile(r'^seen = (?:""".*?"""|[^\n]*)$', re.MULTILINE | re.DOTALL)
    written = pattern.sub(lambda _: f"seen = {seen}", rest, count=1)
    path.write_text(head + section + written, encoding="utf-8")


@dataclass
class Batches:
    """A window's observer; nothing may disturb the window."""

    counts: list[int] = field(default_factory=list)
    collections: set[int] = field(default_factory=set)
    """How many new objects call the garbage collector."""

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.counts.append(result.count)
        self.collections.add(gc.get_threshold()[0])

    def retrying(self, error: TransientError, attempt: int, pause: object) -> None:
        pytest.fail(f"disturbed: {error}")


def wal_bytes(session: psycopg.Connection) -> int:
    """What this session has written so far."""
    session.rollback()
    session.execute("select pg_stat_force_next_flush()")
    session.commit()
    query = "select wal_bytes::bigint from pg_stat_get_backend_wal(pg_backend_pid())"
    (written,) = session.execute(query).fetchone() or (0,)
    session.commit()
    return int(written)
