"""The demo as a user runs it: up, replicating, stopped by Ctrl+C, killed, and ending by itself.

One state directory for all, in this order: the last start comes after a kill, which must not matter.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil
import psycopg
import pytest
import yaml

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

T = TypeVar("T")

UP = 120.0
WINDOWS = 90.0
LONGEST_STOP = 15.0

RUNS = """query ($contour: String!, $job: String!) {
  runsOrError(filter: {pipelineName: $job, tags: [{key: "contour", value: $contour}]}) {
    ... on Runs { results { runId status tags { key value } } } } }"""
CHECK = """query ($contour: String!, $check: String!) {
  assetCheckExecutions(assetKey: {path: [$contour, "replication_queue"]}, checkName: $check,
                       limit: 1) { status evaluation { success } } }"""
QUEUE = """query ($contour: String!) {
  assetOrError(assetKey: {path: [$contour, "replication_queue"]}) { ... on Asset {
    assetMaterializations(limit: 20) { runId description metadataEntries {
      label ... on IntMetadataEntry { intValue } } } } } }"""
TERMINATE = """mutation ($run: String!) { terminateRun(runId: $run) { __typename } }"""


def wait_for(what: str, look: Callable[[], T | None], *, seconds: float) -> T:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(0.1)
    return found


def processes_that_refer_to(directory: Path) -> list[str]:
    """By command line, working directory or environment; we and our own parents don't count."""
    family = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            with process.oneshot():
                said = [*process.cmdline(), process.cwd(), *process.environ().values()]
                status = process.status()
        except (psutil.Error, OSError):
            continue
        if (
            process.pid not in family
            and status != psutil.STATUS_ZOMBIE
            and any(str(directory) in words for words in said)
        ):
            found.append(f"{process.pid} {' '.join(process.cmdline())}")
    return found


@dataclass
class RunningDemo:
    process: subprocess.Popen[bytes]
    state: Path
    output: Path

    @property
    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def url(self) -> str:
        """The UI's address, once everything is up."""

        def look() -> str | None:
            assert self.process.poll() is None, f"the demo ended:\n{self.said}"
            address = re.search(r"Dagster UI +(http://\S+:\d+)", self.said)
            return address[1] if address and "Ready after" in self.said else None

        return wait_for("the demo to be up", look, seconds=UP)

    def ask(self, query: str, **variables: str) -> Any:
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(
            f"{self.url()}/graphql", body, {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            document = json.load(answer)
        assert "errors" not in document, document
        return document["data"]

    def window(self, contour: str, job: str) -> str:
        """A running window that a sensor has launched."""

        def look() -> str | None:
            runs = self.ask(RUNS, contour=contour, job=job)["runsOrError"]["results"]
            for run in runs:
                tags = {tag["key"]: tag["value"] for tag in run["tags"]}
                if (
                    run["status"] == "STARTED"
                    and tags.get("dagster/sensor_name") == f"{job}_sensor"
                ):
                    return str(run["runId"])
            return None

        return wait_for(f"a {job} window of contour {contour}", look, seconds=WINDOWS)

    def evaluations(self, contour: str, check: str) -> Any:
        return self.ask(CHECK, contour=contour, check=check)["assetCheckExecutions"]

    def connect(self, contour: str) -> psycopg.Connection:
        postgres = yaml.safe_load((self.state / f"{contour}.yaml").read_text())["postgres"]
        return psycopg.connect(
            host=postgres["host"],
            port=postgres["port"],
            dbname=postgres["dbname"],
            user="app",
            autocommit=True,
        )

    def end(self, number: signal.Signals) -> float:
        """Send the signal; how long it took to end."""
        began = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(timeout=60)
        return time.monotonic() - began


Start = Callable[..., RunningDemo]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    base = tmp_path_factory.mktemp("demo")
    demos: list[RunningDemo] = []

    def begin(*options: str) -> RunningDemo:
        output = base / f"output-{len(demos)}.txt"
        with output.open("wb") as out:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "replication_pipeline", "demo"),
                    *("--state", str(base / "state"), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=base,
            )
        demos.append(RunningDemo(process, base / "state", output))
        return demos[-1]

    yield begin

    for demo in demos:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait(timeout=10)


@pytest.fixture(scope="module")
def demo(start: Start) -> RunningDemo:
    return start()


@pytest.mark.parametrize("contour", ["a", "b"])
def test_sensors_launch_windows_and_evaluate_the_checks(demo: RunningDemo, contour: str) -> None:
    for job in ("publish", "apply"):
        demo.window(contour, job)
    for check in (
        *("unpublished_count", "publish_lag"),
        *("error_rate", "parked_events", "heartbeat", "queue_health"),
    ):
        evaluated = wait_for(
            f"check {check} of contour {contour}",
            partial(demo.evaluations, contour, check),
            seconds=30,
        )
        assert evaluated[0]["evaluation"] is not None


@pytest.mark.parametrize(("here", "there"), [("a", "b"), ("b", "a")])
def test_a_row_written_here_arrives_there(demo: RunningDemo, here: str, there: str) -> None:
    demo.window(here, "publish")
    demo.window(there, "apply")
    # Not the balance, nor the version that goes with it: the workload changes those of any customer,
    # this one's included.
    columns = "id, name, email, preferences::text, tags, created_at"
    with closing(demo.connect(here)) as first, closing(demo.connect(there)) as second:
        written = first.execute(
            "insert into customers (name, email, balance, preferences, tags) "
            "values ('Zoë', %s, 12.30, '{\"a\": [1, null]}', array['x', null, 'y z']) "
            f"returning {columns}",
            (f"from.{here}@example.com",),
        ).fetchone()

        def look() -> Any:
            return second.execute(
                f"select {columns} from customers where email = %s",
                (f"from.{here}@example.com",),
            ).fetchone()

        arrived = wait_for("the row", look, seconds=60)
    assert arrived == written


def test_terminating_a_window_keeps_its_summary(demo: RunningDemo) -> None:
    run = demo.window("a", "publish")

    demo.ask(TERMINATE, run=run)

    def summary() -> Any:
        queue = demo.ask(QUEUE, contour="a")["assetOrError"]
        return next((m for m in queue["assetMaterializations"] if m["runId"] == run), None)

    found = wait_for("the window's summary", summary, seconds=30)
    figures = {entry["label"]: entry.get("intValue") for entry in found["metadataEntries"]}
    assert "ended by" in found["description"]
    assert figures["failed"] == 0


def test_ctrl_c_stops_everything_in_time(demo: RunningDemo) -> None:
    demo.window("b", "publish")
    assert processes_that_refer_to(demo.state)

    seconds = demo.end(signal.SIGINT)

    assert demo.process.returncode == 0, demo.said
    assert demo.said.rstrip().splitlines()[-1].startswith("Everything is stopped")
    assert processes_that_refer_to(demo.state) == []
    assert seconds < LONGEST_STOP


def test_killing_the_demo_leaves_no_process(start: Start) -> None:
    demo = start()
    demo.window("a", "apply")

    demo.end(signal.SIGKILL)

    wait_for(
        "every process to end",
        lambda: not processes_that_refer_to(demo.state),
        seconds=LONGEST_STOP,
    )


def test_a_timed_demo_ends_by_itself_with_equal_contours(start: Start) -> None:
    demo = start("--seconds", "10")

    assert demo.process.wait(timeout=200) == 0, demo.said

    assert "Contours equal: yes" in demo.said
    assert re.search(r"events captured +[1-9]", demo.said)
    assert processes_that_refer_to(demo.state) == []
