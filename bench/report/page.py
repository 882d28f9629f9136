"""docs/benchmarks.md: aims and figures first, then where ours is behind, the method, and every run.

All of it is made of the result files, so that nobody has to believe a number that nobody measured.
A contestant, metric or scenario that this module has never heard of gets its table as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from bench.report.aims import AIMS, FLOORS, PLAIN
from bench.report.markdown import paragraph, slug, table
from bench.report.plots import has_plot
from bench.report.runs import Run, titles
from bench.report.summary import Row, number, ratio, rounds
from bench.report.verdicts import Figure, Verdict, ahead, judge

README: Final = Path(__file__).parent.parent / "README.md"
IMAGES: Final = "images/benchmarks"
OVERVIEW: Final = f"{IMAGES}/overview.svg"
BUSY: Final = 1.0  # processes that wanted a core before a run began
UNSHOWN: Final = frozenset({"contestants", "cumulative", "server", "load_before", "warm_up"})

HEAD: Final = """\
# Benchmarks

<!-- Written by `python -m bench report --write` from bench/results: change that, or measure. -->

`make bench` measures all of this and writes this page; `python -m bench report --write` writes it
from the results that are there. How to run one scenario, and how to add one, is in
[bench](../bench/README.md).

"""
METHOD: Final = """\
## Method

- **One run, one server.** Each run starts a PostgreSQL of its own, durable (`fsync`,
  `synchronous_commit` and `full_page_writes` are on), and where Kafka takes part a broker of its
  own; everything shares one machine. Settings, versions and commit are below each run.
- **Turns.** Contestants take turns in each round, and each round begins with another one. A whole
  round comes before and is thrown away, unless the run says otherwise; databases are new,
  connections warm, and the server has just made a checkpoint.
- **Medians.** A figure is the median of the rounds, with the least and the greatest beside it.
  Differences and ratios are taken round by round, and only within one run: a slow moment of the
  machine cancels out, and figures of two runs are never divided by each other.
- **Processor time** is the kernel's count for each process: worker, its backends, broker.
  PostgreSQL's own writers and the kernel's threads are in none of them.
- **Equal work.** What has arrived is compared with what was sent; a run whose contents differ
  fails, or says so.
- **Floor** is the least that anybody would have to do: COPY, librdkafka alone, PostgreSQL's own
  logical replication. **Plain** is what one would write first. **Peers** are other products, by
  default and tuned.
- Nothing of it gates a change: times depend on the machine. What can be counted (round trips, WAL,
  dead rows, plans) has bounds in `make test` (`replication_pipeline_tests/integration/costs.toml`).

"""
RUNS: Final = """\
## Runs

The newest of each scenario and size. In the plots blue is ours, green the floor, violet peers, grey
plainer ways; thin lines reach from the least to the greatest round, a dashed one is an aim.

"""


def page(runs: Sequence[Run]) -> str:
    """The whole of docs/benchmarks.md."""
    verdicts = judge(runs)
    named = {run.key: title for run, title in zip(runs, titles(runs), strict=True)}
    questions = questions_of(README.read_text(encoding="utf-8"))
    parts = [
        HEAD,
        _overview(verdicts, named),
        _behind(runs, verdicts, named),
        METHOD,
        RUNS,
        *(_section(run, named[run.key], questions.get(run.scenario, "")) for run in runs),
    ]
    return "".join(parts).rstrip() + "\n"


def image_of(title: str) -> str:
    """Where a run's plot is, from docs/."""
    return f"{IMAGES}/{slug(title)}.svg"


