"""Try every mutant and write down what caught it.

    python -m replication_pipeline_tests.mutants [NAME…] [--workers 2] [--report FOLDER]

First the tests that are to catch them run once without a mutant. Without names everything is tried, and
the table goes to ``docs/reliability/mutants.md``. Exit status 1 when a mutant survives.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from replication_pipeline_tests.mutants.catalogue import MUTANTS
from replication_pipeline_tests.mutants.suspects import SUSPECTS
from replication_pipeline_tests.mutants.trial import (
    ROOT,
    Verdict,
    failing_as_it_is,
    simulated,
    tried,
)
from replication_pipeline_tests.simulation import mutants as rules

REPORTS: Final = ROOT / "docs" / "reliability"


def report(verdicts: Sequence[Verdict]) -> str:
    """The page. A suspect is caught when each of its mutants is."""
    survivors = {v.mutant for v in verdicts if not v.caught_by}
    suspects = [
        f"| {suspect} | {'; '.join(sorted(set(mutants)))} | "
        f"{'yes' if survivors.isdisjoint(mutants) else 'NO'} |"
        for suspect, mutants in SUSPECTS.items()
    ]
    rows = [
        f"| {v.mutant} | `{v.where}` | {f'`{v.caught_by}`' if v.caught_by else 'SURVIVED'} | "
        f"{v.seconds:.0f} |"
        for v in verdicts
    ]
    survived = sum(v.caught_by is None for v in verdicts)
    minutes = sum(v.seconds for v in verdicts) / 60
    summary = (
        "One bug at a time is put into the product, and the tests run that should see it: "
        f"{len(verdicts)} mutants, of which {survived or 'none'} survived. "
        f"{datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes of tests; `make mutants` does it again."
    )
    return "\n".join(
        [
            "# Mutants",
            "",
            summary,
            "",
            "## Known bugs of replicators",
            "",
            "| bug | mutants | caught |",
            "|---|---|---|",
            *suspects,
            "",
            "## All mutants",
            "",
            "Seconds are until the first failure, with the start of servers.",
            "",
            "| mutant | where | caught by | seconds |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def said(verdict: Verdict) -> Verdict:
    """Printed at once, as the whole takes long."""
    if verdict.caught_by:
        line = f"caught   {verdict.mutant}: {verdict.caught_by}, {verdict.because[:150]}"
    else:
        line = f"SURVIVED {verdict.mutant}: {verdict.because}"
    print(line, flush=True)
    return verdict


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of those to try; else all")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--report", type=Path, metavar="FOLDER", default=REPORTS)
    asked = parser.parse_args()

    def wanted(name: str) -> bool:
        return not asked.names or any(part in name for part in asked.names)

    mutants = [mutant for mutant in MUTANTS if wanted(mutant.name)]
    verdicts = [said(simulated(name)) for name in rules.MUTANTS if wanted(name)]
    with ThreadPoolExecutor(asked.workers) as workers:
        tests = sorted({tests for mutant in mutants for tests in mutant.caught_by})
        if broken := [found for found in workers.map(failing_as_it_is, tests) if found]:
            print("fails without any mutant: " + "; ".join(broken), file=sys.stderr)
            return 2
        verdicts += workers.map(lambda mutant: said(tried(mutant)), mutants)
    if not asked.names:
        asked.report.mkdir(parents=True, exist_ok=True)
        (asked.report / "mutants.md").write_text(report(verdicts), encoding="utf-8")
    return 0 if all(verdict.caught_by for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
