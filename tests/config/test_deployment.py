"""What production starts with."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import pytest
import yaml

from config.supervisor import answers, free_port
from tests.environment import ROOT

# All that production sets; DEBUG is off by itself.
PRODUCTION = {
    "ENV_FILE": os.devnull,
    "SECRET_KEY": "7h1s-15-l0ng-and-r4nd0m-enough-f0r-a-t3st-0f-pr0duct10n-s3tt1ngs",
    "ALLOWED_HOSTS": "governor.example.test",
    "APP_URL": "https://governor.example.test",
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
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


@pytest.mark.parametrize("name", ["ALLOWED_HOSTS", "FORWARDED_ALLOW_IPS"])
def test_trust_in_anybody_is_told_before_and_at_the_start(tmp_path: Path, name: str) -> None:
    done = manage(tmp_path, "check", "--deploy", "--fail-level", "WARNING", **{name: "*"})
    assert done.returncode == 1
    assert f"{name}=*" in done.stderr

    # An application that is none: what is said comes before it is looked for.
    started = manage(tmp_path, "web", "--port", "0", "--application", "config:nothing", **{name: "*"})
    assert f"Warning: {name}=*" in started.stderr
    assert "Warning" not in manage(tmp_path, "web", "--port", "0", "--application", "config:nothing").stderr


def test_https_without_a_proxy_that_is_named_is_told(tmp_path: Path) -> None:
    told = "no proxy is named in FORWARDED_ALLOW_IPS"
    assert told in manage(tmp_path, "check", "--deploy", FORWARDED_ALLOW_IPS="").stderr
    assert told not in manage(tmp_path, "check", "--deploy", FORWARDED_ALLOW_IPS="", APP_URL="http://[::1]").stderr


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
        (["--port", "0", "--host", "0.0.0.0"], {"DEBUG": "true"}, "sees settings and code on error pages"),
        (["--port", "0", "--host", "::"], {"DEBUG": "true"}, "Set DEBUG=false, or listen on 127.0.0.1"),
        (["--port", "0", "--host", "0.0.0.0", "--allow-debug"], {"DEBUG": "true"}, "migrations are not applied"),
        (["--port", "0", "--host", "localhost"], {"DEBUG": "true"}, "migrations are not applied"),
        (["--port", "0"], {"SECRET_KEY": "a"}, "SECRET_KEY is weak"),
        (["--port", "0"], {"METRICS_TOKEN": "a"}, "METRICS_TOKEN is weak"),
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


@pytest.mark.parametrize(("trusted", "sent"), [("127.0.0.1", True), ("10.0.0.1", False), ("", False)])
def test_the_word_of_a_trusted_proxy_alone_makes_a_request_secure(
    migrated_database: Path, tmp_path: Path, trusted: str, sent: bool
) -> None:
    values = {"FORWARDED_ALLOW_IPS": trusted, "ALLOWED_HOSTS": "127.0.0.1", "LOG_FORMAT": "json"}
    environment = PRODUCTION | {"PATH": os.environ["PATH"], "VAR_DIR": str(tmp_path)} | values
    # To migrate takes longer than all the rest.
    shutil.copyfile(migrated_database, tmp_path / "governor.sqlite3")
    port = free_port("127.0.0.1")
    command = [sys.executable, "manage.py", "serve", "--port", str(port)]
    with (tmp_path / "serve.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 90
        while not answers(f"http://127.0.0.1:{port}/api/health/live"):
            assert time.monotonic() < deadline, (tmp_path / "serve.log").read_text()
            time.sleep(0.2)
        forwarded = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"}
        answer = httpx.get(f"http://127.0.0.1:{port}/admin/login/", headers=forwarded)
        assert ("strict-transport-security" in answer.headers) is sent
        assert httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json={}).status_code == 401
    finally:
        server.terminate()
        server.wait(timeout=30)
    # Whatever is said on the way is one object a line.
    said = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines()]
    assert {"serve", "spend_governor.calls"} <= {line["logger"] for line in said}
    [call] = [line for line in said if line["logger"] == "spend_governor.calls"]
    assert (call["status"], call["error"]) == (401, "invalid_api_key")


def test_the_compose_deployment_trusts_the_host_s_proxy() -> None:
    told = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    [network] = told["networks"]["default"]["ipam"]["config"]
    trusted = told["x-product"]["environment"]["FORWARDED_ALLOW_IPS"]
    assert trusted == f"${{FORWARDED_ALLOW_IPS:-{network['gateway']}}}"
    assert told["services"]["web"]["ports"] == ["127.0.0.1:${PORT:-8000}:8000"]


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
