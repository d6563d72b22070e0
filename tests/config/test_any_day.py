"""The script that runs tests as of other days, on a test of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CLEAR_OF_THE_HOUR_S, rest_of_hour_s
from tests.environment import ROOT

SCRIPT = ROOT / "tests" / "any_day"
# Passes at the end of 2027 alone, while time runs on there, in a process of its own as well.
OF_2027 = """
import datetime, subprocess, sys, time
def test_it_is_that_day():
    began = datetime.datetime.now(datetime.UTC)
    assert (began.year, began.month, began.day) == (2027, 12, 31)
    time.sleep(0.1)
    code = "import datetime; print(datetime.datetime.now(datetime.UTC).timestamp())"
    there = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert 0.1 <= there - began.timestamp() < 20
"""


def any_day(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    # From the true time, also where this test runs as of another day; and without our plugins, which its suite does
    # not need and which take longer to load than it.
    environment = {name: value for name, value in os.environ.items() if name != "TESTS_CLOCK_OFFSET_S"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    return subprocess.run([sys.executable, SCRIPT, *arguments], env=environment, capture_output=True, text=True)


@pytest.fixture
def test_of_2027(tmp_path: Path) -> Path:
    """A suite of one test, away from ours and its databases."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    path = tmp_path / "test_of_2027.py"
    path.write_text(OF_2027)
    return path


def test_it_says_a_line_for_each_clock_and_fails_with_any(test_of_2027: Path) -> None:
    arguments = "-c", test_of_2027.parent / "pytest.ini", test_of_2027
    done = any_day("--clock", "2027-12-31T23:59:30 UTC", *arguments)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1), done.stdout + done.stderr
    assert done.stdout.startswith("ok     2027-12-31T23:59:30 UTC")
    # In Los Angeles it is the next year in UTC by then.
    done = any_day("--clock", "2027-12-31", *arguments)
    lines = [line.split()[:3] for line in done.stdout.splitlines() if line.startswith(("ok ", "FAILED 20"))]
    assert [(result, zone) for result, _, zone in lines] == [
        ("ok", "UTC"),
        ("ok", "Pacific/Auckland"),
        ("FAILED", "America/Los_Angeles"),
    ]
    assert (done.returncode, "assert (2028, 1, 1) == (2027, 12, 31)" in done.stdout) == (1, True)


def test_a_clock_that_is_not_there_is_refused() -> None:
    done = any_day("--clock", "2031")
    assert (done.returncode, done.stdout) == (2, "")
    assert "none of the clocks has '2031'" in done.stderr


@pytest.mark.parametrize(
    ("second", "waits_s"), [(0, 0), (1800, 0), (3594, 0), (3600 - CLEAR_OF_THE_HOUR_S, 5), (3599, 1)]
)
def test_no_test_begins_where_its_hour_is_about_to_end(second: int, waits_s: int) -> None:
    assert rest_of_hour_s(1_800_000_000 + second) == waits_s
