"""What README and docs/ tell: their links lead somewhere, their settings and commands exist, their snippets run.

A new block of commands is checked by its lines; one of Python, or of calls, must be given its place in `PLAYED`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from django.core.management import call_command, get_commands, load_command_class
from django.core.management.base import CommandError

from governance.models import EmergencyStop
from tests import factories as make
from tests.environment import ROOT, documented_variables
from tests.product import Product

TOLD = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "*/README.md", "clients/*/README.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)
# What a snippet is told of the address and the key is put in by the reader.
ADDRESS = "http://127.0.0.1:8000"
# Snippets that are run, each by a test below, by the document and a piece of their first line.
PLAYED = {
    ("README.md", "import os"),
    ("README.md", "curl -i"),
    ("README.md", "ID=$(curl"),
    ("README.md", "DEBUG=true .venv/bin/python manage.py emergency_stop"),
}
# Run elsewhere: what they show is the subject of the tests named.
ELSEWHERE = {
    ("docs/coming-from.md", "curl -sf"): "tests/config/litellm/test_import_litellm.py",
    ("docs/simulated-stripe.md", "account = SimulatedStripe"): "tests/billing/sandbox",
    ("docs/clients.md", "make .venv/clients.installed"): "tests/clients/test_matrix.py",
    ("docs/operations.md", "from standardwebhooks"): "tests/governance/alerts/test_outbox.py",
    ("docs/reports.md", "curl http"): "tests/governance/api/test_reports.py",
    ("clients/python/README.md", "from spend_governor_client"): "tests/clients/test_governor_client.py",
    ("clients/python/README.md", "@governor.governed"): "tests/clients/test_governor_client.py",
    ("clients/python/README.md", "hold = governor.reserve"): "tests/clients/test_governor_client.py",
    ("clients/python/README.md", "def search"): "tests/clients/test_governor_client.py",
    ("clients/python/README.md", "from langchain_mistralai"): "tests/clients/test_callbacks.py",
    ("clients/python/README.md", "from llama_index"): "tests/clients/test_callbacks.py",
}
# Variables that are no settings: of make, of tests, of Docker's files and of tools.
OTHER_VARIABLES = {
    *("PORT", "PYTHON", "MODULES", "UPGRADE", "CHROMIUM", "CI", "ALLOWED", "FORBIDDEN"),
    *("REQUIRE_BROWSER", "REQUIRE_NODE", "REQUIRE_TOKENIZERS", "TEST_DATABASE_URL", "TEST_REDIS_URL"),
    *("BASE_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE", "POSTGRES_HOST"),
    *("REQUIRE_OTEL", "OTEL_TRACES_SAMPLER"),
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "PATH", "GOVERNOR_KEY", "GOVERNOR_URL"),
}
# Programs of the system that a line may begin with; its files are looked for all the same.
OF_THE_SYSTEM = {
    *(
        "apt-get",
        "useradd",
        "git",
        "install",
        "su",
        "cp",
        "cd",
        "echo",
        "export",
        "systemctl",
        "docker",
        "kubectl",
        "helm",
        "journalctl",
        "jq",
    ),
    *("python3", "pip", "bin/pip", ".venv/bin/pip", "curl", "node", "sqlite3", "psql", "pg_dump", "pg_restore", "pipx"),
}
TOOLS = (".venv/bin/coverage", ".venv/bin/pytest", "tests/any_day")


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.document}: {self.text.splitlines()[0][:50]}"

    def is_of(self, places: object) -> bool:
        assert isinstance(places, set | dict)
        return any(self.document == document and self.text.startswith(first) for document, first in places)

    def lines(self) -> list[str]:
        """Commands, those over several lines as one, without comments."""
        whole = self.text.replace("\\\n", " ")
        return [line for raw in whole.splitlines() if (line := re.sub(r"(^|\s+)#.*$", "", raw).strip())]


def blocks() -> Iterator[Block]:
    for path in TOLD:
        for language, text in re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            yield Block(str(path.relative_to(ROOT)), language, text)


BLOCKS = list(blocks())
SHELL = [block for block in BLOCKS if block.language == "sh"]
PYTHON = [block for block in BLOCKS if block.language == "python"]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def anchors(path: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+?)\s*$", without_fences(path.read_text()), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.replace("`", "")).lower()
        base = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        name, number = base, 0
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.add(name)
    return found


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("path", TOLD, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(path.read_text())):
        if re.match(r"https?://|mailto:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_settings_that_are_named_exist() -> None:
    """A word with an underscore in capitals, or one that something is set to."""
    known = {*documented_variables(), *OTHER_VARIABLES}
    unknown: dict[str, set[str]] = {}
    for path in [path for path in TOLD if "docs/adr" not in str(path)]:
        for code in re.findall(r"`([^`\n]+)`", without_fences(path.read_text())):
            for name in re.findall(r"(?:^|[\s:])([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=|$)", code):
                plain = re.sub(r"_FILE$", "", name)
                if name not in known and plain not in known and not is_a_constant(name):
                    unknown.setdefault(str(path.relative_to(ROOT)), set()).add(name)
    assert unknown == {}


SOURCES = (
    "\n".join(
        path.read_text()
        for folder in ("governance", "llm", "billing", "config", "tests", "benchmarks", "clients")
        for path in (ROOT / folder).rglob("*.py")
        if "node_modules" not in path.parts
    )
    + (ROOT / "Makefile").read_text()
)


def is_a_constant(name: str) -> bool:
    """Of our own code, which development's documents name."""
    return re.search(rf"\b{name}\b[\s:=]", SOURCES) is not None


