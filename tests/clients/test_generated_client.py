"""A client is generated of the description of /api: each operation is in it, its types hold, it calls the product."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.utils import timezone

from governance.audit import Actor
from llm.catalogue import snapshot, tools
from tests import factories as make
from tests.clients.conftest import environment
from tests.environment import ROOT
from tests.product import Product

HERE = Path(__file__).parent / "generated"
BIN = ROOT / ".venv" / "generated" / "bin"
PACKAGE = "governor_api"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the client; what calls it is beside it."""
    if not (BIN / "openapi-python-client").exists():
        pytest.skip("the generator is not installed: make .venv/generated.installed")
    from drf_spectacular.generators import SchemaGenerator

    folder = tmp_path_factory.mktemp("generated")
    document = SchemaGenerator().get_schema(request=None, public=True)
    # What /v1 is called with are clients of others.
    document["paths"] = {path: what for path, what in document["paths"].items() if path.startswith("/api/")}
    (folder / "openapi.json").write_text(json.dumps(document))
    places = ["--path", "openapi.json", "--output-path", PACKAGE, "--config", str(HERE / "config.yaml")]
    run([str(BIN / "openapi-python-client"), "generate", "--meta", "none", "--fail-on-warning", *places], folder)
    (folder / "use.py").write_bytes((HERE / "use.py").read_bytes())
    return folder


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_each_operation_has_a_function(generated: Path) -> None:
    document = json.loads((generated / "openapi.json").read_text())
    wanted = {what["operationId"] for methods in document["paths"].values() for what in methods.values()}
    made = {path.stem for path in (generated / PACKAGE / "api").glob("*/*.py") if path.stem != "__init__"}
    assert made == {re.sub(r"\W", "_", name) for name in wanted}
    assert len(made) > 80


def test_its_types_hold_and_so_do_those_of_who_calls_it(generated: Path) -> None:
    mypy = [sys.executable, "-m", "mypy", "--config-file=", f"--python-executable={BIN / 'python'}"]
    run([*mypy, f"--cache-dir={generated / '.mypy_cache'}", "use.py", PACKAGE], generated)
    wrong = (generated / "use.py").read_text().replace("calls=2", 'calls="2"')
    (generated / "wrong.py").write_text(wrong)
    with pytest.raises(AssertionError, match='has incompatible type "str"'):
        run([*mypy, f"--cache-dir={generated / '.mypy_cache'}", "wrong.py"], generated)


def test_it_calls_the_running_product(generated: Path, product: Product) -> None:
    make.budget("1.00", window="lifetime", scope_type="agent", scope_key="invoices")
    tools.set_price(name="web-search", nanos_per_call=make.nanos("0.005"), by=Actor("olga"), now=timezone.now())
    snapshot.forget()
    told = run([str(BIN / "python"), "use.py", product.url, product.key()], generated)
    assert json.loads(told) == {
        "amount": "0.01",
        "action": "allow",
        "tool": "web-search",
        "cost": "0.005",
        "limit": "1.00",
        "refused": "budget_exhausted",
    }
