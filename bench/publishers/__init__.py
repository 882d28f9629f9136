"""Contestants that bring a queue to Kafka; each runs in a process of its own."""
