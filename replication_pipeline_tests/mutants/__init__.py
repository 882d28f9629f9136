"""Bugs put into the product one at a time, to show that its tests see them.

Each mutant is a replacement of text that must stand in its file exactly once (or as often as it says),
and the tests that should fail then. ``python -m replication_pipeline_tests.mutants`` tries them all in
copies of the source; the tests beside this file try the quickest in the session's servers. Mistakes in
the rules themselves are the simulator's matter (``simulation/mutants.py``).
"""
