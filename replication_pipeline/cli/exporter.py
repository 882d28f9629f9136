"""``exporter``: the contour's figures for Prometheus, until SIGINT or SIGTERM."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Final

import typer

from replication_pipeline.cli.common import ConfigOption, configured
from replication_pipeline.engine.stopping import StopToken, stop_on_signals
from replication_pipeline.exporter.collector import Exporter
from replication_pipeline.exporter.server import PORT, served
from replication_pipeline.logs import get_logger

LOOK: Final = timedelta(minutes=1)


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("exporter")(exporter)


def exporter(
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all, in a network you trust.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any.")] = PORT,
    config: ConfigOption = None,
) -> None:
    """Serve Prometheus metrics of this contour at /metrics, and /healthz, until SIGINT or SIGTERM.

    Needs the database alone, with a role that is a member of replication_monitor. docs/monitoring.md
    has all metrics, the alert rules and the dashboard.
    """
    settings = configured(config)
    with (
        stop_on_signals(StopToken()) as stop,
        served(Exporter(settings), host, port) as (listens, at),
    ):
        get_logger("exporter").info("listening", host=listens, port=at)
        while not stop.wait(LOOK):
            pass
