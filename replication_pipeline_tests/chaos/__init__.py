"""The whole system under faults: three contours with a real PostgreSQL each, one real Kafka, publishers
and appliers as processes of the command line; writers, nemeses, and checkers of what must hold.

``python -m replication_pipeline_tests.chaos --seconds 60 --seed 1 --rate 200`` runs it; ``make chaos``
does, and writes a report under ``docs/reliability/``. The seed decides what is written and which faults
come when; what they meet is up to the machine, so a run does not repeat exactly.

``stack`` servers, contours, workers · ``tables`` and ``workload`` what is written · ``faults`` and
``nemeses`` · ``evidence`` what is read at the end · ``checkers`` what must hold (C1 to C11) · ``run``
the order of things · ``report``.
"""
