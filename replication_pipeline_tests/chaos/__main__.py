"""A chaos run from the command line.

    python -m replication_pipeline_tests.chaos --seconds 60 --seed 1 --rate 200

Exit status 1 when an anomaly was found. --report FOLDER writes a report there.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from replication_pipeline_tests.chaos.nemeses import NEMESES
from replication_pipeline_tests.chaos.report import markdown
from replication_pipeline_tests.chaos.run import Options, run
from replication_pipeline_tests.chaos.tables import TABLES


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m replication_pipeline_tests.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long")
    parser.add_argument("--seed", type=int, default=1, help="of writes and faults")
    parser.add_argument("--rate", type=float, default=200, help="transactions a second, in all")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between faults, about")
    parser.add_argument("--only", action="append", choices=sorted(NEMESES), help="kinds of faults")
    parser.add_argument("--without", action="append", choices=TABLES, help="tables to leave out")
    parser.add_argument("--lanes", type=int, default=1, help="connections of an applier")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep servers' files and logs")
    parser.add_argument("--report", type=Path, metavar="FOLDER", help="write a report there")
    asked = parser.parse_args()
    options = Options(
        seconds=asked.seconds,
        seed=asked.seed,
        rate=asked.rate,
        pause=asked.pause,
        kinds=asked.only or (),
        tables=[table for table in TABLES if table not in (asked.without or ())],
        lanes=asked.lanes,
    )
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        directory = asked.keep or Path(temporary)
        directory.mkdir(parents=True, exist_ok=True)
        result = run(options, directory, lambda line: print(line, flush=True))
    text = markdown(result)
    if asked.report:
        asked.report.mkdir(parents=True, exist_ok=True)
        file = asked.report / f"chaos-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-seed-{asked.seed}.md"
        file.write_text(text, encoding="utf-8")
        print(f"report: {file}")
    else:
        print(text)
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
