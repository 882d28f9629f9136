"""Verdicts that take a while and have runs: how the contour is set up, whether tables converge.

``deep_checks_schedule`` and ``compare_schedule`` start them; an operator may *Execute* each by hand.
``convergence`` exists where ``compare.contours`` says how to reach the others.

No postponed annotations here: Dagster compares the type of a step's ``context`` as an object.
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

from replication_pipeline import logs
from replication_pipeline.defs.checks import Finding, Metadata, asset_of, results
from replication_pipeline.defs.lanes import CONTOUR_TAG, MAX_RUNTIME_TAG
from replication_pipeline.defs.maintenance import schedule
from replication_pipeline.defs.resources import PostgresResource
from replication_pipeline.domain.alerts import RANK, Level
from replication_pipeline.domain.errors import RefusedError, ReplicationError
from replication_pipeline.settings import Settings

if TYPE_CHECKING:
    from replication_pipeline.domain.comparison import Comparison

LONGEST_RUN: Final = timedelta(hours=12)
MOST_COUNTED: Final = 10_000  # rows that differ
SETUP: Final = (
    "What `replication-pipeline doctor` finds in the contour's database, beside the contours that "
    "`compare.contours` names, and in Kafka. When it fails: each finding in the table comes with the "
    "command that mends it."
)
CONVERGENCE: Final = (
    "Whether this table has the same rows and versions in all contours that `compare.contours` names. "
    "What is under way is waited for and looked at again, so a row that is counted has really "
    "diverged. When it fails: look for parked events of this table first, they are rows that have not "
    "come in. If there are none, rows were changed past the triggers (triggers disabled, a restore, "
    "`session_replication_role`): the job `compare` shows which, and `repair` sends the right ones."
)


def setup_check(settings: Settings) -> dg.AssetChecksDefinition:
    """``doctor`` as a check of the queue."""
    queue = asset_of(settings.contour.name, None)

    @dg.multi_asset_check(
        name="setup_check",
        specs=[dg.AssetCheckSpec("setup", asset=queue, description=SETUP)],
        can_subset=True,
    )
    def check_setup(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        yield from results(context, settings.contour.name, [setup(postgres)])

    return check_setup


def setup(postgres: PostgresResource) -> Finding:
    """``doctor``'s findings as one."""
    from replication_pipeline.doctor import examine

    try:
        findings = examine(postgres.settings())
    except ReplicationError as error:
        return Finding("setup", "unknown", f"Not known: {error.message}", {})
    mend = [finding for finding in findings if finding.severity == "mend"]
    rows = [
        dg.TableRecord(
            {"about": f.check, "severity": f.severity, "finding": f.message, "remedy": f.remedy}
        )
        for f in sorted(findings, key=lambda f: f.severity == "good")
    ]
    columns = [dg.TableColumn(name) for name in ("about", "severity", "finding", "remedy")]
    return Finding(
        "setup",
        "warning" if mend else "ok",
        f"{len(mend)} things to mend: {mend[0].message}." if mend else "Nothing is to be mended.",
        {"findings": dg.MetadataValue.table(rows, schema=dg.TableSchema(columns=columns))},
    )


def convergence_check(settings: Settings) -> dg.AssetChecksDefinition:
    """One check for each applied table, in one step, so that connections are shared."""
    contour = settings.contour.name

    @dg.multi_asset_check(
        name="convergence_check",
        specs=[
            dg.AssetCheckSpec(
                "convergence", asset=asset_of(contour, table), description=CONVERGENCE
            )
            for table in settings.tables
        ],
        can_subset=True,
    )
    def check_convergence(
        context: dg.AssetCheckExecutionContext, postgres: PostgresResource
    ) -> Iterator[dg.AssetCheckResult]:
        now = postgres.settings()
        logs.configure(now.logging, contour=contour)
        chosen = {key.asset_key for key in context.selected_asset_check_keys}
        tables = [t for t in settings.tables if asset_of(contour, t) in chosen]
        yield from results(context, contour, converged(now, tables))

    return check_convergence


