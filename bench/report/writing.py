"""Writes what is made of the committed results: the page, its plots, the computed part of
docs/sizing.md.

python -m bench report --write

Everything is written from ``bench/results`` alone, so a test can tell whether it was done. Plots
that no run has any more are removed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from bench import results
from bench.report import plots, sized
from bench.report.aims import AIMS
from bench.report.page import IMAGES, OVERVIEW, image_of, page
from bench.report.runs import Run, newest, titles
from bench.report.verdicts import judge

DOCS: Final = Path(__file__).parent.parent.parent / "docs"


def committed(folder: Path = results.FOLDER) -> list[Run]:
    """The newest runs in the result files."""
    return newest(results.load(sorted(folder.glob("*.jsonl"))))


def pages(runs: list[Run], docs: Path = DOCS) -> dict[str, str]:
    """Texts by their path in docs/."""
    was = (docs / "sizing.md").read_text(encoding="utf-8")
    return {"benchmarks.md": page(runs), "sizing.md": sized.replaced(was, sized.section(runs))}


def images(runs: list[Run]) -> dict[str, bytes]:
    """Plots by their path in docs/."""
    found: dict[str, bytes] = {}
    verdicts = judge(runs)
    if any(verdict.met is not None for verdict in verdicts):
        found[OVERVIEW] = plots.overview(verdicts)
    for run, title in zip(runs, titles(runs), strict=True):
        plot = plots.of_run(run, title, [aim for aim in AIMS if aim.scenario == run.scenario])
        if plot is not None:
            found[image_of(title)] = plot
    return found


def write(docs: Path = DOCS, folder: Path = results.FOLDER) -> list[Path]:
    """All of them; returns those that have changed."""
    runs = committed(folder)
    wanted = {docs / path: text.encode() for path, text in pages(runs, docs).items()}
    wanted |= {docs / path: content for path, content in images(runs).items()}
    changed = [
        path
        for path, content in wanted.items()
        if not path.exists() or path.read_bytes() != content
    ]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wanted[path])
    for path in sorted((docs / IMAGES).glob("*.svg")):
        if path not in wanted:
            path.unlink()
            changed.append(path)
    return changed
