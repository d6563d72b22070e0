"""The processes of one machine: started, watched, restarted and ended together."""

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from config import supervisor
from config.supervisor import Child, PortTaken, StartFailed, Supervisor

SLEEP = "import time; time.sleep(60)"
STUBBORN = (
    "import signal, subprocess, sys, time\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid, flush=True)\n"
    "time.sleep(60)"
)


def child(code: str, name: str = "web") -> Child:
    return Child(name=name, command=[sys.executable, "-c", code], environment=os.environ)


def wait_for(condition: Callable[[], object], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


class Running:
    """A supervisor on a thread, as `serve` runs it on the main one."""

    def __init__(self, *children: Child) -> None:
        self.lines: list[str] = []
        self.ready = threading.Event()
        self.supervisor = Supervisor(children, say=self.lines.append)
        self.thread = threading.Thread(
            target=self.supervisor.run, kwargs={"ready": lambda: True, "on_ready": self.ready.set}
        )
        self.thread.start()
        assert self.ready.wait(5)

    def stop(self) -> None:
        self.supervisor.stop()
        self.thread.join(15)
        assert not self.thread.is_alive()


def test_stop_ends_every_child() -> None:
    children = [child(SLEEP), child(SLEEP, "worker")]
    running = Running(*children)
    pids = [found.process.pid for found in children if found.process]

    running.stop()

    assert len(pids) == 2
    assert not any(map(is_running, pids))


def test_a_child_that_ends_is_started_again_after_a_pause() -> None:
    running = Running(child("print('hello'); raise SystemExit(3)"))

    wait_for(lambda: running.lines.count("web     | hello") >= 2)
    running.stop()

    assert "The web process ended (status 3); it starts again in 1 s." in running.lines


def test_what_a_dead_child_leaves_behind_is_killed_before_its_restart() -> None:
    dying = STUBBORN.rsplit("\n", 1)[0] + "\nsys.exit(1)"
    running = Running(child(dying))
    wait_for(lambda: running.lines)
    grandchild = int(running.lines[0].removeprefix("web     | "))

    wait_for(lambda: not is_running(grandchild))
    running.stop()


def test_pauses_double_up_to_a_bound_and_begin_anew_after_a_good_run() -> None:
    found = child(SLEEP)
    found.started_at = time.monotonic()

    assert [found.plan_restart() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]

    found.started_at = time.monotonic() - supervisor.SETTLED_AFTER_S - 1
    assert found.plan_restart() == 1


def test_a_child_that_ends_before_all_is_ready_ends_the_start() -> None:
    lines: list[str] = []
    other = child(SLEEP, "worker")
    starting = Supervisor([other, child("raise SystemExit('no such table')")], say=lines.append)

    with pytest.raises(StartFailed, match="The web process ended while starting"):
        starting.run(ready=lambda: False, on_ready=lambda: None)

    assert "web     | no such table" in lines
    assert other.ended()


def test_nothing_answering_in_time_ends_the_start() -> None:
    with pytest.raises(StartFailed, match="Nothing answered within 0 seconds"):
        Supervisor([child(SLEEP)], say=print).run(ready=lambda: False, on_ready=lambda: None, timeout_s=0)


def test_a_child_that_will_not_end_is_killed_with_its_own_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.2)
    running = Running(child(STUBBORN))
    wait_for(lambda: running.lines)
    grandchild = int(running.lines[0].removeprefix("web     | "))

    running.stop()

    wait_for(lambda: not is_running(grandchild))
    assert any("did not end within" in line for line in running.lines)


def test_ctrl_c_reaches_the_supervisor_alone() -> None:
    found = child(SLEEP)
    running = Running(found)

    assert found.process is not None
    assert os.getpgid(found.process.pid) != os.getpgid(0)
    running.stop()
    assert found.process.returncode == -signal.SIGTERM


def test_a_taken_port_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} on 127.0.0.1 is taken"):
            supervisor.claim("127.0.0.1", port)

    supervisor.claim("127.0.0.1", port)


def test_an_answer_is_an_answer_unless_it_is_a_failure() -> None:
    codes = iter([b"404 Not Found", b"401 Unauthorized", b"503 Service Unavailable"])

    def serve(listener: socket.socket) -> None:
        for code in codes:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 " + code + b"\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert [supervisor.answers(url) for _ in range(3)] == [True, True, False]
        thread.join()
    assert supervisor.answers(url) is False
