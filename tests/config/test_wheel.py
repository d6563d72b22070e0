"""The package that `make wheel` builds: what is in it, and that it runs away from its repository."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
from django.conf import settings
from drf_spectacular.settings import spectacular_settings

import config
from config import installation
from config.supervisor import answers, free_port
from tests.environment import ROOT

PACKAGES = ("billing", "config", "governance", "llm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=ROOT)
    (built,) = folder.iterdir()
    return built


@dataclass(frozen=True)
class Environment:
    """A virtual environment with the locked dependencies and the wheel."""

    folder: Path

    @property
    def command(self) -> str:
        return str(self.folder / "bin" / "spend-governor")

    def files(self) -> set[str]:
        """All that is in it, but for what the interpreter compiles."""
        return {
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }


@pytest.fixture(scope="module")
def installed(wheel: Path, shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The wheel alone, in an environment that finds the locked dependencies where they are installed already."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    run(str(shipped / "python"), "-m", "venv", "--without-pip", str(folder))
    (site_packages(folder) / "shipped.pth").write_text(f"{site_packages(shipped.parent)}\n")
    python = str(folder / "bin" / "python")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-compile",
        "--no-deps",
        "--no-index",
        str(wheel),
    )
    return Environment(folder)


def site_packages(folder: Path) -> Path:
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bare(folder: Path, **values: str) -> dict[str, str]:
    """The environment of a machine that knows nothing of a repository."""
    return {"PATH": os.defpath, "HOME": str(folder)} | values


@contextmanager
def served(installed: Environment, folder: Path, *options: str, **values: str) -> Iterator[str]:
    """The address of `spend-governor serve` in that folder; it ends on SIGTERM, and everything it started too."""
    port, log = free_port("127.0.0.1"), folder.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(
            [installed.command, "serve", "--port", str(port), *options],
            cwd=folder,
            env=bare(folder, SANDBOX_URL=f"http://127.0.0.1:{free_port('127.0.0.1')}", **values),
            stdout=output,
            stderr=output,
        )
    family: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 300
        while "is ready on" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        family = psutil.Process(process.pid).children(recursive=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        ended = process.wait(timeout=20)
    assert ended == 0, log.read_text()
    assert log.read_text().rstrip().endswith("Ended.")
    assert [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


def packed_by_the_repository() -> set[str]:
    """The path in the wheel of every file of the product."""
    own = {path for package in PACKAGES for path in (ROOT / package).rglob("*")}
    names = {str(path.relative_to(ROOT)) for path in own if path.is_file() and "__pycache__" not in path.parts}
    templates = {path for path in (ROOT / "templates").rglob("*") if path.is_file()}
    return names | {f"config/{path.relative_to(ROOT)}" for path in templates}


def test_the_wheel_has_the_whole_product_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    own = {name for name in names if ".dist-info/" not in name}
    assert own == packed_by_the_repository()
    assert {
        "config/templates/admin/index.html",
        "config/templates/plain_page.html",
        "governance/static/console/console.css",
        "governance/migrations/0001_initial.py",
        "llm/data/routing.yaml",
    } <= own
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_version_is_said_once_and_everywhere_the_same(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        (name,) = (name for name in packed.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(packed.read(name).decode())

    said = {metadata["Version"], config.__version__, settings.VERSION, spectacular_settings.VERSION}
    assert said == {metadata["Version"]}
    assert wheel.name.startswith(f"spend_governor-{metadata['Version']}-")


def test_a_checkout_keeps_its_files_beside_manage_py() -> None:
    assert not installation.INSTALLED
    assert installation.HOME == ROOT
    assert (installation.TEMPLATES / "admin" / "index.html").is_file()


def test_the_wheel_serves_the_demo_from_an_empty_folder(installed: Environment, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / ".env").write_text("DEBUG=true\n")
    lay_traps(here)
    before = installed.files()

    with served(installed, here, "--demo") as url:
        assert f"curl -s {url}/v1/" in here.with_suffix(".log").read_text()
        assert answers(f"{url}/v1/models")
        assert httpx.get(f"{url}/api/health/ready").status_code == 200
        assert httpx.get(f"{url}/api/health").json()["version"] == config.__version__
        assert f"version: {config.__version__}\n" in httpx.get(f"{url}/api/schema").text
        assert_styled(f"{url}/admin/login/")

    assert "was imported" not in here.with_suffix(".log").read_text()
    assert (here / "var" / "governor.sqlite3").is_file()
    assert installed.files() == before


def test_the_wheel_serves_in_production(installed: Environment, migrated_database: Path, tmp_path: Path) -> None:
    here, var_dir, env_file = tmp_path / "here", tmp_path / "var", tmp_path / "settings"
    here.mkdir()
    secret = "7h1s-15-a-l0ng-k3y-f0r-t35t5-wh1ch-n0b0dy-e1se-u5ed-y3t"
    env_file.write_text(f"SECRET_KEY={secret}\nMISTRAL_API_KEY=a-key-for-tests\nVAR_DIR={var_dir}\n")
    before = installed.files()
    # That the wheel's migrations make it is tried by the demo's.
    var_dir.mkdir(mode=0o700)
    shutil.copyfile(migrated_database, var_dir / "governor.sqlite3")
    run(installed.command, "migrate", "--verbosity", "0", cwd=here, env=bare(here, ENV_FILE=str(env_file)))

    with served(installed, here, ENV_FILE=str(env_file)) as url:
        assert httpx.get(f"{url}/api/health/ready").status_code == 200
        assert_styled(f"{url}/admin/login/")

    assert (var_dir / "static" / "console" / "console.css").is_file()
    assert list(here.iterdir()) == []
    assert installed.files() == before


def lay_traps(folder: Path) -> None:
    """Modules of somebody else's, of the names of ours: whoever imports one of them ends."""
    for package in PACKAGES:
        (folder / f"{package}.py").write_text("raise SystemExit(f'{__file__} was imported')\n")


def assert_styled(page: str) -> None:
    """Every style sheet that the page names is there, ours among them."""
    answer = httpx.get(page)
    assert answer.status_code == 200
    sheets = re.findall(r'<link[^>]+href="([^"]+\.css)[^"]*"', answer.text)
    assert any("console/console" in sheet for sheet in sheets), sheets
    for sheet in sheets:
        assert httpx.get(str(httpx.URL(page).join(sheet))).status_code == 200, sheet


def test_the_wheel_has_every_command_of_manage_py(installed: Environment, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    lay_traps(here)
    asked = ("help", "--commands")

    told = run(installed.command, *asked, cwd=here, env=bare(here, DEBUG="true"))

    own = run(sys.executable, "manage.py", *asked, cwd=ROOT, env=bare(here, DEBUG="true", VAR_DIR=str(tmp_path)))
    assert told == own
    assert "serve" in told.split()
