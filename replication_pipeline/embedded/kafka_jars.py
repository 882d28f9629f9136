"""Kafka's jars: resolved from Maven Central once, then read from a per-user cache.

jgo's resolver is pure Python, so no Maven is needed. It writes straight to the final name and takes
any file that exists for whole, so each jar is read through once to compare its checksums.
"""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jgo.maven import MavenContext

from replication_pipeline.embedded.downloads import check_archive, fetched_once

KAFKA_VERSION = "4.1.2"
SLF4J_VERSION = "1.7.36"  # Kafka 4.1's API version; another binding major would not log at all
CLASSPATH_FILE = "classpath.txt"


def kafka_classpath(version: str = KAFKA_VERSION) -> list[Path]:
    """The jars of the broker and its tools, downloaded if this user never needed them before."""
    home = fetched_once(
        f"kafka-{version}",
        is_whole=lambda home: _read_classpath(home) is not None,
        fetch=lambda draft: _download(version, draft),
        what=f"Kafka {version}",
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


def _download(version: str, target: Path) -> None:
    repository = target / "repository"
    context = MavenContext(repo_cache=repository, timeout=30)
    tools = context.create_dependency(
        f"org.apache.kafka:kafka-tools:{version}",
        # Serves Kafka Connect's tools only and would add some 40 jars of web servers.
        exclusions=[context.project("org.apache.kafka", "connect-runtime")],
    )
    inputs, transitive = context.resolver.resolve(
        [
            context.create_dependency(f"org.apache.kafka:kafka_2.13:{version}"),
            tools,
            context.create_dependency(f"org.slf4j:slf4j-simple:{SLF4J_VERSION}"),
        ]
    )
    artifacts = {dependency.artifact.key: dependency.artifact for dependency in inputs + transitive}
    with ThreadPoolExecutor(max_workers=4) as pool:
        jars = list(pool.map(lambda artifact: artifact.resolve(), artifacts.values()))
    for jar in jars:
        check_archive(jar)
        jar.rename(target / jar.name)
    shutil.rmtree(repository)
    (target / CLASSPATH_FILE).write_text("".join(f"{jar.name}\n" for jar in jars))
