"""Single-row transactions by several clients, driven by PostgreSQL's own pgbench."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_TPS: Final = re.compile(r"^tps = ([\d.]+)", re.MULTILINE)
_FAILED: Final = re.compile(r"^number of failed transactions: (\d+)", re.MULTILINE)


def transactions_per_second(
    program: Path,
    dsn: str,
    scripts: Sequence[str],
    *,
    clients: int,
    seconds: int,
    seed: int,
    keys: int,
) -> float:
    """Run the scripts in equal shares for ``seconds``, statements prepared.

    ``seed`` must differ between runs on one database, so that new keys are new.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.sql" for number in range(len(scripts))]
        for file, script in zip(files, scripts, strict=True):
            file.write_text(script, encoding="utf-8")
        arguments = [
            *("--no-vacuum", "--protocol=prepared", f"--client={clients}", "--jobs=2"),
            *(f"--time={seconds}", f"--random-seed={seed}", f"--define=keys={keys}"),
            *(f"--file={file}" for file in files),
        ]
        done = subprocess.run(
            [program, *arguments, dsn], check=False, capture_output=True, text=True
        )
    if done.returncode != 0:
        raise RuntimeError(f"pgbench failed\n{done.stderr}")
    return parse(done.stdout)


def parse(output: str) -> float:
    """The transactions a second of pgbench's report; raises when any of them has failed."""
    tps, failed = _TPS.search(output), _FAILED.search(output)
    if tps is None or (failed and int(failed[1])):
        raise RuntimeError(f"pgbench reports no clean run\n{output}")
    return float(tps[1])
