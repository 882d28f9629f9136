"""Doing several things at once, and giving up in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

Task = Future[None]


class Interrupted(Exception):  # noqa: N818  not an error
    """The user does not want to wait for the end of the start."""


class Tasks:
    """Threads that begin at once; those that need another one's end wait for it themselves."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(max_workers=most, thread_name_prefix="start")
        self._tasks: list[Task] = []
        self.abandoned = False

    def begin(self, work: Callable[..., None], *arguments: object) -> Task:
        """Start ``work`` in a thread."""
        self._tasks.append(self._pool.submit(work, *arguments))
        return self._tasks[-1]

    def finish(self, interrupted: Callable[[], bool]) -> None:
        """Wait for all; raises the first failure, or ``Interrupted``."""
        pending: set[Task] = set(self._tasks)
        while pending:
            done, pending = wait(pending, timeout=0.1, return_when=FIRST_EXCEPTION)
            for task in done:
                task.result()
            if interrupted():
                raise Interrupted

    def abandon(self, *, timeout: float) -> None:
        """Begin nothing new; let what is under way end, but not for long."""
        self.abandoned = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(self._tasks, timeout=timeout)

    def check(self, needs: Sequence[Task] = ()) -> None:
        """For a task, before it starts a process: wait for its needs. ``Interrupted`` if abandoned."""
        for task in needs:
            task.result()
        if self.abandoned:
            raise Interrupted

    @property
    def stuck(self) -> bool:
        """Whether a thread hangs (in a download), so that exiting would wait for it."""
        return any(not task.done() for task in self._tasks)


def all_at_once(actions: Sequence[Callable[[], None]]) -> None:
    """Each in a thread of its own; returns when all have ended."""
    with ThreadPoolExecutor(max_workers=max(1, len(actions))) as pool:
        for future in [pool.submit(action) for action in actions]:
            future.result()


def bounded(action: Callable[[], None], *, seconds: float, otherwise: Callable[[], None]) -> None:
    """``action``; when it takes too long, ``otherwise``, which must make it end."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        future = pool.submit(action)
        if not wait([future], timeout=seconds).done:
            otherwise()
        future.result()
