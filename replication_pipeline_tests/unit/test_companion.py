"""What runs beside a window: an outage is told once, a fatal error ends the window."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest

from replication_pipeline.domain.errors import FatalError, TransientError
from replication_pipeline.engine.companion import Companion

pytestmark = pytest.mark.unit

MOMENT = timedelta(milliseconds=1)


def test_outages_are_waited_out_and_told_once() -> None:
    told: list[TransientError] = []
    well = threading.Event()
    closed = threading.Event()
    steps = iter([TransientError("away"), TransientError("away"), None, TransientError("again")])

    def step() -> None:
        trouble = next(steps, None)
        if trouble is not None:
            raise trouble
        if len(told) == 2:
            well.set()

    companion = Companion(step, closed.set, MOMENT, told.append, "test")
    companion.start()
    assert well.wait(10)
    companion.close()
    companion.check()
    assert closed.is_set()
    assert [error.message for error in told] == ["away", "again"]


def test_a_fatal_error_is_raised_to_the_window() -> None:
    closed = threading.Event()

    def step() -> None:
        raise FatalError("fenced")

    companion = Companion(step, closed.set, MOMENT, lambda _: None, "test")
    companion.start()
    assert closed.wait(10)
    with pytest.raises(FatalError, match="fenced"):
        companion.check()
