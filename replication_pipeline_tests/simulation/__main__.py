"""Many seeds on all cores, or the story of one.

python -m replication_pipeline_tests.simulation --seeds 1000000
python -m replication_pipeline_tests.simulation --replay 662 [--mutant "no tie-break"]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from typing import Final

from replication_pipeline_tests.simulation.mutants import MUTANTS
from replication_pipeline_tests.simulation.world import (
    CONTOURS,
    REAL,
    STEPS,
    BrokenError,
    broken_in,
    run,
)

CHUNK: Final = 2_000


def many(first: int, count: int, processes: int) -> int:
    """Exit status: 1 when anything is broken."""
    end = first + count
    chunks = [range(start, min(end, start + CHUNK)) for start in range(first, end, CHUNK)]
    began = time.monotonic()
    done, broken = 0, 0
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        for chunk, found in zip(chunks, pool.imap(broken_in, chunks), strict=True):
            done += len(chunk)
            broken += len(found)
            for line in found:
                print(f"\n{line}\n  again: python -m {__package__} --replay {line.split()[1][:-1]}")
            if sys.stdout.isatty():
                print(f"\r{done:,} of {count:,} seeds, {broken} broken", end="", flush=True)
    seconds = time.monotonic() - began
    print(
        f"\r{done:,} seeds of {CONTOURS} contours and {STEPS} steps: {broken} broken; "
        f"{seconds:.0f} s on {processes} processes"
    )
    return 1 if broken else 0


def replay(seed: int, mutant: str | None) -> int:
    """Tell what happens in the world of ``seed``; exit status as ``many``."""
    try:
        run(seed, MUTANTS[mutant] if mutant else REAL, print)
    except BrokenError as error:
        print(f"       {error}")
        return 1
    print("       all contours are equal")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000_000, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", type=int, metavar="SEED", help="tell the story of one seed")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="with this mistake in the rules")
    options = parser.parse_args()
    if options.replay is not None:
        return replay(options.replay, options.mutant)
    return many(options.first, options.seeds, options.processes)


if __name__ == "__main__":
    sys.exit(main())
