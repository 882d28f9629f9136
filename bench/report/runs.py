"""Which of the committed runs are shown: the newest of each scenario and set of parameters.

A run is out of date when a newer one of the same scenario asked the same with at least its
contestants. What only says how long or how often was measured (rounds, seconds, events) doesn't
make it another question; sizes of tables and rates do. So nothing that was measured once is lost
from the page by a later run that left it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, Final

from bench.report.summary import Row, order_of, summarize
from bench.results import Result

# Parameters that make no other question of a run; so do all that begin with "aim".
HOW_LONG: Final = frozenset(
    {
        *("contestants", "server", "load_before", "warm_up", "cumulative"),
        *("rounds", "seconds", "events", "clients", "batch", "changes"),
        *("captured_at_once", "claims_per_value", "minutes", "bucket_seconds"),
    }
)
# What runs had before they could be told otherwise.
BEFORE: Final[Mapping[str, Mapping[str, Any]]] = {
    "apply": {"workload": "one-table"},
    "at-rest": {"rate": 0.0},
}


@dataclass(frozen=True)
class Run:
    """All results with one scenario and date."""

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def scenario(self) -> str:
        return self.first.scenario

    @property
    def date(self) -> str:
        return self.first.date

    @property
    def key(self) -> tuple[str, str]:
        """What no other run has."""
        return (self.scenario, self.date)

    @cached_property
    def contestants(self) -> list[str]:
        return order_of(self.results)

    @cached_property
    def rows(self) -> Mapping[str, Mapping[str, Row]]:
        """By metric and contestant."""
        found: dict[str, dict[str, Row]] = {}
        for row in summarize(self.results):
            found.setdefault(row.metric, {})[row.contestant] = row
        return found

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Those that make the question, and PostgreSQL's major version."""
        given = {
            key: value
            for key, value in self.first.settings.items()
            if key not in HOW_LONG and not key.startswith("aim")
        }
        major = str(self.first.versions.get("postgresql", "")).partition(".")[0]
        return {**BEFORE.get(self.scenario, {}), **given, "PostgreSQL": major}

    def covers(self, other: Run) -> bool:
        """Whether it has asked all that ``other`` has asked."""
        return (
            self.scenario == other.scenario
            and set(other.contestants) <= set(self.contestants)
            and self.parameters.keys() == other.parameters.keys()
            and all(_covers(self.parameters[key], was) for key, was in other.parameters.items())
        )


def _covers(mine: Any, other: Any) -> bool:
    if isinstance(mine, list) and isinstance(other, list):
        return all(value in mine for value in other)
    return bool(mine == other)


def runs_of(results: Iterable[Result]) -> list[Run]:
    """By scenario and date."""

    def of(result: Result) -> tuple[str, str]:
        return (result.scenario, result.date)

    return [Run(tuple(lines)) for _, lines in groupby(sorted(results, key=of), key=of)]


def newest(results: Iterable[Result]) -> list[Run]:
    """Runs that no newer one covers, by scenario, the newest first."""
    kept: list[Run] = []
    for run in sorted(runs_of(results), key=lambda run: run.date, reverse=True):
        if not any(later.covers(run) for later in kept):
            kept.append(run)
    return sorted(kept, key=lambda run: run.scenario)  # stable: the newest stays first


def titles(runs: Sequence[Run]) -> list[str]:
    """The scenario's name, with what tells the run from others of it."""
    found: list[str] = []
    for run in runs:
        others = [other for other in runs if other.scenario == run.scenario and other is not run]
        differing = [
            f"{key.replace('_', ' ')} {_text(value)}"
            for key, value in run.parameters.items()
            if any(other.parameters.get(key) != value for other in others)
        ]
        title = ", ".join([run.scenario, *differing])
        found.append(f"{title}, {run.date[:10]}" if title in found else title)
    while len(set(found)) < len(found):  # two of one day
        found = [
            f"{title} at {run.date[11:19].replace(':', '-')}" if found.count(title) > 1 else title
            for title, run in zip(found, runs, strict=True)
        ]
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(one) for one in value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return f"{value:,.10g}"
    return str(value)
