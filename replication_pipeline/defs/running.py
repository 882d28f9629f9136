"""What every run that an operator starts has in common: how it ends, how it is found, what it shows.

Such a run answers SIGINT and SIGTERM itself, as windows do: it stops between two steps and reports.
After *Terminate* it is CANCELED. Errors that are for people become the run's failure, in their words.

No postponed annotations here: Dagster compares the type of an op's ``context`` as an object.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

import dagster as dg

from replication_pipeline import logs
from replication_pipeline.defs.lanes import CONTOUR_TAG, MAX_RUNTIME_TAG
from replication_pipeline.domain.errors import ReplicationError, TransientError
from replication_pipeline.domain.model import BatchResult, WindowTotals
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.settings import Settings

LONGEST: Final = timedelta(hours=1)
LOOK_EVERY: Final = 0.5  # seconds
WARN_EVERY: Final = 60.0
ROWS_SHOWN: Final = 200
CELL_SHOWN: Final = 200  # characters
NO_RETRIES: Final = {"dagster/max_retries": "0"}


def tags_of(settings: Settings, longest: timedelta = LONGEST) -> dict[str, str]:
    """Tags of such a run. After ``longest`` Dagster takes it for dead."""
    return {
        CONTOUR_TAG: settings.contour.name,
        MAX_RUNTIME_TAG: f"{longest.total_seconds():.0f}",
        **NO_RETRIES,
    }


@contextmanager
def orderly(
    context: dg.OpExecutionContext | dg.AssetExecutionContext,
    settings: Settings,
    longest: timedelta = LONGEST,
) -> Iterator[StopToken]:
    """Run the block, which stops when the token is set. ``Failure`` for what a person has to mend;
    ``DagsterExecutionInterruptedError`` after *Terminate*.
    """
    logs.configure(settings.logging, contour=settings.contour.name)
    context.instance.add_run_tags(context.run.run_id, tags_of(settings, longest))
    try:
        with stop_on_signals(StopToken()) as stop:
            yield stop
    except ReplicationError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    run = context.instance.get_run_by_id(context.run.run_id) if stop else None
    if run is not None and run.status is dg.DagsterRunStatus.CANCELING:
        raise dg.DagsterExecutionInterruptedError(f"ended in good order on {stop.reason}")


@contextmanager
def until(done: Callable[[], bool], stop: StopToken) -> Iterator[StopToken]:
    """A token that is set as soon as ``done`` says so, or ``stop`` is. An outage is no answer."""
    token, over = StopToken(), threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY) and not token:
            try:
                if stop or done():
                    token.set(stop.reason or "done")
            except TransientError:
                continue

    thread = threading.Thread(target=look, name="look", daemon=True)
    thread.start()
    try:
        yield token
    finally:
        over.set()
        thread.join()


class Watcher:
    """Tells Dagster of failed attempts, once a minute. Batches have no line of their own."""

    def __init__(self, context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
        self._context = context
        self._warned = time.monotonic() - WARN_EVERY

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        """Nothing."""

    def progress(self, sent: int, total: int) -> None:
        """Nothing."""

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:  # noqa: ARG002
        """Say what is waited for."""
        if time.monotonic() - self._warned >= WARN_EVERY:
            self._warned = time.monotonic()
            self._context.log.warning("%s; waiting and trying again", error.message)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> dg.MarkdownMetadataValue:
    """A markdown table; figures stand right. The first ``ROWS_SHOWN`` rows, and how many there are."""
    every = list(rows)
    numeric = [
        bool(every) and all(isinstance(row[n], int | float) for row in every)
        for n in range(len(headers))
    ]
    lines = [
        f"| {' | '.join(headers)} |",
        f"|{'|'.join('---:' if right else '---' for right in numeric)}|",
        *(f"| {' | '.join(_cell(value) for value in row)} |" for row in every[:ROWS_SHOWN]),
    ]
    if len(every) > ROWS_SHOWN:
        lines += ["", f"… and {len(every) - ROWS_SHOWN:,} more"]
    return dg.MetadataValue.md("\n".join(lines))


def events_(count: int) -> str:
    """``1 event``, ``2 events``."""
    return f"{count:,} event{'' if count == 1 else 's'}"


def _cell(value: Any) -> str:
    """What came from a table or from Kafka is text, never markup."""
    if isinstance(value, int | float):
        return f"{value:,}"
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = text if len(text) <= CELL_SHOWN else f"{text[: CELL_SHOWN - 1]}…"
    for mark in ("\\", "|", "<", "[", "`", "*", "_"):
        text = text.replace(mark, f"\\{mark}")
    return text
