"""Jars with all that they need: resolved from Maven Central once, then read from a per-user cache.

jgo's resolver is pure Python, so no Maven is needed. It writes straight to the final name and takes
any file that exists for whole, so each jar is read through once to compare its checksums.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jgo.maven import MavenContext

from replication_pipeline.embedded.downloads import check_archive, fetched_once

CLASSPATH_FILE = "classpath.txt"


def jars_of(
    name: str, coordinates: Sequence[str], *, without: Sequence[tuple[str, str]] = (), what: str
) -> list[Path]:
    """In the directory `name` of the cache, downloaded if this user never needed them before.

    `coordinates` are `group:artifact:version`. Dependencies `without` are left out, and theirs.
    """
    home = fetched_once(
        name,
        is_whole=lambda home: _read_classpath(home) is not None,
        fetch=lambda draft: _download(coordinates, without, draft),
        what=what,
    )
    jars = _read_classpath(home)
    assert jars is not None
    return jars


def _read_classpath(home: Path) -> list[Path] | None:
    try:
        names = (home / CLASSPATH_FILE).read_text().split()
    except FileNotFoundError:
        return None
    jars = [home / name for name in names]
    return jars if jars and all(jar.is_file() for jar in jars) else None


def _download(coordinates: Sequence[str], without: Sequence[tuple[str, str]], target: Path) -> None:
    repository = target / "repository"
    context = MavenContext(repo_cache=repository, timeout=30)
    exclusions = [context.project(*project) for project in without]
    inputs, transitive = context.resolver.resolve(
        [context.create_dependency(each, exclusions=exclusions) for each in coordinates]
    )
    artifacts = {dependency.artifact.key: dependency.artifact for dependency in inputs + transitive}
    with ThreadPoolExecutor(max_workers=4) as pool:
        jars = list(pool.map(lambda artifact: artifact.resolve(), artifacts.values()))
    for jar in jars:
        check_archive(jar)
        jar.rename(target / jar.name)
    shutil.rmtree(repository)
    (target / CLASSPATH_FILE).write_text("".join(f"{jar.name}\n" for jar in jars))
