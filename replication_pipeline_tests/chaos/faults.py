"""Single faults. Each begins, lasts, and undoes itself, and says whether it found anything to do.

A fault of a server holds that server's lock, so that no two of them fight over its processes.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import psycopg

from replication_pipeline.domain.names import topic_for
from replication_pipeline.embedded.process import EmbeddedServerError
from replication_pipeline_tests.chaos.kafka_log import inject, some_old
from replication_pipeline_tests.chaos.stack import PARTITIONS, Role, Stack
from replication_pipeline_tests.chaos.tables import HOT

CLOCKS: Final = ("-1 hour", "-5 seconds", "-100 milliseconds", "100 milliseconds", "5 seconds", "0")


@dataclass
class Field:
    """What a nemesis may do things to. ``over`` ends every fault early."""

    stack: Stack
    chance: random.Random
    over: threading.Event = field(default_factory=threading.Event)

    def wait(self, low: float, high: float) -> None:
        self.over.wait(self.chance.uniform(low, high))


def signal_worker(
    role: Role, number: signal.Signals, pause: tuple[float, float] | None = None
) -> Callable[[Field], bool]:
    """Send ``number`` to some worker; one that is stopped goes on after ``pause``."""

    def strike(at: Field) -> bool:
        worker = at.chance.choice([w for w in at.stack.workers if w.role == role])
        process = worker.process
        worker.send(number)
        if pause is not None:
            at.wait(*pause)
            if process.alive:
                process._popen.send_signal(signal.SIGCONT)
        return True

    return strike


def kill_postgres(at: Field) -> bool:
    contour = at.chance.choice(at.stack.contours)
    if not contour.lock.acquire(blocking=False):
        return False
    try:
        contour.server.kill()
        at.wait(0.2, 1.5)
        _insist(contour.server.start)
    finally:
        contour.lock.release()
    return True


def restart_postgres(at: Field) -> bool:
    """As after a change of its configuration: open transactions are rolled back, nothing is lost."""
    contour = at.chance.choice(at.stack.contours)
    if not contour.lock.acquire(blocking=False):
        return False
    try:
        contour.server.stop()
        _insist(contour.server.start)
    finally:
        contour.lock.release()
    return True


def end_sessions(at: Field) -> bool:
    """An operator's pg_terminate_backend, for all sessions of workers."""
    ended = at.chance.choice(at.stack.contours).ask(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'replicat%'"
    )
    return bool(ended)


def freeze_kafka(at: Field) -> bool:
    """The broker's process stands still, as in a long collection of garbage."""
    if not at.stack.kafka_lock.acquire(blocking=False):
        return False
    pid = at.stack.kafka.pid
    try:
        if pid is None:
            return False
        os.kill(pid, signal.SIGSTOP)
        at.wait(1, 6)
        os.kill(pid, signal.SIGCONT)
    finally:
        at.stack.kafka_lock.release()
    return True


def kill_kafka(at: Field) -> bool:
    if not at.stack.kafka_lock.acquire(blocking=False):
        return False
    try:
        at.stack.kafka.kill()
        at.wait(0.2, 1.5)
        _insist(at.stack.kafka.start)
    finally:
        at.stack.kafka_lock.release()
    return True


def cut_network(at: Field) -> bool:
    """Connections are reset, new ones are refused."""
    network = _some_network(at)
    network.cut()
    at.wait(0.3, 2)
    network.mend()
    return True


def freeze_network(at: Field) -> bool:
    """Nothing passes, and nobody is told."""
    network = _some_network(at)
    network.freeze()
    at.wait(1, 5)
    network.mend()
    return True


def cut_one_way(at: Field) -> bool:
    """Requests arrive, answers don't: what was asked for is done, and nobody knows."""
    network = _some_network(at)
    network.freeze(answers_only=True)
    at.wait(1, 5)
    network.mend()
    return True


def slow_network(at: Field) -> bool:
    network = _some_network(at)
    network.delay = at.chance.uniform(0.005, 0.05)
    at.wait(1, 4)
    network.delay = 0.0
    return True


def _some_network(at: Field) -> Any:
    return at.chance.choice(
        [at.stack.kafka_network, *(contour.network for contour in at.stack.contours)]
    )


def jump_clock(at: Field) -> bool:
    """The contour's clock stays wrong until the next jump."""
    contour = at.chance.choice(at.stack.contours)
    with contour.session(autocommit=True) as connection:
        connection.execute("set lock_timeout = '2s'")
        connection.execute(
            "select replication.install_clock(%s::interval)", (at.chance.choice(CLOCKS),)
        )
    return True


def hold_snapshot(at: Field) -> bool:
    contour = at.chance.choice(at.stack.contours)
    with contour.session() as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select count(*) from register")
        at.wait(2, 6)
        connection.rollback()
    return True


def lock_rows(at: Field) -> bool:
    """Hot rows are held, as by a report that forgot to commit."""
    contour = at.chance.choice(at.stack.contours)
    with contour.session() as connection:
        connection.execute("set lock_timeout = '2s'")
        connection.execute(
            "select from register where id <= %s order by id for update", (HOT // 2,)
        )
        at.wait(1, 4)
        connection.rollback()
    return True


def add_column(at: Field) -> bool:
    """A migration reaches one contour after the other; events that are ahead of it have to wait. It is
    carried through, whatever happens to the servers meanwhile.
    """
    stack = at.stack
    if not stack.migration.acquire(blocking=False):
        return False
    try:
        stack.columns += 1
        ddl = f"alter table everything add column if not exists extra_{stack.columns} text default 'x'"
        for contour in at.chance.sample(stack.contours, k=len(stack.contours)):
            _insist(partial(contour.ask, f"set lock_timeout = '1s'; {ddl}"))
            at.wait(0.1, 3)
    finally:
        stack.migration.release()
    return True


def _insist(act: Callable[[], object], patience: float = 90) -> None:
    """Until the server is there and lets us; a busy machine may need a second try."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        with suppress(psycopg.OperationalError, EmbeddedServerError):
            act()
            return
        threading.Event().wait(0.2)
    act()


def repeat_events(at: Field) -> bool:
    """Old events come once more, behind newer ones."""
    stack = at.stack
    bootstrap = f"127.0.0.1:{stack.kafka_network.port}"
    topics = [
        topic_for(t, prefix=stack.contours[0].settings.kafka.topic_prefix) for t in stack.tables
    ]
    old = some_old(bootstrap, topics, PARTITIONS, at.chance, 100)
    return inject(bootstrap, [replace(record, injected=b"repeat") for record in old]) > 0
