"""The data directory of an embedded PostgreSQL: made, owned, reached, cleared of leftovers.

Invariants: it is either a finished cluster or absent (initdb works beside it and the result is
renamed); it belongs to the user that runs the server; at most one server works in it.

Settings go to a file that `postgresql.conf` includes, so `ALTER SYSTEM` still overrides them.
"""

import contextlib
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from replication_pipeline.embedded.postgres_install import open_to_everyone
from replication_pipeline.embedded.process import EmbeddedServerError
from replication_pipeline.embedded.state import kill_all, processes_in

SETTINGS_FILE = "embedded.conf"


@dataclass(frozen=True, kw_only=True)
class DataDirectory:
    path: Path
    user: str | None
    """Who runs the server; None means the present user."""

    def make_with(self, initdb: Callable[["DataDirectory"], None]) -> None:
        """Make the cluster unless it exists; `initdb` fills the directory that it is given."""
        if not (self.path / "PG_VERSION").exists():
            for abandoned in self.path.parent.glob("initdb-*"):  # by an owner that was killed
                shutil.rmtree(abandoned, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.path.parent))
            try:
                beside = DataDirectory(path=draft, user=self.user)
                beside._hand_over()
                initdb(beside)
                with (draft / "postgresql.conf").open("a") as configuration:
                    configuration.write(f"\ninclude_if_exists = '{SETTINGS_FILE}'\n")
                draft.rename(self.path)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
        self._hand_over()

    def write_settings(self, settings: Mapping[str, str]) -> None:
        target = self.path / SETTINGS_FILE
        target.write_text("".join(f"{k} = '{_quoted(v)}'\n" for k, v in settings.items()))
        target.chmod(0o644)  # others are kept out by the data directory itself

    def write_private(self, name: str, content: bytes) -> None:
        """A file that only the server's user may read, such as its key."""
        target = self.path / name
        target.unlink(missing_ok=True)
        target.touch(0o600)
        target.write_bytes(content)
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(target, account.pw_uid, account.pw_gid)

    @contextlib.contextmanager
    def reachable(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The path by which the server's user gets here, and descriptors it must inherit.

        Below a private directory (0700, as `mktemp -d` makes) root's own descriptor is the way
        in: the kernel follows `/proc/self/fd/N` without asking the directories above, so none of
        them has to be opened to others.
        """
        if self.user is None or open_to_everyone(self.path.parent):
            yield str(self.path), ()
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{descriptor}", (descriptor,)
        finally:
            os.close(descriptor)

    def end_leftovers(self, *, grace: float) -> None:
        """Stop a server that outlived its owner, or the helpers of one that was killed."""
        found = processes_in(self.path, program="postgres")
        lock_file = self.path / "postmaster.pid"
        with contextlib.suppress(OSError, ValueError, IndexError):
            postmaster = int(lock_file.read_text().split()[0])
            if postmaster in (process.pid for process in found):
                os.kill(postmaster, signal.SIGINT)
            elif psutil.pid_exists(postmaster):
                # The number belongs to some other program by now; PostgreSQL could take that one
                # for a server of this directory and refuse to start.
                lock_file.unlink()
        kill_all(found, grace=grace)

    def _hand_over(self) -> None:
        """Make the server's user the owner, also when another user ran this directory before."""
        owner = self.path.stat().st_uid
        if self.user is None:
            if owner != os.geteuid():
                raise EmbeddedServerError(
                    f"{self.path} belongs to another user (was it made as root?). "
                    "Use another directory, or remove it as that user."
                )
            return
        account = pwd.getpwnam(self.user)
        if owner != account.pw_uid:
            for entry in [*self.path.rglob("*"), self.path]:  # the top last: it tells "all done"
                os.chown(entry, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")
