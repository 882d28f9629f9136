"""The embedded servers as the other tests rely on them: they start, come back, and never linger."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer

from replication_pipeline.embedded import (
    EmbeddedKafka,
    EmbeddedPostgres,
    EmbeddedServerError,
    postgres_install,
)
from replication_pipeline.embedded.process import free_port, port_is_free, wait_until
from replication_pipeline.embedded.state import processes_in

pytestmark = pytest.mark.integration


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(tmp_path / "postgres", settings={"fsync": "off"}) as server:
        yield server


def postgres_processes(data_directory: Path) -> list[psutil.Process]:
    return processes_in(data_directory, program="postgres")


def test_postgres_answers_and_stop_leaves_no_process(postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres.create_database("app")) as connection:
        row = connection.execute("select current_database(), current_setting('fsync')").fetchone()
    assert row == ("app", "off")
    assert postgres_processes(postgres.data_directory)

    postgres.stop()
    postgres.stop()

    assert not postgres.running
    assert not postgres_processes(postgres.data_directory)
    assert port_is_free(postgres.port)


def test_postgres_killed_from_outside_returns_with_port_and_data(
    postgres: EmbeddedPostgres,
) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
        connection.execute("create table kept as select 42 as answer")
    port, pid = postgres.port, postgres.pid
    assert pid is not None

    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not postgres.running, timeout=10, what="the postmaster to be gone")
    postgres.start()

    assert postgres.port == port
    with psycopg.connect(postgres.dsn()) as connection:
        assert connection.execute("select answer from kept").fetchone() == (42,)


def test_postgres_under_a_private_directory_and_a_new_owner_keeps_its_port(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    with EmbeddedPostgres(private / "postgres") as first:
        port = first.port
    with EmbeddedPostgres(private / "postgres") as second:
        assert second.port == port
    assert private.stat().st_mode & 0o777 == 0o700


def test_one_directory_has_one_owner(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedServerError, match="in use"):
        EmbeddedPostgres(postgres.data_directory.parent).start()
    assert postgres.running


def test_a_taken_port_is_refused_with_its_number(
    postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    with pytest.raises(EmbeddedServerError, match=f"Port {postgres.port} "):
        EmbeddedPostgres(tmp_path / "other", port=postgres.port).start()


def test_a_bad_setting_shows_what_the_server_wrote(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres", settings={"max_connections": "many"})
    with pytest.raises(EmbeddedServerError, match="invalid value for parameter"):
        server.start()
    assert not postgres_processes(server.data_directory)


def test_a_server_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "postgres")
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    finally:
        server.stop()


START_AND_WAIT = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from replication_pipeline.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1])).start()
print(server.pid, flush=True)
sys.stdin.read()
"""


def test_postgres_dies_with_its_killed_parent(tmp_path: Path) -> None:
    directory = tmp_path / "postgres"
    with subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    server.wait(timeout=10)

    data = directory.resolve() / "data"
    wait_until(
        lambda: not postgres_processes(data), timeout=10, what="PostgreSQL's helpers to be gone"
    )
    with EmbeddedPostgres(directory) as successor:  # and nothing stale is in the way
        assert successor.running


def test_root_runs_programs_that_lie_in_a_private_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root hands the server to another user")
    packages = tmp_path / "venv"
    packages.mkdir(mode=0o700)
    installed = postgres_install.packaged_install().root.parent
    for name in (installed.name, f"{installed.name}.libs"):
        shutil.copytree(installed.with_name(name), packages / name)
    private = postgres_install.PostgresInstall(packages / installed.name / "pginstall")
    public = Path(tempfile.mkdtemp())  # pytest's own directories are closed to other users
    public.chmod(0o755)
    monkeypatch.setattr(postgres_install, "packaged_install", lambda: private)
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    try:
        with EmbeddedPostgres(tmp_path / "postgres") as server:
            assert server.bin("psql").is_relative_to(public)
    finally:
        shutil.rmtree(public)


def test_free_ports_are_not_those_of_outgoing_connections() -> None:
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert all(free_port() < first_ephemeral for _ in range(20))


def consume_one(bootstrap_servers: str, topic: str) -> bytes | None:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "test",
            "auto.offset.reset": "earliest",
        }
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


@pytest.mark.timeout(180)  # the very first start on a machine downloads the jars
def test_kafka_carries_a_message_and_survives_a_kill(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka") as kafka:
        servers = kafka.bootstrap_servers
        kafka.tool("kafka-topics", "--create", "--topic", "kept", "--partitions", "3")
        producer = Producer({"bootstrap.servers": servers, "acks": "all"})
        producer.produce("kept", b"hello")
        assert producer.flush(20) == 0
        assert consume_one(servers, "kept") == b"hello"

        kafka.kill()
        assert not kafka.running
        kafka.start()

        assert kafka.bootstrap_servers == servers
        assert kafka.tool("kafka-topics", "--list").split() == ["__consumer_offsets", "kept"]
        producer.produce("kept", b"again")
        assert producer.flush(20) == 0
    assert not processes_in((tmp_path / "kafka").resolve(), program="java")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs a copy of the programs")
def test_servers_that_start_side_by_side_share_one_whole_copy_of_the_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    public = tmp_path / "temporary"
    public.mkdir(mode=0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(public))
    monkeypatch.setattr(postgres_install, "open_to_everyone", lambda _: False)
    wanted = sum(1 for entry in postgres_install.packaged_install().root.rglob("*"))

    def install(_: int) -> int:
        return sum(1 for entry in postgres_install.install_for("nobody").root.rglob("*"))

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(install, range(6))) == {wanted}
