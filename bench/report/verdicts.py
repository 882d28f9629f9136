"""How far the newest runs are from the aims, and which peers are ahead.

Figures of peers stand beside ours of the same run: no other can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.aims import AIMS, FLOORS, OURS, PLAIN, Aim, is_peer
from bench.report.runs import Run
from bench.report.summary import MORE_IS_BETTER, difference, ratio, rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    contestant: str
    value: float
    ours: float | None = None
    """Ours in the same run, if it took part."""
    run: Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    aim: Aim
    run: Run | None = None
    ours: float | None = None
    floor: Figure | None = None
    plain: Figure | None = None
    peer: Figure | None = None

    @property
    def met(self) -> bool | None:
        """``None`` when it was not measured."""
        if self.ours is None:
            return None
        return (
            self.ours <= self.aim.bound
            if self.aim.better == "less"
            else self.ours >= self.aim.bound
        )

    @property
    def missed_by(self) -> float:
        """As a part of the bound; negative when it is met."""
        assert self.ours is not None
        sign = 1 if self.aim.better == "less" else -1
        return sign * (self.ours - self.aim.bound) / self.aim.bound

    @property
    def text(self) -> str:
        if self.met is None:
            return "not measured"
        if self.met:
            return "met"
        if self.missed_by >= 1:
            return f"missed: {1 + self.missed_by:.1f} times it"
        return f"missed by {max(1, round(100 * self.missed_by))} %"


def judge(runs: Sequence[Run], aims: Sequence[Aim] = AIMS) -> list[Verdict]:
    return [_judged(aim, runs) for aim in aims]


def _judged(aim: Aim, runs: Sequence[Run]) -> Verdict:
    fitting = [run for run in runs if run.scenario == aim.scenario and _fits(aim, run)]
    peer = _best_peer(aim, runs)
    for run in sorted(fitting, key=lambda run: run.date, reverse=True):
        ours = _figure(aim, run, aim.ours)
        if ours is not None:
            return Verdict(
                aim=aim,
                run=run,
                ours=ours,
                floor=_of_any(aim, run, FLOORS),
                plain=_of_any(aim, run, PLAIN),
                peer=peer,
            )
    return Verdict(aim=aim, peer=peer)


def _fits(aim: Aim, run: Run) -> bool:
    return all(run.parameters.get(key) == value for key, value in aim.where.items())


def _figure(aim: Aim, run: Run, contestant: str) -> float | None:
    values = rounds(run.results, aim.metric, contestant)
    if not values:
        return None
    if aim.kind == "value":
        return float(run.rows[aim.metric][contestant].median)
    base = rounds(run.results, aim.metric, aim.against or "")
    return ratio(values, base) if aim.kind == "ratio" else difference(values, base)


def _of_any(aim: Aim, run: Run, names: Sequence[str]) -> Figure | None:
    """The first of these that took part; not the one that ours is compared with already."""
    for name in names:
        value = None if name == aim.against else _figure(aim, run, name)
        if value is not None:
            return Figure(contestant=name, value=value, run=run)
    return None


def _best_peer(aim: Aim, runs: Sequence[Run]) -> Figure | None:
    found = []
    for run in runs:
        if not _asks_the_same(aim, run):
            continue
        for name in run.contestants:
            value = _figure(aim, run, name) if is_peer(run.scenario, name) else None
            if value is not None:
                ours = _figure(aim, run, aim.ours)
                found.append(Figure(contestant=name, value=value, ours=ours, run=run))
    if not found:
        return None
    pick = min if aim.better == "less" else max
    return pick(found, key=lambda figure: figure.value)


def _asks_the_same(aim: Aim, run: Run) -> bool:
    """``peers`` is end to end with peers, ``publish-peers`` publishing with them."""
    scenario = run.scenario
    if scenario == "peers":
        scenario = "end-to-end"
    return scenario.removesuffix("-peers") == aim.scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """A peer that is better than ours in the same run."""

    run: Run
    metric: str
    unit: str
    peer: str
    theirs: float
    ours: float

    @property
    def times(self) -> float:
        more = self.unit in MORE_IS_BETTER
        return self.theirs / self.ours if more else self.ours / self.theirs


def ahead(runs: Sequence[Run]) -> list[Ahead]:
    """The best peer of each metric of each run, where ours is behind it."""
    found = []
    for run in runs:
        for metric, rows in run.rows.items():
            ours = rows.get(OURS)
            peers = [row for name, row in rows.items() if is_peer(run.scenario, name)]
            if ours is None or not peers:
                continue
            pick = max if ours.unit in MORE_IS_BETTER else min
            best = pick(peers, key=lambda row: float(row.median))
            if not ours.median or not best.median:
                continue
            one = Ahead(
                run=run,
                metric=metric,
                unit=ours.unit,
                peer=best.contestant,
                theirs=best.median,
                ours=ours.median,
            )
            if one.times > 1:
                found.append(one)
    return found
