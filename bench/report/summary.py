"""Medians, spread, differences and ratios of one run's results.

A contestant is compared with another one of the same run only, paired round by round before the
median is taken: what slowed a whole round down cancels out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from bench.results import Result

# Of these units more is better; of all others less.
MORE_IS_BETTER: Final = ("events/s", "rows/s", "rows/s a side", "tx/s", "share", "MB/s")
HUNDRED, TEN, HUNDREDTH, SMALLEST = 100, 10, 0.01, 0.0001


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One contestant in one metric. The first contestant's own ``added`` and ``ratio`` are ``None``."""

    metric: str
    unit: str
    contestant: str
    runs: int
    median: float
    low: float
    high: float
    added: float | None
    """More than the first contestant."""
    ratio: float | None
    """To the first contestant."""
    step: float | None
    """More than the contestant before."""


def summarize(results: Sequence[Result]) -> list[Row]:
    """Rows by metric and contestant, in the order in which the run names them.

    Raises ``ValueError`` for results of more than one run: their servers may differ.
    """
    if not results:
        return []
    if len({(result.scenario, result.date) for result in results}) > 1:
        raise ValueError("only results of one run can be compared")
    rows = []
    for metric in dict.fromkeys(result.metric for result in results):
        of_metric = [result for result in results if result.metric == metric]
        contestants = order_of(of_metric)
        first = contestants[0]
        for position, name in enumerate(contestants):
            values = rounds(of_metric, metric, name)
            base = rounds(of_metric, metric, first) if position else {}
            before = rounds(of_metric, metric, contestants[position - 1]) if position else {}
            rows.append(
                Row(
                    metric=metric,
                    unit=of_metric[0].unit,
                    contestant=name,
                    runs=len(values),
                    median=median(values.values()),
                    low=min(values.values()),
                    high=max(values.values()),
                    added=difference(values, base),
                    ratio=ratio(values, base),
                    step=difference(values, before),
                )
            )
    return rows


def order_of(results: Sequence[Result]) -> list[str]:
    """The contestants that have results, as the run names them; those that it doesn't name are last."""
    present = dict.fromkeys(result.contestant for result in results)
    named = [name for name in results[0].settings.get("contestants", ()) if name in present]
    return [*named, *(name for name in present if name not in named)]


def rounds(results: Iterable[Result], metric: str, contestant: str) -> dict[int, float]:
    """Values by round."""
    return {
        result.run: result.value
        for result in results
        if result.metric == metric and result.contestant == contestant
    }


def difference(values: dict[int, float], base: dict[int, float]) -> float | None:
    """The median of what is more than in ``base``, round by round."""
    return _median(value - base[run] for run, value in values.items() if run in base)


def ratio(values: dict[int, float], base: dict[int, float]) -> float | None:
    """The median of the ratios to ``base``, round by round."""
    return _median(value / base[run] for run, value in values.items() if base.get(run))


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return median(found) if found else None


def number(value: float | None, *, sign: bool = False, group: str = "\N{THIN SPACE}") -> str:
    """Three digits that mean something; thousands are grouped."""
    if value is None:
        return ""
    size = abs(value)
    if SMALLEST <= size < HUNDREDTH:
        return f"{value:{'+' if sign else ''}.2g}"
    digits = 0 if size >= HUNDRED else 1 if size >= TEN else 2
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    return text.replace(",", group)
