"""Contestants that bring Kafka's events into a table; each runs in a process of its own."""
