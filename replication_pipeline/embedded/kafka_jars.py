"""Kafka's jars: resolved from Maven Central once, then read from a per-user cache.

jgo's resolver is pure Python, so no Maven is needed, and it goes through `requests`, so proxies
and certificate authorities come from the usual environment variables.

Invariants: the cache directory of a version is complete or absent. Everything is fetched into a
draft beside it (jgo writes straight to the final name and takes any file that exists for whole),
each jar is read through once to compare its checksums, and the draft is renamed. One process
fetches at a time; the others wait for it. A copied cache works on a machine without network.
"""

import os
import shutil
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jgo.maven import MavenContext

from replication_pipeline.embedded.process import EmbeddedServerError
from replication_pipeline.embedded.state import exclusive

KAFKA_VERSION = "4.1.2"
SLF4J_VERSION = "1.7.36"  # Kafka 4.1's API version; another binding major would not log at all
CLASSPATH_FILE = "classpath.txt"


def kafka_classpath(version: str = KAFKA_VERSION) -> list[Path]:
    """The jars of the broker and its tools, downloaded if this user never needed them before."""
    home = cache_directory() / f"kafka-{version}"
    cached = _read_classpath(home)
    if cached is not None:
        return cached
    home.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(home.with_name(f"{home.name}.lock")):
        cached = _read_classpath(home)  # another process may have filled it meanwhile
        if cached is not None:
            return cached
        for abandoned in home.parent.glob(f"{home.name}-*"):  # by a process that was killed
            shutil.rmtree(abandoned, ignore_errors=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir=home.parent))
        try:
            _download(version, draft)
            shutil.rmtree(home, ignore_errors=True)  # a former cache that lost some of its files
            draft.rename(home)
        except Exception as error:
            raise EmbeddedServerError(
                f"Could not get Kafka {version} from Maven Central: {error}\n"
                "Check the network (HTTPS_PROXY and REQUESTS_CA_BUNDLE are honoured), or copy "
                f"the directory {home} from a machine where the embedded Kafka has run."
            ) from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    cached = _read_classpath(home)
    assert cached is not None
    return cached


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "replication_pipeline"


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
        _check(jar)
        jar.rename(target / jar.name)
    shutil.rmtree(repository)
    (target / CLASSPATH_FILE).write_text("".join(f"{jar.name}\n" for jar in jars))


def _check(jar: Path) -> None:
    with zipfile.ZipFile(jar) as archive:  # refuses a truncated file: the index is at the end
        broken = archive.testzip()
    if broken is not None:
        raise EmbeddedServerError(f"{jar.name} arrived damaged (at {broken}); try again.")
