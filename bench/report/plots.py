"""The page's plots: bars of one run's medians with their spread, and how far all aims are.

SVG with a transparent ground and middle tones, which can be read on light pages and on dark ones.
Text stays text, in the reader's own font. The same results give the same bytes: neither dates nor
random names get in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bench.report.aims import FLOORS, OURS, PLAIN, Aim, is_peer
from bench.report.runs import Run
from bench.report.summary import number
from bench.report.verdicts import Verdict

# Each has a contrast of 3 or more to white and to GitHub's dark ground.
TEXT, LINES = "#7d8590", "#7d859066"
BLUE, GREEN, ORANGE, VIOLET, GREY = "#3a86e0", "#2da44e", "#d9730d", "#9a6be0", "#8b949e"
STYLE: Final[dict[Any, Any]] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": TEXT,
    "axes.edgecolor": LINES,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
# What of a scenario is drawn, by patterns of metrics; the first metrics of any other.
DRAWN: Final[Mapping[str, Sequence[str]]] = {
    "apply": ("speed", "CPU of .*"),
    "apply-family": ("speed", "CPU of .*"),
    "at-rest": ("CPU", "memory, proportional"),
    "capture": ("insert, time", "update, time", "delete, time", "single-row transactions"),
    "compare": ("speed", "CPU.*"),
    "end-to-end": ("backlog: .*", "p50 at .*", "p99 at .*"),
    "handover": ("longest pause", "lag p99"),
    "peers": ("backlog: speed", "p50 at .*", "p99 at .*", "CPU.*"),
    "publish": ("speed", "CPU of .*"),
    "publish-idle": ("CPU, both",),
    "publish-latency": ("p50", "p99"),
    "publish-peers": ("speed", "CPU of .*"),
    "queue-health": ("claim by depth", "claim"),
    "scaling": (".*speed",),
    "soak": ("lag p50", "lag p99", "lag max"),
}
# What is drawn over time: a title and a pattern of metrics whose rounds are moments.
COURSES: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "soak": (("lag, ms", "lag .* over time"), ("memory of a process, MiB", "memory over time")),
}
COURSE: Final = 2.9  # inches
COLOURS: Final = (BLUE, ORANGE, GREEN, VIOLET, GREY)
OTHERWISE: Final = 4  # metrics
LOGARITHMIC: Final = 20.0  # times the least: then the scale is logarithmic
TIMES: Final = "\N{MULTIPLICATION SIGN}"
WIDTH: Final = 9.0  # inches
BAR, AROUND = 0.27, 0.75  # inches, of each bar and about all bars of a metric
HIGH: Final = 0.62  # of a place is the bar
CHARACTER: Final = 0.082  # inches, in wider fonts than ours too
ROOM: Final = 1.32  # of the longest bar, for figures behind it
NEAR: Final = 0.12  # of the longest bar: a figure would stand on the aim
THOUSAND: Final = 1000
REACH: Final = 16.0  # times the aim, and its inverse: the ends of the overview
EDGE: Final = 8.0  # figures beyond have no room outwards


def drawn(run: Run) -> list[str]:
    """The metrics of a run's plot; those of one contestant in one figure each tell nothing."""
    patterns = DRAWN.get(run.scenario)
    if patterns is None:
        found = [*run.rows][:OTHERWISE]
    else:
        found = [
            metric
            for pattern in patterns
            for metric in run.rows
            if re.fullmatch(pattern, metric) and len(run.rows[metric]) > 1
        ]
    return found


def has_plot(run: Run) -> bool:
    return bool(drawn(run) or _courses(run))


def _courses(run: Run) -> list[tuple[str, list[str]]]:
    """Titles and metrics."""
    return [
        (title, found)
        for title, pattern in COURSES.get(run.scenario, ())
        if (found := [metric for metric in run.rows if re.fullmatch(pattern, metric)])
    ]


