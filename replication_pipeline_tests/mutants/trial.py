"""One mutant against the tests that should see it, in a copy of the source.

A test that fails counts; an error before any test could fail does not: such a mutant would only show
that broken SQL does not install. Nor does anything count that fails without the mutant
(``failing_as_it_is``).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replication_pipeline_tests.mutants.catalogue import Mutant
from replication_pipeline_tests.simulation import mutants as rules
from replication_pipeline_tests.simulation.world import BrokenError, run

ROOT: Final = Path(__file__).parents[2]
SEEDS: Final = 10_000
LONGEST: Final = 900  # seconds of one run of pytest
LEFT_OUT: Final = (".*", "__pycache__", "docs", "bench", "results")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant. ``caught_by``: the test that failed first; ``None``: it survived."""

    mutant: str
    where: str
    caught_by: str | None
    seconds: float
    because: str = ""


def simulated(name: str) -> Verdict:
    """A mutant of the rules: worlds until one ends badly."""
    began = time.monotonic()
    caught = None
    for seed in range(SEEDS):
        try:
            run(seed, rules.MUTANTS[name])
        except BrokenError as error:
            caught, because = f"simulator, seed {seed}", str(error)
            break
    else:
        because = f"{SEEDS} seeds end well"
    return Verdict(name, "rules", caught, time.monotonic() - began, because)


def tried(mutant: Mutant) -> Verdict:
    """Its tests, one after the other until one fails."""
    began = time.monotonic()
    caught, because = None, f"nothing in {', '.join(mutant.caught_by)}"
    with source() as copy:
        file = copy / mutant.file
        file.write_text(mutant.change(file.read_text(encoding="utf-8")), encoding="utf-8")
        for tests in mutant.caught_by:
            try:
                found = first_failure(copy, tests)
            except RuntimeError as error:
                because = str(error)
                break
            if found:
                caught, because = found
                break
    return Verdict(mutant.name, mutant.file, caught, time.monotonic() - began, because)


def failing_as_it_is(tests: str) -> str | None:
    """A test that fails without any mutant, so that it could show nothing."""
    with source() as copy:
        found = first_failure(copy, tests)
    return found and f"{found[0]}: {found[1]}"


@contextmanager
def source() -> Iterator[Path]:
    """A copy to break."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy = Path(folder) / "source"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
        yield copy


def first_failure(copy: Path, tests: str) -> tuple[str, str] | None:
    """The test that failed first and how, ``None`` if all passed. Servers may start twice."""
    for _ in range(2):
        done = _pytest(copy, tests)
        if done.returncode == 0:
            return None
        lines = done.stdout.splitlines()
        for line in lines:
            if line.startswith("FAILED "):
                test = line.removeprefix("FAILED ").split(" - ")[0].split("/")[-1].partition("[")[0]
                because = next((text[1:].strip() for text in lines if text.startswith("E  ")), "")
                return test, because
    raise RuntimeError(f"{tests} could not run: {done.stdout[-3000:]}{done.stderr[-2000:]}")


def _pytest(copy: Path, tests: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--tb=short"),
            f"--basetemp={copy.parent / 't'}",  # that of other runs is cleaned up under our feet
            tests,
        ],
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy), "MACHINE_EXAMPLES": "99"},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
