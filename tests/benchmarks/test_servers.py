"""Processes of a benchmark: why one failed is told, whether it ends or not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks import servers

LISTENS = "import socket; listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))"
NEVER_ENDS = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('so far', flush=True)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "START_S", 1.5)
    monkeypatch.setattr(servers, "END_S", 0.5)


def command(*statements: str, port: int) -> list[str]:
    return [sys.executable, "-c", "; ".join([NEVER_ENDS, *statements, "time.sleep(60)"]), str(port)]


def test_what_neither_starts_nor_ends_is_told_with_what_it_said() -> None:
    port = servers.free_port()
    with pytest.raises(SystemExit, match="did not start:\nso far"), servers.process(command(port=port), port=port):
        pass


def test_what_fails_meanwhile_is_told_though_the_process_does_not_end() -> None:
    port = servers.free_port()
    with pytest.raises(KeyError), servers.process(command(LISTENS, port=port), port=port):
        raise KeyError


def test_what_does_not_end_is_killed() -> None:
    port = servers.free_port()
    with pytest.raises(subprocess.TimeoutExpired), servers.process(command(LISTENS, port=port), port=port) as pid:
        pass
    assert not servers.listens(port)
    assert servers.family(pid) == [pid]


def test_what_it_leaves_behind_is_killed() -> None:
    port = servers.free_port()
    child = "import subprocess; subprocess.Popen(['sleep', '60'])"
    program = [sys.executable, "-c", "; ".join(["import sys, time", child, LISTENS, "time.sleep(60)"]), str(port)]
    with servers.process(program, port=port) as pid:
        left = [member for member in servers.family(pid) if member != pid]
    assert left
    # Killed, and perhaps nobody's to wait for: then there is a row of it, and no more.
    assert all(_state(member) in ("", "Z") for member in left)


def _state(pid: int) -> str:
    shown = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True)
    return shown.stdout.strip()
