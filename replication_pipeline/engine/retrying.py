"""Doing something again for as long as it fails for a while only: an outage is waited out.

Pauses grow, at random, so that workers which failed together don't come back together, and end when
somebody asks to stop. Fatal errors pass at once.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final, Protocol

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from replication_pipeline.domain.errors import TransientError
from replication_pipeline.engine.stopping import StopToken

LONGEST_PAUSE: Final = timedelta(seconds=5)


class Retried(Protocol):
    """Told of each failure that is followed by another attempt."""

    def __call__(self, error: TransientError, attempt: int, pause: timedelta) -> None: ...


def retrying(
    stop: StopToken, *, over: Callable[[], bool], abandon: Callable[[], None], told: Retried
) -> Retrying:
    """Calls what it is given until it succeeds, or ``over()``: then the last failure is raised.

    ``abandon`` is called after each failure, the last one included.
    """

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, TransientError) and state.next_action is not None:
            told(error, state.attempt_number, timedelta(seconds=state.next_action.sleep))

    def pause(seconds: float) -> None:
        stop.wait(timedelta(seconds=seconds))

    return Retrying(
        retry=retry_if_exception_type(TransientError),
        wait=wait_random_exponential(multiplier=0.1, max=LONGEST_PAUSE.total_seconds()),
        stop=lambda _: over(),
        sleep=pause,
        after=lambda _: abandon(),
        before_sleep=tell,
        reraise=True,
    )