def of_run(run: Run, title: str, aims: Sequence[Aim]) -> bytes | None:
    """Bars for each of its metrics that are drawn, and courses; ``None`` when there are none."""
    metrics, courses = drawn(run), _courses(run)
    if not metrics and not courses:
        return None
    frames = [_frame(run, metric) for metric in metrics]
    heights = [*(AROUND + BAR * len(frame) for frame in frames), *([COURSE] * len(courses))]
    longest = max((len(str(name)) for frame in frames for name in frame.index), default=6)
    with _figure(sum(heights)) as figure:
        left = (0.15 + CHARACTER * longest) / WIDTH
        grid = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        figure.subplots_adjust(
            left=left,
            right=0.985,
            top=1 - 0.36 / sum(heights),
            bottom=(0.8 if courses else 0.3) / sum(heights),
            hspace=AROUND / (sum(heights) / len(heights) - AROUND),
        )
        for axes, frame, metric in zip(grid, frames, metrics, strict=False):
            fitting = [
                aim
                for aim in aims
                if aim.kind == "value" and aim.metric == metric and aim.ours in frame.index
            ]
            _bars(axes, run, frame, metric, fitting)
        for axes, (told, found) in zip(grid[len(frames) :], courses, strict=True):
            _course(axes, run, told, found)
        return _svg(figure, title)


def _course(axes: Axes, run: Run, title: str, metrics: Sequence[str]) -> None:
    """Lines over the minutes of the run, on a scale where short peaks don't hide all else."""
    minutes = float(run.first.settings.get("bucket_seconds", 60.0)) / 60
    table = pd.DataFrame(
        [
            {
                "minute": result.run * minutes,
                "line": f"{result.contestant}, {result.metric.removesuffix(' over time')}",
                "value": result.value,
            }
            for result in run.results
            if result.metric in metrics
        ]
    ).pivot_table(index="minute", columns="line", values="value")
    for position, line in enumerate(table.columns):
        styles, colour = divmod(position, len(COLOURS))
        told = str(line).removeprefix("over time, ")
        axes.plot(
            table.index,
            table[line],
            color=COLOURS[colour],
            linestyle=("-", "--", ":")[styles % 3],
            linewidth=1.4,
            label=told if len(metrics) > 1 else told.rpartition(", ")[0],
        )
    if float(table.max().max()) > LOGARITHMIC * max(float(table.min().min()), 1e-9):
        axes.set_yscale("log")
        axes.minorticks_off()
    axes.legend(
        frameon=False,
        fontsize=8.5,
        labelcolor=TEXT,
        ncols=4,
        loc="upper left",
        bbox_to_anchor=(0, -0.1),
    )
    axes.set_title(f"{title}, by minute")
    axes.yaxis.set_major_formatter(FuncFormatter(_short))
    _plain(axes)
    axes.grid(axis="y", color=LINES, linewidth=0.6)


def overview(verdicts: Sequence[Verdict]) -> bytes:
    """How many times as good as its aim each figure is."""
    frame = pd.DataFrame(
        [
            {
                "name": verdict.aim.name,
                "times": 1 / (1 + verdict.missed_by)
                if verdict.aim.better == "less"
                else 1 - verdict.missed_by,
                "met": verdict.met,
            }
            for verdict in verdicts
            if verdict.met is not None
        ]
    ).set_index("name")
    frame = frame.iloc[::-1]
    height = 0.85 + BAR * len(frame)
    longest = max(len(str(name)) for name in frame.index)
    with _figure(height) as figure:
        axes = figure.subplots()
        figure.subplots_adjust(
            left=(0.15 + CHARACTER * longest) / WIDTH,
            right=0.985,
            top=1 - 0.38 / height,
            bottom=0.32 / height,
        )
        axes.set_xscale("log", base=2)
        axes.set_xlim(1 / REACH / 1.1, REACH * 1.1)
        shown = frame["times"].clip(1 / REACH, REACH)
        colours = [BLUE if met else ORANGE for met in frame["met"]]
        places = range(len(frame))
        axes.hlines(places, 1, shown, colors=colours, linewidth=3)
        axes.scatter(shown, places, color=colours, s=34, zorder=3)
        axes.axvline(1, color=TEXT, linewidth=1)
        for place, value in zip(places, frame["times"], strict=True):
            right = (value >= 1) == (1 / EDGE < value < EDGE)  # inwards at the edge
            axes.annotate(
                f"{value:.2g}{TIMES}",
                (min(max(value, 1 / REACH), REACH), place),
                xytext=(7 if right else -7, 0 if 1 / EDGE < value < EDGE else 8),
                textcoords="offset points",
                va="center",
                ha="left" if right else "right",
                fontsize=9,
            )
        axes.set_yticks([*places], [str(name) for name in frame.index])
        axes.set_ylim(-0.6, len(frame) - 0.4)
        axes.xaxis.set_major_formatter(FuncFormatter(_times))
        axes.set_title("times as good as the aim: blue is met, orange is missed")
        _plain(axes)
        return _svg(figure, "Figures by their aims")


