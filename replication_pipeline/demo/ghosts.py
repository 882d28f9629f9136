"""Ends, in Dagster's books, runs whose processes are gone: ``python -m …ghosts``.

After a kill or a power cut, runs stay "started" for ever, and sensors count them as windows until their
time is over. The owner of the state directory knows better: it has just made sure that nothing of the
last demo is alive. Recorded as cancelled, not failed, for after failures the sensors wait.
"""

from __future__ import annotations

from typing import Final

GHOSTLY: Final = ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")
"""States of a run with a process; a queued one has none yet and is simply launched."""


def main() -> None:
    """Needs ``DAGSTER_HOME``; no daemon may run."""
    import dagster as dg  # not for the demo itself, which takes only the names above

    statuses = [dg.DagsterRunStatus[name] for name in GHOSTLY]
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=statuses)):
            instance.report_run_canceled(run, message="Its process ended with the last demo.")


if __name__ == "__main__":
    main()
