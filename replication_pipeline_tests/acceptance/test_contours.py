"""``contours`` as an operator runs it."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from replication_pipeline import runtime
from replication_pipeline.domain.errors import TransientError
from replication_pipeline.embedded import EmbeddedKafka
from replication_pipeline.engine.heartbeat import Beating
from replication_pipeline_tests.acceptance.test_command_line import configuration, run
from replication_pipeline_tests.conftest import Contour

pytestmark = pytest.mark.acceptance


def test_contours_are_listed_forgotten_and_admitted(
    users: list[Contour], kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    a, b = users
    for contour in users:
        # The tables' topic may have no leader yet; the beat goes out in any case.
        with (
            runtime.open_heartbeats(contour.settings) as (heart, topic),
            suppress(TransientError),
        ):
            Beating(heart, topic, timedelta(), timedelta(days=7))()
    config = configuration(tmp_path, a)
    forgotten = run("contours", "forget", "b", "--yes", "--config", config)
    assert forgotten.returncode == 0, forgotten.stderr
    listed = run("contours", "list", "--config", config)
    assert "a (here)" in listed.stdout
    assert "b" not in [line.split()[0] for line in listed.stdout.splitlines()]
    refused = run("apply", "--window", "5", "--config", configuration(tmp_path, b))
    assert refused.returncode == 1
    assert "contours admit b" in refused.stderr
    admitted = run("contours", "admit", "b", "--config", configuration(tmp_path, b))
    assert admitted.returncode == 0, admitted.stderr
    status = json.loads(run("status", "--json", "--config", configuration(tmp_path, b)).stdout)
    assert [(c["contour"], c["state"]) for c in status["contours"]] == [
        ("a", "active"),
        ("b", "active"),
    ]
    assert status["clock_skew_seconds"] < 1
    unknown = run("contours", "forget", "z", "--yes", "--config", config)
    assert unknown.returncode == 2
    assert "never heard of" in unknown.stderr
