"""``replication-pipeline``: the entry point, its commands by subject, and the exit status.

0 done · 1 done with a bad verdict · 2 usage or configuration · 3 a server could not be reached.
Results go to standard output, logs and errors to standard error.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from replication_pipeline import __version__
from replication_pipeline.cli import (
    cleanup,
    compare,
    conflicts,
    contours,
    demo,
    doctor,
    exporter,
    offsets,
    parked,
    repair,
    replay,
    republish,
    setup,
    snapshot,
    status,
    trace,
    windows,
)
from replication_pipeline.domain.errors import ReplicationError

app = typer.Typer(
    name="replication-pipeline",
    help="Keeps PostgreSQL databases at several sites equal through Kafka.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
setup.register(app)
windows.register(app)
status.register(app)
cleanup.register(app)
doctor.register(app)
exporter.register(app)
parked.register(app)
offsets.register(app)
conflicts.register(app)
republish.register(app)
replay.register(app)
snapshot.register(app)
contours.register(app)
trace.register(app)
compare.register(app)
repair.register(app)
demo.register(app)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"replication-pipeline {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keeps PostgreSQL databases at several sites equal through Kafka."""


def main() -> None:
    """Run a command; turn our errors into a message and an exit status."""
    try:
        app()
    except ReplicationError as error:
        console = Console(stderr=True, highlight=False)
        console.print(f"[bold red]error[/] {escape(error.message)}", soft_wrap=True)
        if error.remedy:
            console.print(f"  → {error.remedy}", soft_wrap=True, markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
