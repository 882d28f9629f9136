"""The demonstration: two contours, Kafka and Dagster on one machine, from nothing but Python.

    place             the state directory: layout, ports, one owner at a time
    leftovers         which processes belong to a state directory
    watchdog          ends those processes when the demo itself is killed
    ghosts            ends, in Dagster's books, runs that were killed with an earlier demo
    contours          databases, roles, tables and configuration of the contours
    dagster_services  code servers, daemon and webserver
    stack             what runs, in which order it starts and stops
    parallel          several things at once, and giving up in time
    workload, actors  applications that write in both contours, sometimes the same row
    live              the status line
    verify, summary   waits until everything has arrived, compares the contours, sums up
    narrator          the other lines that a user reads
    signals           being asked to stop
    run               the command: start, watch, stop, sum up

Everything may be imported from here; only the command line imports this, when ``demo`` is run.
"""
