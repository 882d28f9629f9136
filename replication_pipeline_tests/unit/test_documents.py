"""The documents are true where a program can tell: the reference is the model's, every variable in it
works, every link and anchor leads somewhere, every page has its place.
"""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from replication_pipeline.settings import Settings, load_settings
from replication_pipeline_tests.unit.reference import DOCS, environment_name, leaves, page

pytestmark = pytest.mark.unit


def test_the_configuration_page_is_what_the_model_says() -> None:
    assert page() == (DOCS / "configuration.md").read_text(encoding="utf-8"), "make configuration"


def test_every_setting_stands_there_with_what_it_is() -> None:
    text = page()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    named = {path for path, _ in leaves()}
    assert len(named) > 80
    for path in named - {"tables"}:
        name = environment_name(path)
        (row,) = [row for row in rows if f"`{name}`" in row]
        *_, kind, default, about, _ = (cell.strip() for cell in re.split(r"(?<!\\)\|", row))
        assert kind, path
        assert default, path
        assert about, f"{path} has no description"
    assert "REPLICATION__TABLES" in text


def test_every_variable_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "contour.name": "a", "contour.id": "7", "postgres.host": "db", "kafka.bootstrap_servers": "k:1",
        "monitoring.email.host": "mail", "monitoring.email.sender": "x@example.com",
        "monitoring.email.recipients": '["y@example.com"]',
        "monitoring.webhook.url": "http://hook", "monitoring.slack.url": "https://slack",
    }  # fmt: skip
    for path, value in needed.items():
        monkeypatch.setenv(environment_name(path), value)
    plain = load_settings()
    for path, field in leaves():
        default = field.get_default(call_default_factory=True)
        if path not in needed and isinstance(default, bool | int | float | timedelta):
            number = default.total_seconds() if isinstance(default, timedelta) else default
            monkeypatch.setenv(environment_name(path), str(number))
    assert load_settings() == plain
    monkeypatch.setenv("REPLICATION__TABLES", '{"users": {"partitions": 12}}')
    monkeypatch.setenv("REPLICATION__COMPARE__CONTOURS", '{"b": {"host": "other"}}')
    monkeypatch.setenv("REPLICATION__MONITORING__WEBHOOK__TOKEN", "s3cret")
    changed = load_settings()
    assert changed.tables["users"].partitions == 12
    assert changed.compare.contours["b"].host == "other"
    assert changed.monitoring.webhook is not None
    assert changed.monitoring.webhook.token == SecretStr("s3cret")


def test_the_default_shown_is_the_default() -> None:
    text = page()
    assert re.search(r"PUBLISHER__WINDOW` \| duration \| `10min`", text)
    assert re.search(r"CONSUMER__POLL_INTERVAL` \| duration \| `500ms`", text)
    assert re.search(r"KAFKA__RETENTION` \| duration \| `7d`", text)
    assert re.search(
        r"PUBLISHER__BATCH_SIZE` \| number of rows, from 1 up to 20,000 \| `500`", text
    )
    assert Settings.model_fields["publisher"].default.window == timedelta(minutes=10)


def test_links_anchors_and_places_of_pages(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["-f", str(DOCS.parent / "mkdocs.yml"), "-d", str(tmp_path / "site")]
    built = subprocess.run(command, check=False, capture_output=True, text=True, cwd=DOCS.parent)
    assert built.returncode == 0, built.stderr
    site = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "fonts.googleapis.com" not in site
