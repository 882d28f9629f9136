"""Commands within the tests' process, which costs no second of imports each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
from typer.testing import CliRunner, Result

from replication_pipeline.cli.main import app
from replication_pipeline_tests.acceptance.test_command_line import configuration
from replication_pipeline_tests.conftest import Contour


def call(contour: Contour, path: Path, *words: object) -> Result:
    """Run a command for a contour whose configuration is written to ``path``."""
    return call_with(contour, path, *words)


def call_with(contour: Contour, path: Path, *words: object, **sections: Any) -> Result:
    """The same, with more sections in the configuration."""
    arguments = [*map(str, words), "--config", configuration(path, contour, **sections)]
    with logging_left_alone():
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


@contextmanager
def logging_left_alone() -> Iterator[None]:
    """A command logs to a standard error that the runner closes after it."""
    former = structlog.get_config()
    context = structlog.contextvars.get_contextvars()
    try:
        yield
    finally:
        structlog.configure(**former)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(**context)
