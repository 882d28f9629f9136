"""A small picture of one window: how many events, how late, and where something failed.

A PNG inside markdown, which Dagster shows in place. pandas and matplotlib are imported when a window
that had batches ends, and only then: a run process is half as large without them. A picture that can't
be drawn is no reason for a window to fail, so there is none then.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from replication_pipeline.domain.batches import Batches
from replication_pipeline.logs import get_logger

if TYPE_CHECKING:
    import pandas as pd

NICE: Final = 10
PATIENCE: Final = timedelta(seconds=30)  # a machine without a moment to spare gets no picture
LARGEST: Final = 40_000  # bytes of a PNG: it is stored in a row of Dagster's event log
BLUE, ORANGE, RED, GREY = (
    "#3b6fd4",
    "#c9730a",
    "#c4314b",
    "#8a8f98",
)  # readable on white and on dark


def frame(batches: Batches) -> pd.DataFrame:
    """The course: a row for each stretch of the window, also for those in which nothing happened."""
    import pandas as pd

    course = batches.course
    rows = pd.DataFrame(
        {
            "events_per_second": [p.events / batches.width.total_seconds() for _, p in course],
            "batches": [p.batches for _, p in course],
            "failed": [p.failed for _, p in course],
            # Nothing was late where there was no batch; that is not the same as no lag.
            "max_lag_ms": [p.max_lag_ms if p.batches else None for _, p in course],
            "max_batch_ms": [p.max_duration_ms if p.batches else None for _, p in course],
        },
        index=pd.DatetimeIndex([at.replace(tzinfo=None) for at, _ in course], name="UTC"),
        dtype=float,
    )
    whole = pd.date_range(rows.index[0], rows.index[-1], freq=batches.width)
    rows = rows.reindex(whole)
    counts = ["events_per_second", "batches", "failed"]
    rows[counts] = rows[counts].fillna(0)
    return rows


def png(batches: Batches) -> bytes:
    """The picture: events above, lag and batch durations below, red where a batch failed."""
    import numpy as np
    from matplotlib import dates, ticker
    from matplotlib.figure import Figure

    rows, width = frame(batches), np.timedelta64(batches.width)
    figure = Figure(figsize=(7.6, 2.8), dpi=90, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    times = rows.index.to_numpy()
    above.step(times, rows["events_per_second"], where="post", color=BLUE, linewidth=1)
    above.fill_between(times, rows["events_per_second"], step="post", color=BLUE, alpha=0.25)
    above.set_ylabel("events/s")
    above.set_ylim(bottom=0)
    for column, color, name in (("max_lag_ms", ORANGE, "lag"), ("max_batch_ms", GREY, "batch")):
        below.plot(times, rows[column], ".-", color=color, label=name, linewidth=1, markersize=3)
    below.set_yscale("log")
    below.set_ylabel("ms, longest")
    below.legend(loc="lower right", bbox_to_anchor=(1, 0.95), fontsize=7, frameon=False, ncols=2)
    for at in times[rows["failed"] > 0]:
        for axes in (above, below):
            axes.axvspan(at, at + width, color=RED, alpha=0.35, linewidth=0)
    below.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))  # type: ignore[no-untyped-call]
    above.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    below.yaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    below.set_xlabel("UTC", fontsize=8)
    for axes in (above, below):
        axes.tick_params(labelsize=8)
        axes.yaxis.label.set_fontsize(8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    return drawn.getvalue()


def _in_the_background(batches: Batches, patience: timedelta) -> bytes | None:
    """Drawn with low priority: the imports alone take a second of a core, and the next window, which
    publishes already, should not have to share it.
    """
    drawn: list[bytes] = []

    def draw() -> None:
        try:
            if sys.platform == "linux":  # where this is of the thread alone
                usual = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, 0, max(NICE, usual))
            drawn.append(png(batches))
        except Exception as error:  # noqa: BLE001  a picture is worth no window
            get_logger("report").warning("no chart", error=type(error).__name__)

    thread = threading.Thread(target=draw, name="chart", daemon=True)
    thread.start()
    thread.join(patience.total_seconds())
    return drawn[0] if drawn else None


def markdown(batches: Batches, patience: timedelta = PATIENCE) -> str:
    """The picture as markdown; empty where there is nothing to draw, no way to, or no time."""
    if not patience or len(batches.course) < 2:  # noqa: PLR2004  one point is no line
        return ""
    drawn = _in_the_background(batches, patience)
    if drawn is None or len(drawn) > LARGEST:
        return ""
    return f"![events and lag of this window](data:image/png;base64,{base64.b64encode(drawn).decode()})"
