"""What peers that Debian packages have in common: are they there, which versions, who works for them.

Their extensions belong to Debian's PostgreSQL 15, which ``--postgres`` names.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil
import psycopg
from psycopg import sql

from replication_pipeline.embedded import EmbeddedPostgres

BY_SCRIPT: Final = (
    "or run bench/peers/install_debian.sh, and name that server's programs: --postgres"
)
LACKING: Final = """
select name from unnest(%s::text[]) as wanted (name)
 where name not in (select name from pg_available_extensions)
"""
ROLES: Final = "select rolname from pg_roles"
BACKENDS: Final = "select pid from pg_stat_activity where client_port = any(%s)"


def lacking(
    dsn: str,
    *,
    packages: Sequence[str],
    extensions: Sequence[str],
    programs: Sequence[str],
) -> str | None:
    """Which of a peer's parts the server or this machine hasn't, and the packages that bring them."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        parts = [f"extension {name}" for (name,) in connection.execute(LACKING, [[*extensions]])]
    parts += [f"program {name}" for name in programs if shutil.which(name) is None]
    if not parts:
        return None
    return (
        f"no {', no '.join(parts)}; on Debian 12, as root: apt-get install {' '.join(packages)}; "
        f"{BY_SCRIPT} /usr/lib/postgresql/15/bin"
    )


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Versions of those that are installed; empty where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return {}
    asked = ["dpkg-query", "--show", "--showformat", r"${Package} ${Version}\n", *packages]
    lines = subprocess.run(asked, check=False, capture_output=True, text=True).stdout.splitlines()
    return {
        name: version for name, _, version in (line.partition(" ") for line in lines) if version
    }


def call(command: Sequence[str | Path], *, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints. Raises ``RuntimeError`` with all of it when it fails."""
    ended = subprocess.run(
        [*map(str, command)],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=120,
    )
    if ended.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{ended.stdout}")
    return ended.stdout


@contextmanager
def roles_as_before(dsn: str) -> Iterator[None]:
    """Drops those that extensions and installers have made for the whole server meanwhile."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        before = connection.execute(ROLES).fetchall()
        yield
        for (name,) in set(connection.execute(ROLES)) - set(before):
            connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def family(server: EmbeddedPostgres, parents: Iterable[int]) -> list[int]:
    """The processes, their children, and the backends that all of these are connected to."""
    clients: dict[int, psutil.Process] = {}
    ports = set[int]()
    for parent in parents:
        try:
            process = psutil.Process(parent)
            clients |= {one.pid: one for one in (process, *process.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    for pid, process in [*clients.items()]:
        try:
            ports |= {one.laddr.port for one in process.net_connections("tcp")}
        except psutil.NoSuchProcess:
            del clients[pid]
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        backends = [pid for (pid,) in connection.execute(BACKENDS, [[*ports]])]
    return [*clients, *backends]
