"""Runs the product's processes together on one machine: starts, watches, restarts and ends them."""

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Say = Callable[[str], None]

# A child that lives this long has started well: its next failure is restarted at once.
SETTLED_AFTER_S = 30.0
LONGEST_PAUSE_S = 30.0
# Open streams get this long to finish; then the child is killed.
GRACE_S = 8.0


class StartFailed(Exception):
    """A child ended before the product was ready."""


class PortTaken(Exception):
    """The port is in use, may not be used, or is none."""


def claim(host: str, port: int) -> None:
    """Raises PortTaken with a sentence for people if the port cannot be listened on now."""
    if not 0 <= port <= 65535:
        raise PortTaken(f"{port} is no port; ports go from 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise PortTaken(f"{host} is no address of this machine.") from error
    except PermissionError as error:
        raise PortTaken(f"Port {port} needs more rights; choose one above 1023.") from error
    except OSError as error:
        raise PortTaken(f"Port {port} on {host} is taken ({error.strerror}); choose another one.") from error


def free_port(host: str) -> int:
    with socket.create_server((host, 0)) as probe:
        return int(probe.getsockname()[1])


# HTTP_PROXY and the like are for the world: this machine is asked as it is.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Whether the address speaks HTTP without failing; a refusal (401, 404) is an answer too."""
    try:
        with _direct.open(url, timeout=2):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except OSError:
        return False


@dataclass
class Child:
    """One process: its command, and when it may be started again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    failures: int = 0
    reader: threading.Thread | None = field(default=None, repr=False)

    def start(self, say: Say) -> None:
        # A session of its own: Ctrl-C reaches the supervisor alone, which then ends the children in order.
        self.process = subprocess.Popen(
            self.command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.started_at = time.monotonic()
        self.reader = threading.Thread(target=self._relay, args=(self.process, say), daemon=True)
        self.reader.start()

    def _relay(self, process: subprocess.Popen[str], say: Say) -> None:
        assert process.stdout is not None  # noqa: S101 - opened with PIPE
        with process.stdout as lines:
            for line in lines:
                if line.startswith("{"):
                    # JSON (LOG_FORMAT), which says itself where it is from.
                    say(line.rstrip())
                elif line.strip():
                    say(f"{self.name:<8}| {line.rstrip()}")

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def plan_restart(self) -> float:
        """Seconds until the next start: doubles with each failure in a row."""
        lived_s = time.monotonic() - self.started_at
        self.failures = 1 if lived_s > SETTLED_AFTER_S else self.failures + 1
        pause_s = min(2.0 ** (self.failures - 1), LONGEST_PAUSE_S)
        self.process, self.restart_at = None, time.monotonic() + pause_s
        return pause_s

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Ends the whole session, so that a child's own children cannot stay behind."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.reader is not None:
            self.reader.join(timeout=1)


class Supervisor:
    """Keeps children running until `stop` is called, from a signal handler or another thread."""

    def __init__(self, children: Sequence[Child], *, say: Say) -> None:
        self.children = children
        self.say = say
        # No Event: its lock could be held by the very thread that a signal handler interrupts.
        self._stopping = False

    def stop(self) -> None:
        self._stopping = True

    def run(self, *, ready: Callable[[], bool], on_ready: Callable[[], None], timeout_s: float = 60) -> None:
        """Returns after `stop`. Raises StartFailed. Either way every child has ended."""
        try:
            for child in self.children:
                child.start(self.say)
            if self._wait_until(ready, timeout_s):
                on_ready()
            while not self._stopping:
                for child in self.children:
                    self._keep(child)
                time.sleep(0.1)
        finally:
            self.end()

    def _wait_until(self, ready: Callable[[], bool], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while not self._stopping:
            for child in self.children:
                if child.ended():
                    raise StartFailed(f"The {child.name} process ended while starting; its last lines are above.")
            if ready():
                return True
            if time.monotonic() > deadline:
                raise StartFailed(f"Nothing answered within {timeout_s:.0f} seconds.")
            time.sleep(0.1)
        return False

    def _keep(self, child: Child) -> None:
        if child.process is not None and child.ended():
            code = child.process.returncode
            # What it started may outlive it, and hold the port.
            child.kill()
            pause_s = child.plan_restart()
            self.say(f"The {child.name} process ended (status {code}); it starts again in {pause_s:.0f} s.")
        elif child.process is None and time.monotonic() >= child.restart_at:
            child.start(self.say)

    def end(self) -> None:
        """Asks every child to end, waits, then kills what is left."""
        for child in self.children:
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        for child in self.children:
            if child.process is not None:
                try:
                    child.process.wait(timeout=max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    self.say(f"The {child.name} process did not end within {GRACE_S:.0f} s; killing it.")
            child.kill()
