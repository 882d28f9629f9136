"""``doctor``: what is wrong, and the statement that mends it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import typer
from rich.console import Console
from rich.markup import escape

from replication_pipeline.cli.common import ConfigOption, JsonOption, configured, print_json
from replication_pipeline.domain.findings import Finding, Severity, healthy
from replication_pipeline.postgres.connection import connect
from replication_pipeline.postgres.doctor import examine

SIGNS: Final[dict[Severity, str]] = {
    "good": "[green]✓[/]",
    "notice": "[yellow]![/]",
    "mend": "[bold red]✗[/]",
}


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("doctor")(doctor)


def doctor(json: JsonOption = False, config: ConfigOption = None) -> None:
    """What is wrong in this contour's database, and how to mend it; exit status 1 if anything is."""
    settings = configured(config)
    with connect(settings, application_name="replicator_doctor", check=False) as connection:
        findings = examine(connection, settings)
    if json:
        print_json({"contour": settings.contour.name, "findings": [asdict(f) for f in findings]})
    else:
        _show(Console(highlight=False), settings.contour.name, findings)
    if not healthy(findings):
        raise typer.Exit(1)


def _show(console: Console, contour: str, findings: Sequence[Finding]) -> None:
    wrong = sum(finding.severity == "mend" for finding in findings)
    verdict = f"[bold red]{wrong} to mend[/]" if wrong else "[green]nothing to mend[/]"
    console.print(f"contour {contour}: {verdict}")
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        message = escape(finding.message)
        console.print(
            f"{SIGNS[finding.severity]} {finding.check:{width}}  {message}", soft_wrap=True
        )
        if finding.remedy:
            console.print(f"  {'':{width}}  → {escape(finding.remedy)}", soft_wrap=True)
