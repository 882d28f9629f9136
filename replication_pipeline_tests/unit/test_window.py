"""Windows: when they end, how they wait, what they retry. Cycles here are plain functions."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.domain.model import (
    BatchResult,
    Consumed,
    Message,
    PartitionAdvance,
    WindowTotals,
)
from replication_pipeline.domain.names import Topic
from replication_pipeline.engine.apply import halves
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.engine.window import EAGER_LOOKS, FIRST_PAUSE, Window

pytestmark = pytest.mark.unit

WORK = BatchResult(role="publisher", count=2, processed=2)
IDLE = BatchResult(role="publisher")


class Scripted:
    """A cycle that goes through a list of outcomes, then repeats the last one."""

    def __init__(self, *outcomes: BatchResult | BaseException | Callable[[], BatchResult]) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0
        self.abandoned = 0

    def __call__(self) -> Sequence[BatchResult]:
        outcome = self.outcomes[min(self.calls, len(self.outcomes) - 1)]
        self.calls += 1
        if isinstance(outcome, BaseException):
            raise outcome
        result = outcome() if callable(outcome) else outcome
        return (result,) if result.count else ()

    def abandon(self) -> None:
        self.abandoned += 1


class Heard:
    """Remembers what a window told."""

    def __init__(self) -> None:
        self.batches = 0
        self.errors: list[str] = []

    def batch(self, result: BatchResult, totals: WindowTotals) -> None:
        self.batches += 1

    def retrying(self, error: TransientError, attempt: int, pause: timedelta) -> None:
        self.errors.append(error.message)


def window(cycle: Scripted, **options: Any) -> tuple[Window, Heard]:
    heard = Heard()
    settings: dict[str, Any] = {"stop": StopToken(), "length": timedelta(seconds=20)} | options
    return Window(role="publisher", cycle=cycle, observer=heard, **settings), heard


def test_it_drains_and_ends() -> None:
    cycle = Scripted(WORK, WORK, IDLE)
    subject, heard = window(cycle, until="drained")
    totals = subject.run()
    assert (totals.end, totals.processed, totals.batches) == ("drained", 4, 2)
    assert (cycle.calls, heard.batches) == (3, 2)


def test_drained_means_caught_up_too() -> None:
    answers = iter([False, True])
    cycle = Scripted(IDLE)
    subject, _ = window(cycle, until="drained", caught_up=lambda: next(answers))
    assert subject.run().end == "drained"
    assert cycle.calls == 2


def test_its_time_ends_it() -> None:
    subject, _ = window(Scripted(IDLE), length=timedelta(milliseconds=30))
    totals = subject.run()
    assert totals.end == "time"
    assert totals.elapsed < timedelta(seconds=5)


def test_it_goes_on_beyond_its_time_until_it_is_relieved() -> None:
    asked: list[float] = []
    began = time.monotonic()

    def relieved() -> bool:
        asked.append(time.monotonic() - began)
        return len(asked) == 3

    cycle = Scripted(IDLE)
    subject, _ = window(
        cycle,
        length=timedelta(milliseconds=30),
        overtime=timedelta(seconds=20),
        relieved=relieved,
        poll_interval=timedelta(milliseconds=1),
    )
    totals = subject.run()
    assert (totals.end, len(asked)) == ("time", 3)
    assert asked[0] >= 0.03, "asked before its time was over"
    assert totals.elapsed < timedelta(seconds=5)


def test_overtime_ends_too_and_is_no_haste() -> None:
    cycle = Scripted(IDLE)
    subject, _ = window(
        cycle,
        length=timedelta(),
        overtime=timedelta(milliseconds=100),
        relieved=lambda: False,
        poll_interval=timedelta(milliseconds=20),
    )
    totals = subject.run()
    assert totals.end == "time"
    assert totals.elapsed >= timedelta(milliseconds=100)
    assert cycle.calls < 110, "it did not pause between looks"


def test_one_cycle() -> None:
    cycle = Scripted(WORK)
    subject, _ = window(cycle, until="one_cycle")
    assert subject.run().end == "one_cycle"
    assert cycle.calls == 1


def test_a_stop_ends_it_between_cycles_and_cuts_pauses_short() -> None:
    stop = StopToken()
    cycle = Scripted(IDLE)
    subject, _ = window(cycle, stop=stop, length=None, poll_interval=timedelta(hours=1))
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    assert subject.run().end == "stopped"
    assert time.monotonic() - started < 10


def test_transient_errors_are_retried_and_counted() -> None:
    cycle = Scripted(TransientError("away"), TransientError("still away"), WORK, IDLE)
    subject, heard = window(cycle, until="drained")
    totals = subject.run()
    assert (totals.processed, totals.retries) == (2, 2)
    assert (heard.errors, cycle.abandoned) == (["away", "still away"], 2)


def test_an_outage_lasting_longer_than_the_window_is_no_error() -> None:
    subject, _ = window(Scripted(TransientError("away")), length=timedelta(milliseconds=50))
    assert subject.run().end == "time"


def test_a_stop_during_an_outage_ends_it() -> None:
    stop = StopToken()
    subject, _ = window(Scripted(TransientError("away")), stop=stop, length=None)
    threading.Timer(0.05, stop.set).start()
    assert subject.run().end == "stopped"


def test_fatal_errors_leave_it() -> None:
    subject, _ = window(Scripted(FatalError("no")))
    with pytest.raises(FatalError):
        subject.run()


def test_what_was_done_beside_the_last_cycle_is_counted_even_if_that_failed() -> None:
    subject, heard = window(Scripted(WORK, FatalError("no")), finish=lambda: [WORK])
    with pytest.raises(FatalError):
        subject.run()
    assert heard.batches == 2
    subject, _ = window(Scripted(IDLE), until="drained", finish=lambda: [WORK])
    assert subject.run().processed == 2


def test_an_impatient_interrupt_waits_for_nothing() -> None:
    subject, heard = window(Scripted(WORK, KeyboardInterrupt()), finish=lambda: [WORK])
    with pytest.raises(KeyboardInterrupt):
        subject.run()
    assert heard.batches == 1


def test_signals_set_the_flag_and_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(StopToken()) as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop
        assert stop.reason == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_second_signal_reaches_who_handled_it_before() -> None:
    # A shell that starts the tests in the background has SIGINT ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with stop_on_signals(StopToken()), pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_halves_of_a_batch_meet_in_the_middle() -> None:
    topic = Topic("t")
    messages = tuple(Message(topic, p, o, b"") for p, o in [(0, 5), (1, 9), (0, 6), (0, 8)])
    batch = Consumed(
        messages, (PartitionAdvance(topic, 0, 5, 10, 10), PartitionAdvance(topic, 1, 9, 10, 10))
    )
    first, second = halves(batch)
    assert first.messages + second.messages == messages
    assert [(a.partition, a.expected, a.next_offset) for a in first.advances] == [
        (0, 5, 6),
        (1, 9, 10),
    ]
    assert [(a.partition, a.expected, a.next_offset) for a in second.advances] == [
        (0, 6, 10),
        (1, 10, 10),
    ]


class Unhurried(StopToken):
    """Notes how long it is asked to wait, and doesn't."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.waits: list[float] = []
        self.most = most

    def wait(self, timeout: timedelta) -> bool:
        self.waits.append(timeout.total_seconds())
        if len(self.waits) == self.most:
            self.set()
        return bool(self)


def test_pauses_stay_short_for_a_while_then_double_up_to_the_interval() -> None:
    stop = Unhurried(EAGER_LOOKS + 12)
    subject, _ = window(Scripted(WORK, IDLE), stop=stop, poll_interval=timedelta(milliseconds=500))
    subject.run()
    first = FIRST_PAUSE.total_seconds()
    assert stop.waits[:EAGER_LOOKS] == [first] * EAGER_LOOKS
    assert stop.waits[EAGER_LOOKS + 1 : EAGER_LOOKS + 4] == [2 * first, 4 * first, 8 * first]
    assert stop.waits[-1] == 0.5


def test_a_cycle_that_waits_by_itself_is_not_paused() -> None:
    stop = Unhurried(3)
    subject, _ = window(Scripted(WORK, IDLE), stop=stop, poll_interval=timedelta())
    subject.run()
    assert stop.waits == [0.0] * 3
