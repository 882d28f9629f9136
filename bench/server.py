"""The server of a run: production-like settings, and data that goes when the run ends.

By default the embedded PostgreSQL; with the folder of another one's programs, that one, so that
contestants which are extensions can take part. All contestants of a run share it.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from psycopg import Connection

from replication_pipeline.embedded import EmbeddedPostgres, EmbeddedServerError
from replication_pipeline.embedded.postgres_data import DataDirectory

PRODUCTION_LIKE: Final[Mapping[str, str]] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "shared_buffers": "512MB",
    # Checkpoints come when the scenario asks for one, and find WAL files to use again.
    "max_wal_size": "16GB",
    "min_wal_size": "2GB",
    "checkpoint_timeout": "1h",
    "jit": "off",
}
RECORDED: Final = (
    *PRODUCTION_LIKE,
    *("autovacuum", "autovacuum_naptime", "work_mem", "default_toast_compression"),
)

RECORD: Final = """
select name, current_setting(name) from unnest(%s::text[]) as s(name)
"""


class InstalledPostgres(EmbeddedPostgres):
    """The same life, with the programs of a PostgreSQL that is installed on this machine."""

    def __init__(self, directory: Path, programs: Path, *, settings: Mapping[str, str]) -> None:
        super().__init__(directory, settings=settings)
        self._programs = programs

    def bin(self, name: str) -> Path:
        return self._programs / name

    def _initdb(self, data: DataDirectory) -> None:
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C")
        initdb = self._run("initdb", *options, "--no-sync", "--no-instructions", data=data)
        if initdb.wait(timeout=120) != 0:
            raise EmbeddedServerError(f"initdb failed.\n{initdb.tail_of_log()}")


@contextlib.contextmanager
def running(
    programs: Path | None, directory: Path | None, settings: Mapping[str, str]
) -> Iterator[EmbeddedPostgres]:
    """A new server in a temporary folder (below ``directory``), with ``settings`` on top of ours."""
    wanted = {**PRODUCTION_LIKE, **settings}
    with tempfile.TemporaryDirectory(prefix="bench-", dir=directory) as folder:
        path = Path(folder)
        server = (
            InstalledPostgres(path, programs, settings=wanted)
            if programs
            else EmbeddedPostgres(path, settings=wanted)
        )
        with server:
            yield server


def settings_of(connection: Connection) -> dict[str, str]:
    """What the server really runs with."""
    return dict(connection.execute(RECORD, [list(RECORDED)]).fetchall())
