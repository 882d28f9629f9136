"""Try every mutant, each in a copy of the source, and print a table of what caught it.

    python -m replication_pipeline_tests.mutants [NAME…] [--report FOLDER]

Exit status 1 when one survives. The rules' own mutants are tried in the simulator.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from replication_pipeline_tests.mutants.catalogue import MUTANTS, Mutant
from replication_pipeline_tests.simulation import mutants as rules
from replication_pipeline_tests.simulation.world import BrokenError, run

ROOT: Final = Path(__file__).parents[2]
SEEDS: Final = 10_000
Line = tuple[str, str, bool]  # a mutant, what caught it or did not, and whether it was


def simulated() -> Iterator[Line]:
    for name, mutant in rules.MUTANTS.items():
        for seed in range(SEEDS):
            try:
                run(seed, mutant)
            except BrokenError:
                yield name, f"simulator, {seed + 1} seeds", True
                break
        else:
            yield name, f"nothing in {SEEDS} seeds", False


def tried(mutant: Mutant) -> Line:
    """Its tests in a copy of the source, one file after the other until one fails."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "source"
        shutil.copytree(
            ROOT,
            copy,
            ignore=shutil.ignore_patterns(".*", "__pycache__", "docs", "bench", "results"),
        )
        file = copy / mutant.file
        file.write_text(mutant.change(file.read_text(encoding="utf-8")), encoding="utf-8")
        began = time.monotonic()
        for tests in mutant.caught_by:
            if test := first_failure(copy, tests):
                return mutant.name, f"{test}, {time.monotonic() - began:.0f} s", True
    return mutant.name, f"nothing in {', '.join(map(short, mutant.caught_by))}", False


def first_failure(source: Path, tests: str) -> str | None:
    """The test that failed first, ``None`` if all passed."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-p",
            "no:cacheprovider",
            "--no-header",
            tests,
        ],
        cwd=source,
        env=os.environ | {"PYTHONPATH": str(source), "MACHINE_EXAMPLES": "99"},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    if done.returncode == 0:
        return None
    for line in done.stdout.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return "`" + line.split()[1].split("/")[-1].partition("[")[0] + "`"
    raise RuntimeError(f"pytest could not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def short(tests: str) -> str:
    return f"`{tests.rsplit('/', 1)[-1]}`"


def table(title: str, lines: Mapping[str, str]) -> str:
    rows = [f"| {name} | {caught} |" for name, caught in lines.items()]
    return "\n".join([f"## {title}", "", "| mutant | caught by |", "|---|---|", *rows, ""])


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("names", nargs="*", help="these only")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write the table there")
    asked = parser.parse_args()
    survivors = 0
    found: dict[str, dict[str, str]] = {"Rules": {}, "PostgreSQL, publisher, applier": {}}
    if not asked.names:
        for name, caught, good in simulated():
            found["Rules"][name] = caught
            survivors += not good
    for mutant in MUTANTS:
        if asked.names and not any(word in mutant.name for word in asked.names):
            continue
        name, caught, good = tried(mutant)
        print(f"{'caught  ' if good else 'SURVIVED'} {name}: {caught}", flush=True)
        found["PostgreSQL, publisher, applier"][name] = caught
        survivors += not good
    text = (
        f"# Mutants, {datetime.now(UTC):%Y-%m-%d}\n\nOne bug at a time, and the test that saw it "
        f"first. {survivors or 'None'} survived.\n\n"
        + "\n".join(table(title, lines) for title, lines in found.items() if lines)
    )
    if asked.report:
        asked.report.mkdir(parents=True, exist_ok=True)
        (asked.report / "mutants.md").write_text(text, encoding="utf-8")
    else:
        print(text)
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
