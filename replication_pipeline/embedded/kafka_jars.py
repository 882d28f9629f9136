"""Kafka's jars: which ones a broker and its tools need."""

from pathlib import Path

from replication_pipeline.embedded.maven import jars_of

KAFKA_VERSION = "4.1.2"
SLF4J_VERSION = "1.7.36"  # Kafka 4.1's API version; another binding major would not log at all


def kafka_classpath(version: str = KAFKA_VERSION) -> list[Path]:
    """The jars of the broker and its tools, downloaded if this user never needed them before."""
    return jars_of(
        f"kafka-{version}",
        [
            f"org.apache.kafka:kafka_2.13:{version}",
            f"org.apache.kafka:kafka-tools:{version}",
            f"org.slf4j:slf4j-simple:{SLF4J_VERSION}",
        ],
        # Serves Kafka Connect's tools only and would add some 40 jars of web servers.
        without=[("org.apache.kafka", "connect-runtime")],
        what=f"Kafka {version}",
    )
