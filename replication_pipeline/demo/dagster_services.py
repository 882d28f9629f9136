"""Dagster as in production: a code server per contour, one daemon, one webserver, PostgreSQL storage.

Storage is a third cluster: whoever kills a contour's server, which a demo invites to, still sees in
the UI what that does. The daemon must not own the code servers (it would restart them every minute),
so they are processes of their own that ``workspace.yaml`` points at.

Stopping: runs are children of the code servers, which would wait for them; they are asked first.
They finish the batch in hand, report and end; only then do their servers go.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import psycopg
import yaml

from replication_pipeline.demo import ghosts
from replication_pipeline.demo.leftovers import STATE_VARIABLE, is_run, processes_of
from replication_pipeline.demo.place import Place
from replication_pipeline.embedded import EmbeddedPostgres, EmbeddedServerError, ManagedProcess
from replication_pipeline.settings import CONFIG_VARIABLE

HOST: Final = EmbeddedPostgres.host
DATABASE: Final = "dagster"
LOCATIONS: Final = """{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename } } } } }"""


@dataclass(frozen=True, slots=True)
class DagsterServices:
    """Starts Dagster's programs; each returns at once, ``ready`` says when it can be relied on."""

    place: Place
    storage_port: int

    def write_home(self, code_servers: Mapping[str, int]) -> None:
        """``DAGSTER_HOME``: the product's own dagster.yaml, and where the code servers are."""
        home = self.place.dagster_home
        shutil.copyfile(instance_file(), home / "dagster.yaml")
        servers = [
            {"grpc_server": {"host": HOST, "port": port, "location_name": contour}}
            for contour, port in code_servers.items()
        ]
        workspace = yaml.safe_dump({"load_from": servers}, sort_keys=False)
        (home / "workspace.yaml").write_text(workspace, encoding="utf-8")

    def migrate(self) -> None:
        """Make Dagster's tables, or upgrade them: before its programs start, or they would race.

        Takes seconds, so it is done once for each version of Dagster.
        """
        done = self.place.dagster_home / "storage-version"
        if done.exists() and done.read_text() == version("dagster"):
            return
        migration = self._run("dagster-migrate", ["-m", "dagster", "instance", "migrate"])
        if migration.wait(timeout=120) != 0:
            raise EmbeddedServerError(
                f"Dagster could not set up its storage.\n{migration.tail_of_log()}"
            )
        done.write_text(version("dagster"))

    def clear_ghosts(self) -> None:
        """End runs that a killed demo left open, if there are any (asking is cheap)."""
        storage = f"host={HOST} port={self.storage_port} dbname={DATABASE} user=postgres"
        with psycopg.connect(storage) as session:
            found = session.execute(
                "select from runs where status = any(%s) limit 1", (list(ghosts.GHOSTLY),)
            ).fetchone()
        if found is not None:
            self._run("dagster-ghosts", ["-m", ghosts.__name__]).wait(timeout=60)

    def code_server(self, contour: str, port: int) -> ManagedProcess:
        """The code location of one contour."""
        return self._run(
            f"code-server-{contour}",
            [
                *(
                    "-m",
                    "dagster",
                    "code-server",
                    "start",
                    "-m",
                    "replication_pipeline.definitions",
                ),
                *("--host", HOST, "--port", str(port), "--location-name", contour),
            ],
            {CONFIG_VARIABLE: str(self.place.config(contour))},
        )

    def daemon(self) -> ManagedProcess:
        """Sensors, schedules, the run queue."""
        return self._run("dagster-daemon", ["-m", "dagster._daemon", "run", *self._workspace()])

    def webserver(self, port: int) -> ManagedProcess:
        """The UI."""
        options = [*self._workspace(), "--host", HOST, "--port", str(port)]
        return self._run("dagster-webserver", ["-m", "dagster_webserver", *options])

    def _workspace(self) -> list[str]:
        return ["-w", str(self.place.dagster_home / "workspace.yaml")]

    def _run(
        self, name: str, arguments: Sequence[str], more: Mapping[str, str] | None = None
    ) -> ManagedProcess:
        environment = {
            **os.environ,
            STATE_VARIABLE: str(self.place.root),
            "DAGSTER_HOME": str(self.place.dagster_home),
            "DAGSTER_PG_HOST": HOST,
            "DAGSTER_PG_PORT": str(self.storage_port),
            "DAGSTER_PG_USERNAME": "postgres",
            "DAGSTER_PG_PASSWORD": "trusted",  # must not be empty; the server asks for none
            "DAGSTER_PG_DB": DATABASE,
            "PYTHONUNBUFFERED": "1",
            **(more or {}),
        }
        # A dozen processes import Dagster here, each in half the time from compiled modules. A shell
        # that forbids to write those is right for tools, not for services.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        return ManagedProcess(
            [sys.executable, *arguments],
            log_file=self.place.log(name),
            cwd=self.place.dagster_home,
            env=environment,
        )


def instance_file() -> Path:
    """The product's dagster.yaml: inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_dagster.yaml"
    return installed if installed.is_file() else package.parent / "dagster.yaml"


def listens(port: int) -> bool:
    """Whether something accepts connections; a code server does once its definitions are loaded."""
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def shows(url: str, locations: int) -> bool:
    """Whether the UI answers and has loaded so many code locations without an error."""
    try:
        entries = graphql(url, LOCATIONS)["workspaceOrError"]["locationEntries"]
    except (OSError, ValueError, KeyError):
        return False
    loaded = [
        entry
        for entry in entries
        if entry["loadStatus"] == "LOADED"
        and (entry["locationOrLoadError"] or {}).get("__typename") == "RepositoryLocation"
    ]
    return len(loaded) == locations


def graphql(url: str, query: str) -> dict[str, Any]:
    """Ask the UI's own interface."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(
        f"{url}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    # Not through a proxy that the environment names: this is our own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        data: dict[str, Any] = json.load(answer)["data"]
        return data


def end_windows(root: Path, *, timeout: float) -> int:
    """Ask every run to finish its batch and end; kill those that don't. Returns how many there were."""
    runs = [process for process in processes_of(root) if is_run(process)]
    for run in runs:
        try:
            run.send_signal(signal.SIGINT)
        except psutil.NoSuchProcess:
            continue
    _, lingering = psutil.wait_procs(runs, timeout=timeout)
    for run in lingering:
        try:
            run.kill()
        except psutil.NoSuchProcess:
            continue
    return len(runs)
