"""Keeps PostgreSQL databases at several sites ("contours") equal through Kafka.

Layers, inner to outer; each may import only what stands before it (checked by import-linter):

    domain            values, versions, errors, pure decisions (standard library only)
    settings, logs    one contour's configuration; structured logging
    engine            cycles and windows, written against the protocols of ``engine.ports``
    postgres, kafka   the two adapters that fulfil those protocols
    runtime           composition root: settings -> a running window
    cli, defs         the command line and the Dagster definitions
    embedded, demo    real servers without Docker, and the demonstration stack
"""

__version__ = "0.1.0"
