"""Cycles and windows, written against protocols; knows no server, no Dagster, no command line."""
