"""``status`` says first whether it is fine, and why not; then it shows the figures."""

from __future__ import annotations

import json
import os
import re
import signal
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from psycopg import Connection
from typer.testing import Result

from replication_pipeline.domain.watch import Watch
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.postgres.watch import look
from replication_pipeline.settings import Settings
from replication_pipeline_tests.applying import applying
from replication_pipeline_tests.conftest import USERS, Contour, MakeContours
from replication_pipeline_tests.integration.commands import call_with
from replication_pipeline_tests.publishing import publishing, until

pytestmark = pytest.mark.integration

LOGGED: Final = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def test_the_verdict_and_the_figures(
    make_contours: MakeContours, kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b = make_contours(USERS, ["users"], monitoring={"heartbeat_interval": "200ms"})
    shown = call_with(a, tmp_path, "status")
    assert shown.exit_code == 1
    first, *others = shown.stdout.splitlines()
    assert first == "contour a: broken"
    assert others[:2] == [
        "  no publisher is alive: nothing leaves this contour",
        "  no applier is alive: nothing arrives here",
    ]
    with ExitStack() as windows:
        for contour in (a, b):
            windows.enter_context(publishing(contour.settings))
            windows.enter_context(applying(contour.settings))
        a.run("insert into users (id) select generate_series(1, 20)")
        until(lambda: len(_status(a, tmp_path)["contours"]) == 2, "both to be heard of")
        # The first beats were long under way, which looks like skew.
        until(lambda: _status(a, tmp_path)["verdict"] == "ok", "all to be well")
        said = _said(call_with(a, tmp_path, "status"))
        assert said.startswith("contour a: fine\n\npublish")
        assert "a (here)" in said
        assert len(said.splitlines()) < 24, "one screen"
        assert max(map(len, said.splitlines())) <= 120
        b.run("insert into replication.parked_events (topic, partition, kafka_offset, table_name, "
              "record_key, reason, event, parked_at, attempts) values ('users_changes', 0, 1, "
              "'users', '{}', 'missing_parent', '', now() - interval '10 min', 60)")  # fmt: skip
        told = call_with(b, tmp_path, "status")
        assert told.exit_code == 0, "to be looked at, and not broken"
        assert _said(told).splitlines()[:2] == [
            "contour b: look at it",
            "  1 events of users are parked for 10 min (apply: missing_parent)",
        ]
        found = _status(b, tmp_path)
        assert (found["verdict"], found["reasons"][0]["about"]) == ("warning", "parked")


def _status(contour: Contour, path: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(_said(call_with(contour, path, "status", "--json")))
    return told


def _said(result: Result) -> str:
    """By the command alone: windows in threads of this process log to the same place meanwhile."""
    return "".join(
        line for line in result.stdout.splitlines(keepends=True) if not LOGGED.match(line)
    )


def test_watching_ends_with_ctrl_c(
    make_contours: MakeContours, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (a,) = make_contours(USERS, ["users"], count=1)
    looks: list[int] = []

    def counted(connection: Connection[Any], settings: Settings) -> Watch:
        looks.append(1)
        if len(looks) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return look(connection, settings)

    monkeypatch.setattr("replication_pipeline.cli.status.look", counted)
    monkeypatch.setattr("replication_pipeline.cli.status.EVERY", timedelta())
    shown = call_with(a, tmp_path, "status", "--watch")
    assert len(looks) == 3
    assert shown.exit_code == 1, "the verdict of the last look"
    assert "no publisher is alive" in shown.stdout
