"""Metrics for Prometheus: a collector over the contour's database, and the server that shows it."""
