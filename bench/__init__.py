"""Benchmarks: how fast, how cheap, and compared with what.

A scenario measures *contestants* side by side: in one process, on one server, each round all of them
in another order, so that whatever else the machine does falls on all alike. Every single measurement
is a JSON line (``results``); medians, differences and ratios are made from those lines (``report``),
and only from lines of one run. Nothing here passes or fails: times are reported, never gates.
"""