def _frame(run: Run, metric: str) -> pd.DataFrame:
    rows = run.rows[metric].values()
    return pd.DataFrame(
        {
            "median": [row.median for row in rows],
            "low": [row.low for row in rows],
            "high": [row.high for row in rows],
        },
        index=[row.contestant for row in rows],
    )


def _bars(axes: Axes, run: Run, frame: pd.DataFrame, metric: str, aims: Sequence[Aim]) -> None:
    places = range(len(frame))
    spread = [frame["median"] - frame["low"], frame["high"] - frame["median"]]
    axes.barh(
        [*places],
        frame["median"],
        height=HIGH,
        color=[_colour(run, str(name)) for name in frame.index],
        xerr=spread if bool((frame["high"] > frame["low"]).any()) else None,
        error_kw={"ecolor": TEXT, "elinewidth": 1, "capsize": 2.5},
    )
    bounds = [aim.bound for aim in aims]
    farthest = max(float(frame["high"].max()), *bounds, 0.0) or 1.0
    near = {
        list(frame.index).index(aim.ours): aim.bound
        for aim in aims
        if 0 < aim.bound - float(frame["high"][aim.ours]) < NEAR * farthest
    }
    for place, (value, high) in enumerate(zip(frame["median"], frame["high"], strict=True)):
        axes.annotate(
            number(value, group=","),
            (near.get(place, high), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    for aim in aims:
        at = list(frame.index).index(aim.ours)
        dashed = (0, (4, 3))
        axes.vlines(aim.bound, at - 0.5, at + 0.5, colors=ORANGE, linewidth=1.6, linestyles=dashed)
    if bounds:
        told = ", ".join(f"{bound:,.10g}" for bound in sorted(set(bounds)))
        axes.set_title(f"aim {told}", loc="right", color=ORANGE)
    axes.set_xlim(0, farthest * ROOM)
    axes.set_yticks([*places], [str(name) for name in frame.index])
    axes.set_ylim(len(frame) - 0.5, -0.5)
    axes.set_title(f"{metric}, {next(iter(run.rows[metric].values())).unit}".rstrip(", "))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    _plain(axes)


def _times(value: float, _: object) -> str:
    return f"{value:g}{TIMES}" if value >= 1 else f"1/{1 / value:g}"


def _short(value: float, _: object) -> str:
    return f"{value / THOUSAND:,g}k" if abs(value) >= 10 * THOUSAND else f"{value:,g}"


def _colour(run: Run, contestant: str) -> str:
    if contestant in FLOORS:
        return GREEN
    if is_peer(run.scenario, contestant):
        return VIOLET
    alone = not any(name in FLOORS + PLAIN for name in run.contestants)
    return BLUE if OURS in contestant or (alone and contestant not in PLAIN) else GREY


def _plain(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", length=3, labelsize=8.5)
    axes.grid(axis="x", color=LINES, linewidth=0.6)
    axes.set_axisbelow(True)


@contextmanager
def _figure(height: float) -> Iterator[Figure]:
    with mpl.rc_context(rc={**dict(mpl.rcParamsDefault), **STYLE}):
        yield Figure(figsize=(WIDTH, height))


def _svg(figure: Figure, title: str) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    lines = file.getvalue().decode().splitlines()
    return ("\n".join(line.rstrip() for line in lines) + "\n").encode()
