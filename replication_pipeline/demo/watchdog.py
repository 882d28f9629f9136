"""Ends what the demo has started when the demo itself was killed: ``python -m …watchdog ROOT PARENT``.

The kernel ends our own children with us (``embedded.process``), but Dagster's code servers have
children of their own, and those have the runs. This process outlives the demo by a moment, kills
whatever carries the state directory's mark, and ends. It must be started so that its parent's death
doesn't end it, and without the mark.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Final

from replication_pipeline.demo.leftovers import kill_leftovers

LOOK_EVERY: Final = 0.2
# A server that was starting another program when it was killed: its child shows a moment later.
LOOK_AGAIN: Final = (0.3, 1.0)


def main(root: Path, parent: int) -> None:
    """Wait until ``parent`` is gone, then kill."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    kill_leftovers(root)
    for pause in LOOK_AGAIN:
        time.sleep(pause)
        kill_leftovers(root)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