def converged(settings: Settings, tables: Sequence[str]) -> list[Finding]:
    """The verdict on each table. When one can't be compared, the others are all the same."""
    from replication_pipeline.postgres.compare_contours import open_contours
    from replication_pipeline.postgres.comparison import Options, compare_table

    found: list[Finding] = []
    try:
        with open_contours(settings) as connections:
            for table in tables:
                try:
                    comparison = compare_table(
                        connections, table, settings, Options(most=MOST_COUNTED)
                    )
                except RefusedError as error:
                    found.append(_not_known(error, table))
                else:
                    found.append(judged(comparison, table, settings))
    except ReplicationError as error:
        found += [_not_known(error, table) for table in tables[len(found) :]]
    return found


def judged(comparison: "Comparison", table: str, settings: Settings) -> Finding:
    """A comparison as a finding."""
    others = ", ".join(sorted(settings.compare.contours))
    rows, differing = comparison.most_rows, len(comparison.differences)
    metadata: Metadata = {"rows": rows, "compared_with": others}
    if not comparison.settled:
        patience = settings.compare.patience.total_seconds()
        text = (
            f"Not known: rows differ, but after {patience:.0f} s what was under way has not arrived "
            "everywhere. See heartbeat, apply_lag and parked_events."
        )
        return Finding("convergence", "unknown", text, metadata, table)
    metadata["differing_rows"] = differing
    if comparison.equal:
        text = f"All {rows} rows are equal in {settings.contour.name}, {others}."
        return Finding("convergence", "ok", text, metadata, table)
    least = "" if comparison.complete else "at least "
    text = f"{least}{differing} of {rows} rows differ."
    return Finding("convergence", "error", text, metadata, table)


def _not_known(error: ReplicationError, table: str) -> Finding:
    return Finding("convergence", "unknown", f"Not known: {error.message}", {}, table)


def last_verdicts(instance: dg.DagsterInstance, settings: Settings) -> dict[str, tuple[Level, str]]:
    """What the last finished runs of the deep checks said, by check; those that had none are absent.

    A table that could not be compared is a warning: nobody else would tell for a day.
    """
    from dagster._core.storage.asset_check_execution_record import (
        COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES as FINISHED,
    )

    contour = settings.contour.name
    tables = settings.tables if settings.compare.contours else ()
    about: list[tuple[str, str | None]] = [("setup", None), *(("convergence", t) for t in tables)]
    said: dict[str, list[tuple[Level, str]]] = {}
    for check, table in about:
        records = instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(asset_of(contour, table), check), limit=1, status=FINISHED
        )
        for evaluation in [record.evaluation for record in records if record.evaluation]:
            level: Level = "ok"
            if not evaluation.passed:
                error = evaluation.severity is dg.AssetCheckSeverity.ERROR
                level = "critical" if error else "warning"
            text = f"{table}: {evaluation.description}" if table else str(evaluation.description)
            said.setdefault(check, []).append((level, text))
    return {
        check: (
            max((level for level, _ in each), key=lambda level: RANK[level]),
            " ".join(text for level, text in each if level != "ok") or each[0][1],
        )
        for check, each in said.items()
    }


def deep_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """The definitions of all checks that have runs."""
    compared = settings.compare.contours and settings.tables
    return [setup_check(settings), *([convergence_check(settings)] if compared else [])]


def deep_schedules(settings: Settings) -> list[dg.ScheduleDefinition]:
    """When they run, with their jobs."""
    contour = settings.contour.name
    tags = {
        CONTOUR_TAG: contour,
        MAX_RUNTIME_TAG: f"{LONGEST_RUN.total_seconds():.0f}",
        "dagster/max_retries": "0",
    }

    def job(name: str, keys: Sequence[dg.AssetCheckKey], description: str) -> Any:
        return dg.define_asset_job(
            name,
            selection=dg.AssetSelection.checks(*keys),
            description=description,
            executor_def=dg.in_process_executor,
            tags=tags,
        )

    deep = job(
        "deep_checks",
        [dg.AssetCheckKey(asset_of(contour, None), "setup")],
        "Looks for what is wrong in how the contour is set up.",
    )
    schedules = [
        schedule(
            "deep_checks_schedule",
            deep,
            settings.monitoring.deep_checks_cron,
            key="monitoring.deep_checks_cron",
        )
    ]
    if settings.compare.contours and settings.tables:
        compare = job(
            "check_convergence",
            [dg.AssetCheckKey(asset_of(contour, t), "convergence") for t in settings.tables],
            "Compares all tables with the contours that compare.contours names.",
        )
        schedules.append(
            schedule("compare_schedule", compare, settings.compare.cron, key="compare.cron")
        )
    return schedules
