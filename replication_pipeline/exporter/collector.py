"""What PostgreSQL has counted, as Prometheus reads it.

Nothing is counted here, so the figures are right whatever number of windows comes and goes, and
whatever becomes of this process. A scrape can neither load nor hang the database: a part of the
metrics is read again after ``EVERY`` seconds, and when reading it takes long, after so much time that
it takes a twentieth of it; each statement has a timeout, and there is one connection. A part that fails
costs its own metrics, and says so in ``replication_scrape_errors``.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from replication_pipeline.domain.errors import ReplicationError
from replication_pipeline.domain.histograms import SECOND, Histogram, cumulative
from replication_pipeline.domain.metrics import METRICS, Sample
from replication_pipeline.logs import get_logger
from replication_pipeline.postgres import metrics
from replication_pipeline.postgres.session import Session
from replication_pipeline.settings import Settings

EVERY: Final = 5.0  # seconds
SHARE: Final = 0.05  # of the time, at most, goes into reading a part
LONGEST_STATEMENT: Final = timedelta(seconds=2)
OLDEST: Final = "replication_oldest_snapshot_seconds"
LONGEST_LOOK: Final = 8.0  # seconds; Prometheus gives a scrape 10 by default


@dataclass(slots=True)
class _Read:
    """A part, as it was last read. ``told`` is empty if that failed."""

    told: Sequence[metrics.Told]
    failed: bool
    took: float
    due: float


@dataclass(slots=True, eq=False)
class Exporter(Collector):
    """Prometheus' collector of one contour. ``every``: seconds for which a part that is read stays."""

    settings: Settings
    every: float = EVERY
    _session: Session = field(init=False)
    _parts: dict[str, _Read] = field(default_factory=dict)
    _thread: ThreadPoolExecutor = field(init=False)
    _looking: Future[bool] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _trouble: str | None = None  # that was last logged
    _sees: bool = True  # others' transactions

    def __post_init__(self) -> None:
        postgres = self.settings.postgres.model_copy(
            update={"statement_timeout": LONGEST_STATEMENT, "lock_timeout": LONGEST_STATEMENT}
        )
        quick = self.settings.model_copy(update={"postgres": postgres})
        self._session = Session(quick, application_name="replicator_exporter", autocommit=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="exporter")

    def close(self) -> None:
        """Disconnect."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._session.drop()

    def describe(self) -> Iterable[Metric]:
        """Nothing is read while registering."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, with the samples there are."""
        up = self._look()
        parts = dict(self._parts) if up else {}
        samples: defaultdict[str, list[tuple[tuple[str, ...], float | Histogram]]]
        samples = defaultdict(list)
        samples["replication_up"].append(((), up))
        for part in metrics.PARTS:
            read = parts.get(part)
            errors = samples["replication_scrape_errors"]
            errors.append(((part,), read is None or read.failed))
            if read is None:
                continue
            samples["replication_scrape_duration_seconds"].append(((part,), read.took))
            for told in read.told:
                if isinstance(told, Sample):
                    samples[told.metric].append((told.labels, told.value))
                else:
                    name, labels, histogram = told
                    samples[name].append((labels, histogram))
        for metric in METRICS:
            family = _family(metric.kind, metric.name, metric.help, ("contour", *metric.labels))
            for labels, value in samples[metric.name]:
                _add(family, (self.settings.contour.name, *labels), value)
            yield family

    def _look(self) -> bool:
        """Read what is due, in a thread of its own: a server that does not answer must not keep a
        scrape waiting. One look at a time, whoever asks.
        """
        with self._lock:
            if self._looking is None or self._looking.done():
                self._looking = self._thread.submit(self._read_due)
            looking = self._looking
        try:
            return looking.result(LONGEST_LOOK)
        except FutureTimeoutError:
            self._complain("the database does not answer", None)
            return False

    def _read_due(self) -> bool:
        until = time.monotonic() + LONGEST_LOOK * 3 / 4
        try:
            connection, _ = self._session.connection()
            for part in metrics.PARTS:
                read = self._parts.get(part)
                if read is not None and time.monotonic() < read.due:
                    continue
                if time.monotonic() > until:
                    self._parts[part] = _Read((), failed=True, took=0.0, due=0.0)
                    continue
                self._parts[part] = self._read(connection, part)
                if connection.closed:
                    self._parts.clear()
                    return False
        except ReplicationError as error:
            self._complain(error.message, error.remedy)
            self._session.drop()
            self._parts.clear()
            return False
        if not any(read.failed for read in self._parts.values()):
            self._trouble = None
        return True

    def _read(self, connection: Any, part: str) -> _Read:
        began = time.monotonic()
        told: Sequence[metrics.Told] = ()
        failed = False
        try:
            told = metrics.read(connection, self.settings, part)
        except ReplicationError as error:
            failed = True
            self._complain(error.message, error.remedy)
        if part == "queue" and not failed:
            self._look_for_the_oldest(told)
        took = time.monotonic() - began
        return _Read(told, failed, took, began + took + max(self.every, took / SHARE))

    def _look_for_the_oldest(self, told: Sequence[metrics.Told]) -> None:
        """Who does not see others' transactions is told so, once: the alert on them is silent."""
        sees = any(isinstance(one, Sample) and one.metric == OLDEST for one in told)
        if not sees and self._sees:
            get_logger("exporter").warning(
                "other roles' transactions are not seen",
                missing=OLDEST,
                remedy="grant pg_read_all_stats to the exporter's role",
            )
        self._sees = sees

    def _complain(self, message: str, remedy: str | None) -> None:
        """In the log, once for each trouble."""
        if message != self._trouble:
            self._trouble = message
            get_logger("exporter").warning("can't be read", error=message, remedy=remedy)


Family = GaugeMetricFamily | CounterMetricFamily | HistogramMetricFamily


def _family(kind: str, name: str, text: str, labels: Sequence[str]) -> Family:
    match kind:
        case "counter":
            return CounterMetricFamily(name.removesuffix("_total"), text, labels=labels)
        case "histogram":
            return HistogramMetricFamily(name, text, labels=labels)
        case _:
            return GaugeMetricFamily(name, text, labels=labels)


def _add(family: Family, labels: Sequence[str], value: float | Histogram) -> None:
    if isinstance(family, HistogramMetricFamily):
        assert isinstance(value, Histogram)
        family.add_metric(labels, cumulative(value.counts), sum_value=value.total / SECOND)
    else:
        assert not isinstance(value, Histogram)
        family.add_metric(labels, float(value))
