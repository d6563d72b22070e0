"""What production starts with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environment import ROOT

# All that production sets; DEBUG is off by itself.
PRODUCTION = {
    "ENV_FILE": os.devnull,
    "SECRET_KEY": "7h1s-15-l0ng-and-r4nd0m-enough-f0r-a-t3st-0f-pr0duct10n-s3tt1ngs",
    "ALLOWED_HOSTS": "governor.example.test",
    "APP_URL": "https://governor.example.test",
    "MISTRAL_API_KEY": "a-key-for-tests",
}


def manage(tmp_path: Path, *arguments: str, **values: str) -> subprocess.CompletedProcess[str]:
    environment = PRODUCTION | {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)} | values
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_djangos_deployment_checks_find_nothing(tmp_path: Path) -> None:
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING")

    assert done.returncode == 0, done.stderr


def test_static_files_can_be_collected(tmp_path: Path) -> None:
    done = manage(tmp_path, "collectstatic", "--noinput", "--verbosity", "0")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "static/governance/icon.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "values", "wanted"),
    [
        (["--port", "0"], {}, "migrations are not applied. Run: manage.py migrate"),
        (["--port", "70000"], {}, "70000 is no port"),
        (["--port", "0", "--host", "no.such.host.invalid"], {}, "no.such.host.invalid is no address"),
        (["--port", "0"], {"DATABASE_URL": "postgres://u:p@127.0.0.1:1/x"}, "The database does not answer"),
    ],
)
def test_serve_refuses_with_a_sentence(
    tmp_path: Path, arguments: list[str], values: dict[str, str], wanted: str
) -> None:
    done = manage(tmp_path, "serve", *arguments, **values)

    assert done.returncode == 1
    assert wanted in done.stderr
    assert "Traceback" not in done.stderr


def test_the_project_names_no_machine_of_its_makers() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    found = [
        str(path.relative_to(ROOT))
        for path in paths
        if path.is_file() and re.search(rb"(?<![\w.])/(root|home|Users)/\w", path.read_bytes())
    ]

    assert found == []
