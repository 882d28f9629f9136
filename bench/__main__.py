"""``python -m bench``: run scenarios, and show what they measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol

import typer
from rich.console import Console

from bench import results
from bench.apply import Apply
from bench.at_rest import AtRest
from bench.capture import Capture
from bench.compare import Compare
from bench.end_to_end import EndToEnd
from bench.explain_capture import CaptureSplit
from bench.handover import Handover
from bench.heal import Heal
from bench.peers import everyone
from bench.peers_compared import PeersCompared
from bench.publish import Publish
from bench.publish_idle import PublishIdle
from bench.publish_latency import PublishLatency
from bench.publish_peers import PublishPeers
from bench.publish_split import PublishSplit
from bench.queue_health import QueueHealth
from bench.report.console import show
from bench.results import Result
from bench.scaling import Scaling
from bench.server import running
from bench.snapshot import SnapshotScenario
from bench.soak import Soak
from bench.workloads import WORKLOADS, Name
from replication_pipeline.embedded import EmbeddedPostgres

app = typer.Typer(help="Benchmarks.", no_args_is_help=True, add_completion=False)
run = typer.Typer(help="Run a scenario and print its medians and ratios.", no_args_is_help=True)
app.add_typer(run, name="run")

CAPTURE: Final = Capture()
SPLIT: Final = CaptureSplit()
HEALTH: Final = QueueHealth()
PUBLISH: Final = Publish()
LATENCY: Final = PublishLatency()
IDLE: Final = PublishIdle()
PUBLISH_SPLIT: Final = PublishSplit()
APPLY: Final = Apply()
APPLIES: Final = [Apply(workload=name) for name in WORKLOADS]
END_TO_END: Final = EndToEnd()
SCALING: Final = Scaling()
SNAPSHOT: Final = SnapshotScenario()
AT_REST: Final = AtRest()
HANDOVER: Final = Handover()
HEAL: Final = Heal()
COMPARE: Final = Compare()
PEERS: Final = PeersCompared()
PUBLISH_PEERS: Final = PublishPeers()
SOAK: Final = Soak()

Programs = Annotated[
    Path | None,
    typer.Option("--postgres", help="Folder of another PostgreSQL's programs.", exists=True),
]
Directory = Annotated[
    Path | None, typer.Option("--directory", help="Where the server's data go.", exists=True)
]
Rounds = Annotated[int, typer.Option(min=1, help="Measurements of each kind.")]
Rows = Annotated[int, typer.Option(min=1, help="Rows of one bulk statement.")]
Seconds = Annotated[int, typer.Option(min=0, help="Of single-row transactions in each round.")]
Clients = Annotated[int, typer.Option(min=1, help="Of single-row transactions.")]
WalLevel = Annotated[
    Literal["replica", "logical"], typer.Option(help="Of the server; slots need logical.")
]
Depths = Annotated[list[int], typer.Option("--depth", min=1, help="Events waiting; repeatable.")]
Events = Annotated[int, typer.Option(min=1000, help='Of the "hour"; 1800000 are 500/s.')]
Queued = Annotated[int, typer.Option("--events", min=1, help="Events in the queue.")]
Rate = Annotated[float, typer.Option(min=1, help="Transactions a second.")]
Rates = Annotated[
    list[float], typer.Option("--rate", min=1, help="Transactions a second; repeatable.")
]
Processes = Annotated[list[int], typer.Option(min=1, help="Publishers, and appliers; repeatable.")]
Partitions = Annotated[list[int], typer.Option(min=1, help="Of a topic; repeatable.")]
Long = Annotated[int, typer.Option("--seconds", min=1, help="Of each measurement.")]
Replicated = Annotated[int, typer.Option("--events", min=100, help="In the topics; hundreds.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--peer", help=f"Repeatable; all when none is named: {'; '.join(everyone.names())}."
    ),
]
Work = Annotated[Name, typer.Option("--workload", help="What is applied, and what it meets.")]
Batch = Annotated[int, typer.Option(min=1, help="Events of one claim.")]


class Scenario(Protocol):
    @property
    def server(self) -> Mapping[str, str]:
        """Settings of the server beyond the usual."""
        ...

    def run(self, server: EmbeddedPostgres, console: Console) -> list[Result]: ...


def measure(scenario: Scenario, programs: Path | None, directory: Path | None) -> list[Result]:
    with running(programs, directory, scenario.server) as server:
        return scenario.run(server, Console(stderr=True))


@run.command("capture")
def _capture(
    *,
    rows: Rows = CAPTURE.rows,
    rounds: Rounds = CAPTURE.rounds,
    seconds: Seconds = CAPTURE.seconds,
    clients: Clients = CAPTURE.clients,
    wal_level: WalLevel = CAPTURE.wal_level,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """What capturing changes costs those who write them."""
    scenario = Capture(
        rows=rows, rounds=rounds, seconds=seconds, clients=clients, wal_level=wal_level
    )
    show(Console(), measure(scenario, postgres, directory))


@run.command("capture-split")
def _capture_split(
    *,
    rows: Rows = SPLIT.rows,
    rounds: Rounds = SPLIT.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """Where each microsecond of capture goes."""
    scenario = CaptureSplit(rows=rows, rounds=rounds)
    show(Console(), measure(scenario, postgres, directory))


@run.command("queue-health")
def _queue_health(
    *,
    depth: Depths = [*HEALTH.depths],  # noqa: B006  typer copies it
    events: Events = HEALTH.events,
    batch: Batch = HEALTH.batch,
    rounds: Rounds = HEALTH.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """A queue that is deep, and one that vacuum can't clean."""
    scenario = QueueHealth(depths=tuple(depth), events=events, batch=batch, rounds=rounds)
    show(Console(), measure(scenario, postgres, directory))


