"""A child process that is always cleaned up: stopped on request, and dead when its parent is.

Invariants: the child leads its own session, so a Ctrl-C at the terminal reaches only the parent,
which then decides the order of stopping; it starts with default signal handling whatever the
parent ignores; its output is in a log file, never in a pipe that could fill up; on Linux the
kernel signals it when the parent ends in any way, `kill -9` included.

On other systems a killed parent leaves its children running; the servers then find and stop such
leftovers when they are started on the same directory again. Windows is not supported.
"""

import contextlib
import os
import random
import signal as signals
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_exponential

from replication_pipeline.embedded import _exec
from replication_pipeline.embedded.spawner import run_in_spawner

FIRST_PORT = 10_000
LINUX_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
USUAL_FIRST_EPHEMERAL_PORT = 32_768


class EmbeddedServerError(RuntimeError):
    """An embedded server could not do what was asked; the message says what to do."""


class ManagedProcess:
    """One run of one program, started on construction."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log_file: Path,
        cwd: Path,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        parent_death_signal: signals.Signals = signals.SIGKILL,
    ) -> None:
        self.log_file = log_file
        self._name = Path(command[0]).name
        wrapper = [sys.executable, "-I", "-S", _exec.__file__]
        wrapper += [str(os.getpid()), str(int(parent_death_signal)), user or ""]
        with log_file.open("ab") as log:
            self._log_start = log.tell()
            self._popen = run_in_spawner(
                lambda: subprocess.Popen(
                    [*wrapper, *map(str, command)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=env,
                    pass_fds=pass_fds,
                    start_new_session=True,
                )
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        return self._popen.poll()

    def wait(self, *, timeout: float) -> int:
        """Wait for a program that ends by itself, such as initdb."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise EmbeddedServerError(
                f"{self._name} did not end within {timeout:g} s and was killed.\n"
                + self.tail_of_log()
            ) from None

    def stop(self, signal: signals.Signals = signals.SIGTERM, timeout: float = 10) -> None:
        """Ask, wait, then kill whatever of the group is left. Harmless when already stopped."""
        if self.alive:
            self._popen.send_signal(signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(timeout)
        if self.alive:
            self.kill()

    def kill(self) -> None:
        """SIGKILL to the whole group, as a power cut would look to the server."""
        # While the leader is not yet reaped its number cannot belong to a stranger's group.
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signals.SIGKILL)
            self._popen.wait()

    def tail_of_log(self, lines: int = 20) -> str:
        """The last lines that this run wrote; earlier runs of the same log are left out."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            written = log.read().decode(errors="replace").splitlines()
        return "\n".join([f"Last lines of {self.log_file}:", *written[-lines:]])


def wait_until(
    condition: Callable[[], bool],
    *,
    timeout: float,
    what: str,
    process: ManagedProcess | None = None,
) -> None:
    """Return once `condition` holds; fail when time is up or as soon as `process` has died."""

    def holds() -> bool:
        if process is not None and not process.alive:
            raise EmbeddedServerError(
                f"The process ended (exit status {process.returncode}) while waiting for {what}.\n"
                + process.tail_of_log()
            )
        return condition()

    try:
        Retrying(
            retry=retry_if_result(lambda held: not held),
            stop=stop_after_delay(timeout),
            wait=wait_exponential(multiplier=0.005, max=0.1),
        )(holds)
    except RetryError:
        tail = "" if process is None else "\n" + process.tail_of_log()
        raise EmbeddedServerError(f"Waited {timeout:g} s in vain for {what}.{tail}") from None


def free_port() -> int:
    """A loopback port that nobody listens on and that no outgoing connection will be given.

    A port from the kernel's own range (what binding to port 0 gives) can be lost while a server
    is down: a client that keeps reconnecting may get it as its *source* port, connect to itself
    and hold it against the returning server.
    """
    end = USUAL_FIRST_EPHEMERAL_PORT
    with contextlib.suppress(OSError, ValueError):
        end = int(LINUX_EPHEMERAL_PORTS.read_text().split()[0])
    for port in random.sample(range(FIRST_PORT, max(end, FIRST_PORT + 1_000)), k=100):
        if port_is_free(port):
            return port
    raise EmbeddedServerError("Found no free port on 127.0.0.1; stop some servers and try again.")


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of a former server that linger in TIME_WAIT do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
