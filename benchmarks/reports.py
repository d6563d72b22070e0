"""What a measurement was made on, and where its figures are kept."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import load

PACKAGES = ("django", "uvicorn", "uvloop", "httptools", "aiohttp", "psycopg", "orjson")


def machine() -> dict[str, Any]:
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "generator": load.generator(),
    }


def describe(report: dict[str, Any]) -> str:
    made, options = report["machine"], report["parameters"]
    return (
        f"{made['cores']} cores ({made['cpu']}), load {made['load_before']:.1f} before; Python {made['python']}, "
        f"{', '.join(f'{name} {number}' for name, number in made['packages'].items())}.\n"
        f"Load by {made['generator']}, {load.BODY_BYTES}-byte chat requests, keep-alive, closed loop, "
        f"{options['seconds']:g} s each; upstream: {options['upstream']}. "
        "Load, upstream and database share the cores.\n"
    )


def save(report: dict[str, Any]) -> Path:
    folder = Path(os.environ.get("VAR_DIR", "var"), "benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps(report, indent=2))
    return path


def say(text: str) -> None:
    """How far it is, on one line of a terminal; nothing at the end of it."""
    sys.stderr.write(f"\r\x1b[K{text}" if sys.stderr.isatty() else f"{text}\n" if text else "")
    sys.stderr.flush()
