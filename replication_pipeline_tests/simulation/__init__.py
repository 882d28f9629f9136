"""Thousands of small worlds, each made from a seed, in which contours must end equal.

Real: the rules (``replication_pipeline.domain.convergence``), which ``integration/test_decisions.py``
ties to the SQL that contours run.

Modelled: everything around them. Clocks are numbers; a table is a dictionary; a batch is applied in
one step, or has to wait for a local transaction that holds one of its keys; the log has partitions
with offsets that move with the rows; a crash undoes what was not committed; a backup is a copy. Of
foreign keys only waiting is modelled: what an operator does about an event that waits for good is
part of healing. What happens *within* an apply transaction, statement by statement, is not modelled:
``integration/test_convergence.py`` and ``integration/test_machine.py`` show that on PostgreSQL.

``python -m replication_pipeline_tests.simulation`` runs many seeds; ``--replay SEED`` tells the story
of one.
"""
