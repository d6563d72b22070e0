"""A client's process: a line in, a JSON line out."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from contextlib import suppress
from queue import Empty, Queue
from typing import Any

# Long enough for the slowest import on a slow machine, and for a client's own pauses between its tries.
PATIENCE_S = 60


class ClientProcess:
    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `stop`)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env=environment,
        )
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read_lines, daemon=True)
        self._reader.start()

    def see(self, url: str, key: str, cell: str) -> dict[str, Any]:
        """What the client shows of one cell."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{url} {key} {cell}\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=PATIENCE_S)
        except (Empty, BrokenPipeError) as error:
            raise AssertionError(f"the client did not answer; it wrote:\n{self.complaints()}") from error
        assert line, f"the client ended; it wrote:\n{self.complaints()}"
        seen: dict[str, Any] = json.loads(line)
        return seen

    def complaints(self) -> str:
        self._complaints.seek(0)
        return self._complaints.read()

    def stop(self) -> None:
        # It holds nothing that is worth an orderly end.
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._reader.join()
        self._complaints.close()

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put("")
