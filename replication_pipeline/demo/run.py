"""``replication-pipeline demo``: start, show, and in the end stop everything, however it ends.

Exit status: 0 when the user ended it, or the time was over and both contours are equal; 1 when they
are not, or something broke; 3 when a server could not be started; 130 when a timed one was
interrupted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.markup import escape

from replication_pipeline import __version__, logs
from replication_pipeline.demo import place as places
from replication_pipeline.demo.live import Eye, watch
from replication_pipeline.demo.narrator import Narrator
from replication_pipeline.demo.parallel import Interrupted
from replication_pipeline.demo.signals import Stop, stopping_on_signals
from replication_pipeline.demo.stack import SERVERS, Stack
from replication_pipeline.demo.summary import sum_up
from replication_pipeline.demo.workload import Workload
from replication_pipeline.domain.errors import ConfigurationError, TransientError
from replication_pipeline.embedded import EmbeddedServerError
from replication_pipeline.settings import LoggingSettings

INTERRUPTED: Final = 130
WINDOWS_TIME: Final = 60.0
"""So long the workload waits for the first windows; on two idle cores they take some eight seconds."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for. ``seconds``: of workload; ``None`` goes on until Ctrl+C."""

    state: Path
    seconds: float | None = None
    rate: float = 40.0
    fresh: bool = False
    ui: bool = True


def run(options: Options) -> int:
    """The whole demo; returns the exit status."""
    places.set_environment()
    logs.configure(LoggingSettings(level="error", format="console"))
    console = Console(highlight=False)
    try:
        state = places.claim(options.state)
    except EmbeddedServerError:
        raise ConfigurationError(
            f"a demo is running in {options.state}",
            remedy="stop it, or start another one with --state DIRECTORY",
        ) from None
    place = places.prepare(state, SERVERS, fresh=options.fresh)
    console.print(
        f"replication_pipeline {__version__}: two contours on this machine; Ctrl+C stops everything",
        soft_wrap=True,
    )
    narrator = Narrator(console)
    stack = Stack(place, narrator, ui=options.ui)
    demo = Demo(options, console, narrator, stack)
    try:
        with stopping_on_signals() as stop:
            status = demo.play(stop)
    except EmbeddedServerError as error:
        raise TransientError(escape(str(error)), remedy=f"logs are in {place.logs}") from error
    finally:
        place.release()
    if stack.stuck:
        os._exit(status)
    return status


@dataclass(slots=True)
class Demo:
    """One performance."""

    options: Options
    console: Console
    narrator: Narrator
    stack: Stack
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def play(self, stop: Stop) -> int:
        """From the first server to the last."""
        began = time.monotonic()
        eyes = [Eye(contour) for contour in self.stack.contours]
        workload = Workload(self.stack.contours, rate=self.options.rate)
        try:
            self.stack.start(stop)
            self.narrator.ready(
                time.monotonic() - began,
                url=self.stack.url,
                contours=self.stack.contours,
                home=self.stack.place.root,
            )
            self._await_windows(stop, eyes)
            return self._perform(stop, eyes, workload)
        except Interrupted:
            return self._interrupted()
        finally:
            self._stop(workload, eyes)

    def _await_windows(self, stop: Stop, eyes: Sequence[Eye]) -> None:
        """Let the sensors launch the first windows, so that the line doesn't begin with a backlog."""
        began = time.monotonic()
        self.narrator.note("the sensors launch the first windows")
        while time.monotonic() - began < WINDOWS_TIME and not stop.wait(0.25):
            looks = [eye.look() for eye in eyes]
            alive = all(look and look.status.publishers and look.status.appliers for look in looks)
            if alive or self.stack.missing():
                break
        if stop():
            raise Interrupted
        self.narrator.started(
            "windows", "publish and apply, both contours", time.monotonic() - began
        )

    def _perform(self, stop: Stop, eyes: Sequence[Eye], workload: Workload) -> int:
        start = {eye.contour.name: look for eye in eyes if (look := eye.look())}
        workload.start()
        until = None if self.options.seconds is None else time.monotonic() + self.options.seconds
        broken: str | None = None

        def over(seconds: float) -> bool:
            nonlocal broken
            left = seconds if until is None else min(seconds, until - time.monotonic())
            stop.wait(left)
            broken = self.stack.missing() or workload.trouble
            return bool(stop() or broken or (until and time.monotonic() >= until))

        watch(self.console, eyes, start, wait=over)
        if broken:
            self.console.print(f"[bold red]error[/] {escape(broken)}", soft_wrap=True)
            return 1
        if stop():
            return self._interrupted()
        workload.stop()
        equal = sum_up(
            self.console,
            eyes,
            start,
            kafka=self.stack.kafka,
            began=self.began,
            stopped=stop,
        )
        return self._interrupted() if equal is None else int(not equal)

    def _interrupted(self) -> int:
        """Ctrl+C is how a demo ends, but a timed one was to give a verdict."""
        return 0 if self.options.seconds is None else INTERRUPTED

    def _stop(self, workload: Workload, eyes: Sequence[Eye]) -> None:
        began = time.monotonic()
        self.narrator.stopping("workload")
        workload.stop()
        for eye in eyes:
            eye.close()
        self.stack.stop()
        self.narrator.stopped(time.monotonic() - began)
