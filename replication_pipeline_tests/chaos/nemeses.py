"""Which faults strike when: some kinds take turns for a while, and may overlap."""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

from replication_pipeline_tests.chaos import faults
from replication_pipeline_tests.chaos.faults import Field
from replication_pipeline_tests.chaos.kafka_log import AWAY
from replication_pipeline_tests.chaos.stack import Stack

NEMESES: Final[dict[str, Callable[[Field], bool]]] = {
    "publisher kill -9": faults.signal_worker("publish", signal.SIGKILL),
    "publisher SIGTERM": faults.signal_worker("publish", signal.SIGTERM),
    "publisher stands still": faults.signal_worker("publish", signal.SIGSTOP, (1, 7)),
    "applier kill -9": faults.signal_worker("apply", signal.SIGKILL),
    "applier SIGTERM": faults.signal_worker("apply", signal.SIGTERM),
    "applier stands still": faults.signal_worker("apply", signal.SIGSTOP, (1, 7)),
    "PostgreSQL kill -9": faults.kill_postgres,
    "PostgreSQL restart": faults.restart_postgres,
    "sessions terminated": faults.end_sessions,
    "Kafka kill -9": faults.kill_kafka,
    "Kafka stands still": faults.freeze_kafka,
    "network cut": faults.cut_network,
    "network frozen": faults.freeze_network,
    "network one way": faults.cut_one_way,
    "network slow": faults.slow_network,
    "clock jumps": faults.jump_clock,
    "held snapshot": faults.hold_snapshot,
    "row locks": faults.lock_rows,
    "column added": faults.add_column,
    "events repeated": faults.repeat_events,
}


@dataclass
class Nemeses:
    """Lets faults loose for a while. ``done`` counts them by name."""

    stack: Stack
    chance: random.Random
    pause: float
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _pack: list[str] = field(default_factory=list)

    def rage(self, seconds: float, kinds: Sequence[str] | None = None) -> None:
        """Some kinds take turns for ``seconds``; when this returns, all are undone."""
        over = threading.Event()
        chosen = kinds or self._deal(9)
        timer = threading.Timer(seconds, over.set)
        timer.start()
        running: list[threading.Thread] = []
        while not over.wait(self.chance.uniform(0.5, 1.5) * self.pause):
            name = self.chance.choice(chosen)
            at = Field(self.stack, random.Random(self.chance.random()), over)
            thread = threading.Thread(target=self._strike, args=(name, at), daemon=True)
            thread.start()
            running.append(thread)
        for thread in running:
            thread.join(120)
        timer.cancel()

    def _deal(self, count: int) -> list[str]:
        """The next kinds of a shuffled pack, so that each kind has its turn before any comes again."""
        if len(self._pack) < count:
            self._pack += self.chance.sample(sorted(NEMESES), k=len(NEMESES))
        dealt, self._pack = self._pack[:count], self._pack[count:]
        return dealt

    def _strike(self, name: str, at: Field) -> None:
        try:
            if NEMESES[name](at):
                self.done[name] += 1
        except (psycopg.Error, *AWAY):
            pass  # what it wanted to hurt was down already
        except Exception as error:  # noqa: BLE001  told in the report: the harness itself is broken
            self.failures.append(f"{name}: {error!r}")
