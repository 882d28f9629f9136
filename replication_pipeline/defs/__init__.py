"""The Dagster definitions of one contour; with ``definitions`` the only place that imports dagster.

Dagster decides when windows run and how many, shows what happened, and is where an operator acts.
It owns no work: which worker has which rows is decided by locks in PostgreSQL alone, so a run that
Dagster believes alive, dead or twice there can't lose or reorder an event.

    resources    the adapters, opened from the contour's configuration
    lanes        the two kinds of window (publish, apply) as figures and run tags
    windows      ops and jobs that run one window
    report       what a window tells Dagster: materializations, observations, log
    chart        the picture in it
    window_runs  the runs of a lane, and which of them can be relied on
    scaling      pure decision: how many windows to request now
    processes    whether a run's process is still there
    sensors      keep the wanted number of windows alive
    checks       what asset checks are made of; verdicts on the backlog
    watched      the other cheap verdicts
    deep         verdicts that have runs: how the contour is set up, convergence
    freshness    how old a window's last report may be
    signals      from verdicts to alerts, and the memory between ticks
    alerts       sensors that tell people: of trouble and its end, of failed runs
    assets       external assets and their lineage
    hours        the queue's partitions
    backfill     the queue as an asset: sends what is stalled in some hours
    parked       parked events as an asset and a job: retried or discarded
    sending      publishing within a run that an operator started
    forms        jobs that an operator starts: replay, republish, doctor
    running      what all runs of operators have in common
    console      keeps hours, reasons and numbers on the assets' pages true
    figures      the numbers of assets
    maintenance  cleanup of the contour and of Dagster's own history
    purge        deletion from Dagster's storage: runs, check results
    purge_events the same: what console stores without a run
"""
