"""Bugs put into the product one at a time, to show that its tests see them.

Each mutant is a replacement of text that must stand in its file exactly once (or as often as it says),
and the tests that should fail then (``catalogue.py``). ``python -m replication_pipeline_tests.mutants``
tries them all in copies of the source (``trial.py``) and writes ``docs/reliability/mutants.md``; the
tests beside this file try the quickest in the session's servers. Mistakes in the rules themselves are
the simulator's matter (``simulation/mutants.py``). ``suspects.py`` has the bugs that replication is
known to suffer from, and which mutants stand for each.
"""
