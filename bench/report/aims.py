"""What was aimed at, and who is who among contestants.

An aim is about ours alone, about what ours adds to the plain way, or about its ratio to another
contestant of the same run. The floor is the least that anybody must do, the plain way what one
would write first, a peer another product.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

FLOORS: Final = ("floor", "native")
PLAIN: Final = ("plain", "plain loop", "no database", "connected")
OURS: Final = "ours"
PRODUCTS: Final = frozenset({"bucardo", "debezium", "londiste", "pgq", "skytools", "symmetricds"})
MEMORY: Final = 124.0  # MiB: 130 MB

Kind = Literal["value", "added", "ratio"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    name: str
    scenario: str
    metric: str
    unit: str
    bound: float
    better: Literal["less", "more"]
    kind: Kind = "value"
    ours: str = OURS
    against: str | None = None
    """With which contestant ``added`` and ``ratio`` compare."""
    where: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Parameters that the run must have."""
    profile: str | None = None
    """The page that says where the time goes."""

    @property
    def text(self) -> str:
        return f"{'≤' if self.better == 'less' else '≥'} {self.bound:,.10g} {self.unit}".strip()


def is_peer(scenario: str, contestant: str) -> bool:
    """Another product: named as one, or whoever is neither ours, floor nor plain among peers."""
    words = re.split(r"[^a-z]+", contestant.lower())
    if PRODUCTS & set(words):
        return True
    known = contestant.startswith(OURS) or contestant in FLOORS + PLAIN
    return "peers" in scenario.split("-") and not known


def _capture() -> Iterator[Aim]:
    for statement in ("insert", "update", "delete"):
        yield Aim(
            name=f"capture: what a row of a bulk {statement.upper()} takes more",
            scenario="capture",
            metric=f"{statement}, time",
            unit="µs/row",
            bound=5,
            better="less",
            kind="added",
            against="plain",
            profile="capture-cost.md",
        )
    yield Aim(
        name="capture: single-row transactions, share of those without",
        scenario="capture",
        metric="single-row transactions",
        unit="of plain",
        bound=0.85,
        better="more",
        kind="ratio",
        against="plain",
        profile="capture-cost.md",
    )


def _end_to_end() -> Iterator[Aim]:
    yield Aim(
        name="end to end: a backlog",
        scenario="end-to-end",
        metric="backlog: speed",
        unit="events/s",
        bound=40_000,
        better="more",
        profile="apply-cost.md",
    )
    for rate in (200, 1000):
        for percentile, bound in (("p50", 6.0), ("p99", 20.0)):
            yield Aim(
                name=f"end to end: {percentile} at {rate:,} transactions/s",
                scenario="end-to-end",
                metric=f"{percentile} at {rate}/s",
                unit="ms",
                bound=bound,
                better="less",
                profile="apply-cost.md",
            )


def _at_rest() -> Iterator[Aim]:
    for window in ("publish", "apply"):
        idle = {"scenario": "at-rest", "ours": f"run {window}", "where": {"rate": 0.0}}
        yield Aim(
            name=f"at rest: processor time of a window, {window}",
            metric="CPU",
            unit="% of a core",
            bound=0.5,
            better="less",
            profile="windows.md",
            **idle,  # type: ignore[arg-type]
        )
        yield Aim(
            name=f"at rest: memory of a window, {window} (130 MB)",
            metric="memory, proportional",
            unit="MiB",
            bound=MEMORY,
            better="less",
            profile="windows.md",
            **idle,  # type: ignore[arg-type]
        )


def _soak() -> Iterator[Aim]:
    for phase, bound in (("steady", 1_000), ("hand-overs", 5_000)):
        yield Aim(
            name=f"soak of an hour: lag p99, {phase}",
            scenario="soak",
            metric="lag p99",
            unit="ms",
            bound=bound,
            better="less",
            ours=phase,
            profile="windows.md",
        )


AIMS: Final[tuple[Aim, ...]] = (
    *_capture(),
    Aim(
        name="publish: a full queue",
        scenario="publish",
        metric="speed",
        unit="events/s",
        bound=100_000,
        better="more",
        profile="publish-cost.md",
    ),
    Aim(
        name="apply: a full topic, one table",
        scenario="apply",
        metric="speed",
        unit="events/s",
        bound=60_000,
        better="more",
        profile="apply-cost.md",
    ),
    *_end_to_end(),
    Aim(
        name="claim with 5,000,000 events unpublished, times one with 1,000",
        scenario="queue-health",
        metric="claim by depth",
        unit="times",
        bound=1.5,
        better="less",
        kind="ratio",
        ours="5 000 000 waiting",
        against="1 000 waiting",
        profile="capture-cost.md",
    ),
    Aim(
        name="compare: a million rows",
        scenario="compare",
        metric="speed",
        unit="rows/s a side",
        bound=300_000,
        better="more",
        where={"rows": 1_000_000},
    ),
    *_at_rest(),
    Aim(
        name="hand-over of windows: longest lag",
        scenario="handover",
        metric="lag max",
        unit="ms",
        bound=5_000,
        better="less",
        ours="change",
        profile="windows.md",
    ),
    *_soak(),
)
