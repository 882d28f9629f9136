"""A real Apache Kafka in one directory: one node that is broker and controller (KRaft).

Invariants: both listeners are on 127.0.0.1 and keep their ports over restarts; storage is
formatted once; topics, offsets and the cluster id survive `kill()`; topics are never made by
accident. It answers when `start()` returns.

Timeouts of consumer groups are short, so that a killed consumer's partitions move within seconds
in a demo; production keeps Kafka's own defaults. One copy of the data. Besides its plain listener it
can have others, with TLS and logins; the plain one stays, as the broker speaks to itself there.
"""

import base64
import contextlib
import signal
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from replication_pipeline.embedded.kafka_java import TOOLS, java_command, run_tool
from replication_pipeline.embedded.process import EmbeddedServerError, ManagedProcess, wait_until
from replication_pipeline.embedded.state import StateDirectory, kill_all, processes_in

HOST = "127.0.0.1"
NODE_ID = 1
DEFAULT_SETTINGS: Mapping[str, str] = {
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "group.consumer.min.session.timeout.ms": "1000",
    "group.consumer.session.timeout.ms": "10000",
    "group.consumer.min.heartbeat.interval.ms": "100",
    "group.consumer.heartbeat.interval.ms": "1000",
    # A killed broker is let in again only when its former session has run out; 9 s by default.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "250",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes a quarter of our heap
}


@dataclass(frozen=True, kw_only=True)
class Listener:
    """One more way in. `settings` are Kafka's for this listener alone, `host` is what it advertises."""

    protocol: Literal["SSL", "SASL_SSL", "SASL_PLAINTEXT"]
    settings: Mapping[str, str]
    host: str = "localhost"


class EmbeddedKafka:
    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] = {},
        listeners: Mapping[str, Listener] = {},
        scram_users: Mapping[str, str] = {},
    ) -> None:
        self._state = StateDirectory(directory)
        self._asked_port = {} if port is None else {"broker": port}
        self._port = port
        self._settings = {**DEFAULT_SETTINGS, **settings}
        self._listeners = dict(listeners)
        self._scram_users = dict(scram_users)
        self._ports: Mapping[str, int] = {}
        self._process: ManagedProcess | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise EmbeddedServerError("The port is chosen by start(); call that first.")
        return self._port

    @property
    def bootstrap_servers(self) -> str:
        return f"{HOST}:{self.port}"

    def port_of(self, listener: str) -> int:
        """The port of one of `listeners`, once started."""
        return self._ports[listener]

    @property
    def log_file(self) -> Path:
        return self._state.path / "kafka.log"

    @property
    def pid(self) -> int | None:
        """The broker's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.alive else None

    @property
    def running(self) -> bool:
        return self.pid is not None

    def tool(self, name: str, *args: str, timeout: float = 60) -> str:
        """Run a stock tool against this broker and return its standard output.

        Names are those of Kafka's scripts, such as `kafka-topics`; `--bootstrap-server` is given.
        """
        if name not in TOOLS:
            raise EmbeddedServerError(f"There is no tool {name!r}; there are: {', '.join(TOOLS)}.")
        return run_tool(name, "--bootstrap-server", self.bootstrap_servers, *args, timeout=timeout)

    def start(self) -> Self:
        if self.running:
            return self
        self._state.claim()
        try:
            kill_all(processes_in(self._state.path, program="java"), grace=0)
            names = ["broker", "controller", *self._listeners]
            self._ports = ports = self._state.ports(names, fixed=self._asked_port)
            self._port = ports["broker"]
            properties = self._write_properties(controller_port=ports["controller"])
            self._format_storage(properties)
            self._process = self._run("kafka.Kafka", str(properties))
            wait_until(
                self._listens,
                timeout=60,
                what=f"Kafka to listen on {self.bootstrap_servers}",
                process=self._process,
            )
            wait_until(
                lambda: _answers(self.bootstrap_servers),
                timeout=60,
                what=f"Kafka to answer on {self.bootstrap_servers}",
                process=self._process,
            )
        except BaseException:
            self.kill()
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Controlled shutdown. Harmless when already stopped."""
        if self._process is not None:
            self._process.stop(signal=signal.SIGTERM, timeout=15)
            self._process = None
        self._state.release()

    def kill(self) -> None:
        """SIGKILL, as a power cut; `start()` brings it back with its topics and ports."""
        if self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _write_properties(self, *, controller_port: int) -> Path:
        more = {name: (self._ports[name], each) for name, each in self._listeners.items()}
        protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        protocols |= {name: listener.protocol for name, (_, listener) in more.items()}
        listening = [
            f"PLAINTEXT://{HOST}:{self.port}",
            f"CONTROLLER://{HOST}:{controller_port}",
            *(f"{name}://{HOST}:{port}" for name, (port, _) in more.items()),
        ]
        advertised = [
            f"PLAINTEXT://{HOST}:{self.port}",
            *(f"{name}://{listener.host}:{port}" for name, (port, listener) in more.items()),
        ]
        own = {
            "process.roles": "broker,controller",
            "node.id": str(NODE_ID),
            "controller.quorum.voters": f"{NODE_ID}@{HOST}:{controller_port}",
            "listeners": ",".join(listening),
            "advertised.listeners": ",".join(advertised),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self._state.path / "data"),
        }
        for name, (_, listener) in more.items():
            prefix = f"listener.name.{name.lower()}"
            own |= {f"{prefix}.{setting}": value for setting, value in listener.settings.items()}
        file = self._state.path / "server.properties"
        file.write_text("".join(f"{k}={v}\n" for k, v in (own | self._settings).items()))
        return file

    def _format_storage(self, properties: Path) -> None:
        if (self._state.path / "data" / "meta.properties").exists():
            return
        # Led by "k", since the tool would take an id that starts with a dash for an option.
        cluster_id = "k" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        arguments = ["format", "--ignore-formatted", "-t", cluster_id, "-c", str(properties)]
        for user, password in self._scram_users.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                arguments += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        formatting = self._run("kafka.tools.StorageTool", *arguments)
        if formatting.wait(timeout=60) != 0:
            raise EmbeddedServerError(
                f"Kafka could not format its storage.\n{formatting.tail_of_log()}"
            )

    def _run(self, main_class: str, *arguments: str) -> ManagedProcess:
        scratch = self._state.path / "tmp"
        scratch.mkdir(exist_ok=True)
        return ManagedProcess(
            java_command(main_class, *arguments, scratch=scratch),
            log_file=self.log_file,
            cwd=self._state.path,  # by which a leftover broker is recognised
        )

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False


def _answers(bootstrap_servers: str) -> bool:
    """Another client each time: one that was told of no broker, or of an address where nobody is yet,
    asks nobody any more.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
    try:
        return bool(admin.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
