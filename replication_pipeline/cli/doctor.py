"""``doctor``: what is wrong, and what mends it; ``--fix`` runs what can be run here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.markup import escape

from replication_pipeline import doctor as doctors
from replication_pipeline.cli.common import (
    ConfigOption,
    JsonOption,
    configured,
    print_json,
    printable,
)
from replication_pipeline.domain.findings import GROUPS, Finding, Severity, healthy

SIGNS: Final[dict[Severity, str]] = {
    "good": "[green]✓[/]",
    "notice": "[yellow]![/]",
    "mend": "[bold red]✗[/]",
}


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command("doctor")(doctor)


def doctor(
    *,
    fix: Annotated[
        str | None,
        typer.Option(metavar="CHECK", help="Run this check's remedies here first: sequences."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="What is fine, check by check, as well.")
    ] = False,
    json: JsonOption = False,
    config: ConfigOption = None,
) -> None:
    """What is wrong in this contour, beside the others and in Kafka, and how to mend it.

    Changes nothing, but with --fix. Contours named under compare.contours are looked at as well. Exit
    status 1 when something has to be mended.
    """
    settings = configured(config)
    fixed = [] if fix is None else doctors.fix(settings, fix)
    findings = doctors.examine(settings)
    if json:
        print_json(
            {
                "contour": settings.contour.name,
                "healthy": healthy(findings),
                "fixed": [finding.remedy for finding in fixed],
                "findings": [asdict(finding) for finding in findings],
            }
        )
    else:
        console = Console(highlight=False)
        for finding in fixed:
            console.print(f"[green]done[/] {_text(finding.remedy)}", soft_wrap=True)
        if fix is not None and not fixed:
            console.print(f"{escape(fix)}: nothing that can be run here")
        _show(console, settings.contour.name, findings, verbose=verbose)
    if not healthy(findings):
        raise typer.Exit(1)


def _show(console: Console, contour: str, findings: Sequence[Finding], *, verbose: bool) -> None:
    counts = {sign: sum(f.severity == sign for f in findings) for sign in SIGNS}
    wrong = (
        f"[bold red]{counts['mend']} to mend[/]" if counts["mend"] else "[green]nothing to mend[/]"
    )
    known = f", {counts['notice']} to know" if counts["notice"] else ""
    console.print(f"contour {contour}: {wrong}{known}; {counts['good']} checks are fine")
    width = max(len(finding.check) for finding in findings)
    order = list(GROUPS)
    for group, found in groupby(
        sorted(findings, key=lambda finding: order.index(finding.group)), lambda f: f.group
    ):
        members = list(found)
        told = [f for f in members if verbose or f.severity != "good"]
        if not told:
            console.print(f"{SIGNS['good']} {GROUPS[group]} [dim]({len(members)} checks)[/]")
            continue
        console.print(f"[bold]{GROUPS[group]}[/]")
        for finding in told:
            console.print(
                f"{SIGNS[finding.severity]} {finding.check:{width}}  {_text(finding.message)}",
                soft_wrap=True,
            )
            if finding.remedy:
                console.print(f"  {'':{width}}  → {_text(finding.remedy)}", soft_wrap=True)


def _text(text: str) -> str:
    return escape(printable(text))
