"""Scenario ``heal``: what happens when a part is killed with SIGKILL, and how soon all is well again.

Victims: the process of the publish window; the code server (runs are its children, and outlive it);
both; the daemon; and the machine, that is, everything of Dagster's with all runs. A supervisor starts
services again at once; runs are nobody's but Dagster's. A row is written 50 times a second throughout.

``publishing paused`` is the longest time without a published row. ``books true`` is the time until a
sensor has ticked, a publish window runs whose process lives, and no run is called started whose process
is gone. PostgreSQL and Kafka stay up; what their outages do is tested elsewhere.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import psycopg
from rich.console import Console

from bench.broker import running_broker, topics_for
from bench.contestants.ours import Ours
from bench.database import copy_of, make_template
from bench.results import Result, recorder
from bench.site import PUBLISHED, Site, paced_writer, pauses, site
from replication_pipeline.embedded import EmbeddedPostgres
from replication_pipeline.embedded.process import wait_until

SERVER: Final[Mapping[str, str]] = {"autovacuum": "on"}
VICTIMS: Final[Mapping[str, Sequence[str]]] = {
    "daemon": ["daemon"],
    "code server": ["code server"],
    "run": ["run"],
    "run and code server": ["run", "code server"],
    "machine": ["machine"],
}
SETTLING: Final = 10.0  # seconds between victims
LONGEST: Final = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal:
    server: ClassVar[Mapping[str, str]] = SERVER
    rounds: int = 3
    rate: float = 50.0

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]:
        results = recorder(
            "heal", server, contestants=[*VICTIMS], rounds=self.rounds, rate=self.rate
        )
        template = make_template(server, Ours())
        with (
            running_broker(server) as broker,
            copy_of(server, template) as dsn,
            topics_for(broker, dsn) as settings,
            tempfile.TemporaryDirectory(prefix="bench-") as folder,
            site(Path(folder) / "site", server, settings) as dagster,
        ):
            dagster.until_running()
            over = threading.Event()
            writer = paced_writer(dsn, self.rate, over)
            try:
                with dagster.keep_alive():
                    for turn in range(1, self.rounds + 1):
                        for name, victims in VICTIMS.items():
                            console.print(f"round {turn} of {self.rounds}: {name}")
                            time.sleep(SETTLING)
                            killed = time.time()
                            dagster.kill(*victims)
                            wait_until(
                                lambda killed=killed: healed(dagster, killed),  # type: ignore[misc]
                                timeout=LONGEST,
                                what=f"all to be well after {name}",
                            )
                            books = time.time() - killed
                            time.sleep(2)
                            paused = longest_pause(dsn, killed)
                            results.add(name, "publishing paused", paused, "s", run=turn)
                            results.add(name, "books true", books, "s", run=turn)
            finally:
                over.set()
                writer.join()
        return results.results


def healed(dagster: Site, killed: float) -> bool:
    """Whether Dagster is at work again and believes nothing that is not so."""
    if dagster.last_tick() < killed:
        return False
    started = [run for run in dagster.windows() if run.status == "STARTED" and run.pid]
    return all(run.alive for run in started) and any(
        run.tags["lane"].endswith("/publish") for run in started
    )


def longest_pause(dsn: str, since: float) -> float:
    """Seconds without a published row, from just before ``since`` on."""
    with psycopg.connect(dsn) as connection:
        moments = [published for published, *_ in connection.execute(PUBLISHED)]
    return max(length for at, length in pauses(moments) if at + length > since)