def test_every_command_of_the_product_is_told_of() -> None:
    told = "\n".join(path.read_text() for path in TOLD)
    ours = {name for name, app in get_commands().items() if app in ("governance", "llm", "billing", "config")}

    assert {name for name in ours if not re.search(rf"\b{name}\b", told)} == set()


# What writes nothing has no use for --dry-run.
READS_ALONE = {"check_budget", "check_routing", "measure_anomalies", "spend_report", "try_providers"}


def test_the_table_of_commands_has_each_and_says_which_lack_an_option() -> None:
    told = (ROOT / "docs/operations.md").read_text().partition("\n## Commands\n")[2].partition("\n## ")[0]
    ours = {name: app for name, app in get_commands().items() if app in ("governance", "llm", "billing", "config")}
    in_table = [
        name for cell in re.findall(r"^\| (`[^|]+) \|", told, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    ]
    assert set(ours) - set(in_table) == set()

    def lacking(option: str) -> set[str]:
        return {
            name
            for name, app in ours.items()
            if option not in load_command_class(str(app), name).create_parser("manage.py", name)._option_string_actions
        }

    without_json, without_dry_run = re.findall(
        r"(?:Without `--json` are|but for these,)\s((?:(?!\.).)+)\.", told, re.DOTALL
    )
    assert lacking("--json") == set(re.findall(r"`(\w+)`", without_json))
    further = set(re.findall(r"`(\w+)`", without_dry_run))
    assert lacking("--dry-run") == lacking("--json") | further | READS_ALONE


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_a_command_is_one_that_there_is(block: Block) -> None:
    lines = block.lines()
    assert lines
    for line in lines:
        for command in re.split(r"\s+&&\s+|\s+\|\s+|;\s+", line) if "curl" not in line else []:
            check(command)


def check(line: str) -> None:
    words = shlex.split(line)
    while words and re.match(r"^[A-Z_]+=", words[0]):
        assert words[0].partition("=")[0] in {*documented_variables(), *OTHER_VARIABLES, *constants_of_make()}
        words = words[1:]
    if not words:
        return
    program, arguments = words[0], words[1:]
    if program == "docker" and "compose" in arguments:
        assert_services(arguments)
    if program == "exec" or (program in ("docker", "kubectl") and "manage.py" in arguments):
        arguments = arguments[arguments.index("manage.py") - 1 :]
        program, arguments = arguments[0], arguments[1:]
    if program == "make":
        assert_targets(arguments)
    elif arguments[:1] == ["manage.py"]:
        assert_parses(arguments[1:])
    elif program in ("bin/spend-governor", "spend-governor"):
        assert_parses(arguments)
    elif program.endswith("python") and arguments[:1] == ["-m"]:
        assert (ROOT / arguments[1].replace(".", "/")).exists(), line
    elif program.startswith(("deploy/", "tests/")) or program in TOOLS:
        assert program in TOOLS or os.access(ROOT / program, os.X_OK), line
    else:
        assert program in OF_THE_SYSTEM or (program.endswith("/python") and (ROOT / arguments[0]).exists()), line
    for word in words:
        if re.match(r"^(deploy|requirements|tests|docs|benchmarks)/[\w./-]+$", word) and "secrets/" not in word:
            assert (ROOT / word).exists(), f"{word} in: {line}"


def assert_services(arguments: list[str]) -> None:
    """What is stopped, or run in, is a service of the compose file."""
    services = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    for verb in {"exec", "run", "stop"} & set(arguments):
        named = [word for word in arguments[arguments.index(verb) + 1 :] if not word.startswith("-")]
        assert set(named if verb == "stop" else named[:1]) <= set(services)


def constants_of_make() -> set[str]:
    return set(re.findall(r"^([A-Z_]+) [?:]?=", (ROOT / "Makefile").read_text(), re.MULTILINE)) | {"ID", "KEY"}


def assert_targets(arguments: list[str]) -> None:
    targets = set(re.findall(r"^([\w./-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {argument for argument in arguments if "=" not in argument}
    assert named
    assert named <= targets


def assert_parses(arguments: list[str]) -> None:
    """The command takes them. Nothing is run."""
    name, *options = arguments
    app = get_commands()[name]
    command = load_command_class(app, name) if isinstance(app, str) else app
    try:
        command.create_parser("manage.py", name).parse_args(options)
    except CommandError as error:
        pytest.fail(f"{name} {options}: {error}")


def test_options_that_are_named_exist() -> None:
    """In text: `stripe_backfill --since 7d`."""
    wrong = []
    for path in TOLD:
        for code in re.findall(r"`([^`\n]+)`", without_fences(path.read_text())):
            words = code.removeprefix("manage.py ").split()
            app = get_commands().get(words[0]) if words else None
            if not isinstance(app, str) or app not in ("governance", "llm", "billing", "config"):
                continue
            parser = load_command_class(app, words[0]).create_parser("manage.py", words[0])
            known = {option for action in parser._actions for option in action.option_strings}
            wrong += [
                f"{path.name}: {code}" for word in words if word.startswith("--") and word.split("=")[0] not in known
            ]
    assert wrong == []


def test_every_snippet_has_its_place() -> None:
    needing = [block for block in BLOCKS if block.language == "python" or "curl" in block.text]
    assert [block.name for block in needing if not (block.is_of(PLAYED) or block.is_of(ELSEWHERE))] == []
    assert [place for place in ELSEWHERE.values() if not (ROOT / place).exists()] == []
    for places in (PLAYED, set(ELSEWHERE)):
        assert [place for place in places if not any(block.is_of({place}) for block in BLOCKS)] == []


def played(program: str) -> list[Block]:
    return [block for block in BLOCKS if block.is_of(PLAYED) and program in block.text]


def run(command: list[str], key: str) -> str:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    environment = kept | {"GOVERNOR_KEY": key}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", [block for block in PYTHON if block.is_of(PLAYED)], ids=["mistralai", "openai"])
def test_a_client_of_the_readme_is_answered(block: Block, product: Product) -> None:
    make.budget()
    assert ADDRESS in block.text
    said = run([sys.executable, "-c", block.text.replace(ADDRESS, product.url)], product.key())

    assert said.strip()
    assert len(product.sandbox.requests) == 1


def test_curl_of_the_readme_is_answered(product: Product) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    make.budget()
    key = product.key()
    told = [block.text.replace(ADDRESS, product.url) for block in played("curl")]
    call, reserve = (run(["sh", "-euc", text], key) for text in told)

    assert "x-request-cost-usd" in call.lower()
    assert json.loads(reserve)["status"] == "settled"


def test_the_emergency_stop_of_the_readme_stops_and_lifts(process_environment: dict[str, str]) -> None:
    (block,) = played("emergency_stop")
    stop, lift = (shlex.split(line) for line in block.lines())
    given = ["DEBUG=true", ".venv/bin/python", "manage.py", "emergency_stop"]
    assert (stop[:4], lift[:4]) == (given, given)

    # This environment's Python, and the test's database in place of the demo's.
    environment = process_environment | {"DEBUG": "true"}
    subprocess.run([sys.executable, *stop[2:]], env=environment, cwd=ROOT, check=True, capture_output=True)
    assert EmergencyStop.objects.get().lifted_at is None
    call_command(*lift[3:])
    assert EmergencyStop.objects.get().lifted_at is not None
