"""``demo``: two contours, Kafka and the Dagster UI on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from replication_pipeline.domain.errors import ConfigurationError

DEFAULT_STATE = Path(".state/demo")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("demo")(demo)


def demo(
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1, help="Write for so long, wait until everything has arrived, compare, end."
        ),
    ] = None,
    state: Annotated[
        Path, typer.Option(metavar="DIR", help="Where databases, topics and logs are kept.")
    ] = DEFAULT_STATE,
    rate: Annotated[
        float, typer.Option(min=0, max=2_000, help="Transactions a second in each contour.")
    ] = 40.0,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the state of earlier demos.")
    ] = False,
    ui: Annotated[bool, typer.Option("--ui/--no-ui", help="Start Dagster's webserver.")] = True,
) -> None:
    """Two contours that replicate both ways, with Kafka and the Dagster UI, until Ctrl+C.

    Everything is real and runs on this machine only. With --seconds the exit status is 0 only if
    both contours are equal in the end.
    """
    # The demo's packages are an extra; nothing else of the command line may need them.
    try:
        from replication_pipeline.demo.run import Options, run
    except ImportError as error:
        raise ConfigurationError(
            str(error).partition(". Install")[0],
            remedy="pip install 'replication_pipeline[demo]'",
        ) from error
    raise typer.Exit(run(Options(state=state, seconds=seconds, rate=rate, fresh=fresh, ui=ui)))