@run.command("publish")
def _publish(
    *,
    events: Queued = PUBLISH.events,
    rounds: Rounds = PUBLISH.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How fast a full queue is drained, and at what cost."""
    show(Console(), measure(Publish(events=events, rounds=rounds), postgres, directory))


@run.command("publish-split")
def _publish_split(
    *,
    events: Queued = PUBLISH_SPLIT.events,
    rounds: Rounds = PUBLISH_SPLIT.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """Where a publisher's time goes."""
    show(Console(), measure(PublishSplit(events=events, rounds=rounds), postgres, directory))


@run.command("publish-latency")
def _publish_latency(
    *,
    rate: Rate = LATENCY.rate,
    seconds: Long = LATENCY.seconds,
    rounds: Rounds = LATENCY.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How long after its commit an event is in Kafka."""
    scenario = PublishLatency(rate=rate, seconds=seconds, rounds=rounds)
    show(Console(), measure(scenario, postgres, directory))


@run.command("publish-idle")
def _publish_idle(
    *,
    seconds: Long = IDLE.seconds,
    rounds: Rounds = IDLE.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """What a publisher costs while nobody writes."""
    show(Console(), measure(PublishIdle(seconds=seconds, rounds=rounds), postgres, directory))


@run.command("apply")
def _apply(
    *,
    events: Replicated = APPLY.events,
    rounds: Rounds = APPLY.rounds,
    workload: Work = APPLY.workload,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How fast a full topic is applied, and at what cost."""
    if events % 100:
        raise typer.BadParameter("--events is a multiple of 100")
    scenario = Apply(events=events, rounds=rounds, workload=workload)
    show(Console(), measure(scenario, postgres, directory))


@run.command("end-to-end")
def _end_to_end(
    *,
    events: Queued = END_TO_END.events,
    rate: Rates = [*END_TO_END.rates],  # noqa: B006  typer copies it
    seconds: Long = END_TO_END.seconds,
    rounds: Rounds = END_TO_END.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """From a commit in one database to the row in another."""
    scenario = EndToEnd(events=events, rates=tuple(rate), seconds=seconds, rounds=rounds)
    show(Console(), measure(scenario, postgres, directory))


@run.command("scaling")
def _scaling(
    *,
    events: Queued = SCALING.events,
    rounds: Rounds = SCALING.rounds,
    processes: Processes = [*SCALING.processes],  # noqa: B006  typer copies it
    partitions: Partitions = [*SCALING.partitions],  # noqa: B006
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """What more publishers, appliers and partitions bring and cost."""
    scenario = Scaling(
        events=events, rounds=rounds, processes=tuple(processes), partitions=tuple(partitions)
    )
    show(Console(), measure(scenario, postgres, directory))


@run.command("snapshot")
def _snapshot(
    *,
    rows: Annotated[int, typer.Option(min=20, help="Of the table.")] = SNAPSHOT.rows,
    rounds: Rounds = SNAPSHOT.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How fast a table goes into another contour, beside a plain copy."""
    show(Console(), measure(SnapshotScenario(rows=rows, rounds=rounds), postgres, directory))


@run.command("handover")
def _handover(
    *,
    window: Annotated[int, typer.Option(min=20, help="Seconds of a window.")] = HANDOVER.window,
    changes: Annotated[int, typer.Option(min=1, help="How many.")] = HANDOVER.changes,
    rate: Rate = HANDOVER.rate,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How long publishing pauses when one Dagster window follows another."""
    scenario = Handover(window=window, changes=changes, rate=rate)
    show(Console(), measure(scenario, postgres, directory))


@run.command("heal")
def _heal(
    *,
    rounds: Rounds = HEAL.rounds,
    rate: Rate = HEAL.rate,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """What is killed, and how soon all is well again."""
    show(Console(), measure(Heal(rounds=rounds, rate=rate), postgres, directory))


@run.command("at-rest")
def _at_rest(
    *,
    seconds: Long = AT_REST.seconds,
    rate: Annotated[float, typer.Option(min=0, help="Rows written a second.")] = AT_REST.rate,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """What a contour costs under Dagster while nobody writes, or somebody does (--rate)."""
    show(Console(), measure(AtRest(seconds=seconds, rate=rate), postgres, directory))


@run.command("soak")
def _soak(
    *,
    minutes: Annotated[float, typer.Option(min=1, help="Of writing.")] = SOAK.minutes,
    rate: Annotated[float, typer.Option(min=20, help="Events a second.")] = SOAK.rate,
    outage: Annotated[float, typer.Option(min=0, help="Seconds without Kafka.")] = SOAK.outage,
    window: Annotated[
        int | None, typer.Option(min=20, help="Seconds of a window, instead of the default.")
    ] = SOAK.window,
    kept: Annotated[
        int | None, typer.Option(min=1, help="Minutes of history, instead of the defaults.")
    ] = SOAK.kept,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """Both contours under Dagster, written to for an hour, with an outage of Kafka."""
    scenario = Soak(minutes=minutes, rate=rate, outage=outage, window=window, kept=kept)
    show(Console(), measure(scenario, postgres, directory))


@run.command("compare")
def _compare(
    *,
    rows: Annotated[int, typer.Option(min=1000, help="Of the table.")] = COMPARE.rows,
    rounds: Rounds = COMPARE.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How fast a table is found equal in two contours."""
    show(Console(), measure(Compare(rows=rows, rounds=rounds), postgres, directory))


@run.command("peers")
def _peers(
    *,
    peer: Names = None,
    events: Queued = PEERS.events,
    rate: Rates = [*PEERS.rates],  # noqa: B006  typer copies it
    seconds: Long = PEERS.seconds,
    rounds: Rounds = PEERS.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """From one PostgreSQL to another: this project beside other products."""
    wanted = tuple(peer or ())
    unknown = set(wanted) - set(everyone.names())
    if unknown:
        raise typer.BadParameter(
            f"no {'; '.join(unknown)}: there are {'; '.join(everyone.names())}"
        )
    scenario = PeersCompared(
        peer=wanted, events=events, rates=tuple(rate), seconds=seconds, rounds=rounds
    )
    show(Console(), measure(scenario, postgres, directory))


@run.command("publish-peers")
def _publish_peers(
    *,
    events: Queued = PUBLISH_PEERS.events,
    rounds: Rounds = PUBLISH_PEERS.rounds,
    postgres: Programs = None,
    directory: Directory = None,
) -> None:
    """How fast committed events get into Kafka, by us and by Debezium."""
    show(Console(), measure(PublishPeers(events=events, rounds=rounds), postgres, directory))


@run.command("all-peers")
def _all_peers(*, postgres: Programs = None, directory: Directory = None) -> None:
    """Every scenario in which other products take part, with its usual sizes."""
    scenarios: list[Scenario] = [CAPTURE, PUBLISH_PEERS, PEERS]
    found = [measure(scenario, postgres, directory) for scenario in scenarios]
    show(Console(), [result for one in found for result in one])


@run.command("all")
def _all(*, postgres: Programs = None, directory: Directory = None) -> None:
    """Every scenario with its usual sizes, one after the other, without the soak of an hour."""
    scenarios: list[Scenario] = [
        *(CAPTURE, SPLIT, HEALTH, PUBLISH, PUBLISH_SPLIT, LATENCY, IDLE),
        *APPLIES,
        *(END_TO_END, SCALING, SNAPSHOT),
        *(HANDOVER, HEAL, AT_REST),
        COMPARE,
    ]
    found = [measure(scenario, postgres, directory) for scenario in scenarios]
    show(Console(), [result for one in found for result in one])


@app.command()
def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Result files; the newest of each scenario.")
    ] = None,
    *,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write docs/benchmarks.md, its plots and docs/sizing.md."),
    ] = False,
) -> None:
    """Medians, spread and ratios of earlier runs."""
    if write:
        from bench.report.writing import DOCS
        from bench.report.writing import write as write_pages

        for path in write_pages():
            Console().print(f"docs/{path.relative_to(DOCS)}", highlight=False)
        return
    show(Console(), results.load(files or results.newest()))


if __name__ == "__main__":
    app(prog_name="python -m bench")
