"""One thread that starts every child, because Linux ties a child to the *thread* that made it.

PR_SET_PDEATHSIG fires when the creating thread ends, not the process. A server started from a
worker thread (a test runner's time-out thread, a Dagster op, a thread pool) would die when that
worker returns. So all children are made by one daemon thread that lives as long as the process:
daemon, since an ordinary or pooled thread is joined before `atexit` handlers run, and the servers
would be gone before the program's own clean-up.

After a fork the thread does not exist in the new process; it is made again on first use.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_jobs: SimpleQueue[Callable[[], None]] | None = None


def run_in_spawner(work: Callable[[], T]) -> T:
    """Do `work` in the long-lived thread; its result or exception comes back to the caller."""
    outcome: Future[T] = Future()

    def job() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # handed over, not swallowed
            outcome.set_exception(error)

    _queue().put(job)
    return outcome.result()


def _queue() -> SimpleQueue[Callable[[], None]]:
    global _jobs
    with _lock:
        if _jobs is None:
            jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
            threading.Thread(target=_serve, args=(jobs,), name="spawner", daemon=True).start()
            _jobs = jobs
        return _jobs


def _serve(jobs: SimpleQueue[Callable[[], None]]) -> None:
    while True:
        jobs.get()()


def _forget_thread() -> None:
    global _lock, _jobs
    _lock, _jobs = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_thread)