def questions_of(readme: str) -> dict[str, str]:
    """What each scenario asks, from the table in bench/README.md."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \|", readme, re.MULTILINE)
    return {name: question.strip() for name, question in rows}


Titles = Mapping[tuple[str, str], str]
"""By scenario and date."""


def _link(run: Run, named: Titles, text: str = "") -> str:
    title = named[run.key]
    return f"[{text or title}](#{slug(title)})"


def _overview(verdicts: Sequence[Verdict], named: Titles) -> str:
    rows = [
        (
            verdict.aim.name
            if verdict.run is None
            else _link(verdict.run, named, verdict.aim.name),
            verdict.aim.text,
            number(verdict.ours, group=","),
            _beside(verdict.floor, verdict.ours),
            _beside(verdict.plain, verdict.ours),
            _peer(verdict.peer),
            f"**{verdict.text}**" if verdict.met is False else verdict.text,
        )
        for verdict in verdicts
    ]
    met = [verdict.met for verdict in verdicts]
    text = "## Aims\n\n" + table(("", "aim", "ours", "floor", "plain", "best peer", ""), rows)
    text += paragraph(
        f"Met: {met.count(True)}. Missed: {met.count(False)}. Not measured: {met.count(None)}.",
        "In brackets: ours divided by that.",
    )
    if any(one is not None for one in met):
        text += f"![How far each figure is from its aim]({OVERVIEW})\n\n"
    return text


def _beside(figure: Figure | None, ours: float | None) -> str:
    if figure is None:
        return ""
    share = f" ({number(ours / figure.value, group=',')})" if ours and figure.value else ""
    return f"{number(figure.value, group=',')}{share}"


def _peer(figure: Figure | None) -> str:
    if figure is None:
        return ""
    ours = "" if figure.ours is None else f"; ours beside it {number(figure.ours, group=',')}"
    return f"{figure.contestant}: {number(figure.value, group=',')}{ours}"


def _behind(runs: Sequence[Run], verdicts: Sequence[Verdict], named: Titles) -> str:
    text = "## Where we are behind\n\n"
    missed = [verdict for verdict in verdicts if verdict.met is False]
    lines = [_told(verdict) for verdict in sorted(missed, key=lambda one: -one.missed_by)]
    text += "\n".join(lines or ["All aims that were measured are met."]) + "\n\n"
    unmeasured = [verdict.aim.name for verdict in verdicts if verdict.met is None]
    if unmeasured:
        text += paragraph(f"No result yet: {'; '.join(unmeasured)}.")
    peers = [
        f"- {_link(one.run, named)}, {one.metric}: {one.peer} {number(one.theirs, group=',')} "
        f"{one.unit}, ours {number(one.ours, group=',')}: {one.times:.2f} times as good."
        for one in ahead(runs)
    ]
    if peers:
        text += "Peers that were better than ours in the same run:\n\n" + "\n".join(peers) + "\n\n"
    busy = [f"{named[run.key]} ({_load(run):g})" for run in runs if _load(run) > BUSY]
    if busy:
        text += paragraph(
            "The machine had other work when these began, so that they show less than it can do; in",
            f"brackets how many processes wanted a core: {', '.join(busy)}.",
        )
    return text


def _told(verdict: Verdict) -> str:
    aim = verdict.aim
    where = f"; [where the time goes]({aim.profile})" if aim.profile else ""
    figure = f"{number(verdict.ours, group=',')} {aim.unit}"
    return f"- {aim.name}: {figure} for {aim.text}, {verdict.text}{where}."


def _load(run: Run) -> float:
    return float(run.first.settings.get("load_before", 0.0))


def _section(run: Run, title: str, question: str) -> str:
    text = f"### {title}\n\n"
    if question:
        text += f"{question}\n\n"
    if has_plot(run):
        text += f"![{title}: medians and spread]({image_of(title)})\n\n"
    return text + _table(run) + "\n".join(_facts(run)) + "\n\n"


def _table(run: Run) -> str:
    aims = [
        aim
        for aim in AIMS
        if aim.scenario == run.scenario
        and all(run.parameters.get(key) == value for key, value in aim.where.items())
    ]
    verdicts = {(one.aim.metric, one.aim.ours): one for one in judge([run], aims)}
    beside = [
        name
        for names in (FLOORS, PLAIN)
        for name in [next((name for name in names if name in run.contestants), None)]
        if name is not None
    ]
    headings = ["", "contestant", "median", "min … max", *(f"by {name}" for name in beside)]
    rows = [
        (
            f"{metric}, {row.unit}".rstrip(", ") if position == 0 else "",
            contestant,
            number(row.median, group=","),
            _spread(row),
            *(_ratio(run, metric, contestant, name) for name in beside),
            *([_aim(verdicts.get((metric, contestant)))] if aims else []),
        )
        for metric, contestants in run.rows.items()
        for position, (contestant, row) in enumerate(contestants.items())
    ]
    return table([*headings, *(["aim"] if aims else [])], rows)


def _spread(row: Row) -> str:
    if row.runs == 1:
        return ""
    return f"{number(row.low, group=',')} … {number(row.high, group=',')}"


def _ratio(run: Run, metric: str, contestant: str, other: str) -> str:
    if contestant == other:
        return ""
    found = ratio(rounds(run.results, metric, contestant), rounds(run.results, metric, other))
    return number(found, group=",")


def _aim(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    aim = verdict.aim
    figure = number(verdict.ours, group=",")
    match aim.kind:
        case "added":
            return f"more than {aim.against}: {aim.text}; it is {figure}: {verdict.text}"
        case "ratio":
            return f"by {aim.against}: {aim.text}; it is {figure}: {verdict.text}"
        case "value":
            return f"{aim.text}: {verdict.text}"


def _facts(run: Run) -> Iterator[str]:
    first = run.first
    began = datetime.fromisoformat(first.date)
    changes = " with changes" if first.commit.endswith("+") else ""
    yield (
        f"{began:%Y-%m-%d %H:%M} UTC, `{first.command}`, commit {first.commit.rstrip('+')}{changes}\\"
    )
    machine = first.machine
    yield (
        f"{machine.get('cpus')} cores ({machine.get('cpu')}), {machine.get('memory_gib')} GiB, "
        f"Linux {machine.get('kernel')}; load before {_load(run):g}\\"
    )
    yield ", ".join(f"{name} {version}" for name, version in first.versions.items()) + "\\"
    given = {key: value for key, value in first.settings.items() if key not in UNSHOWN}
    warm_up = first.settings.get("warm_up")
    yield _settings(given) + (f"; warm-up: {warm_up}\\" if warm_up else "\\")
    yield f"Server: {_settings(first.settings.get('server', {}))}"


def _settings(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {_setting(value)}" for key, value in given.items())


def _setting(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_setting(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " ".join(map(_setting, value))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value:,.10g}" if is_number else str(value)
