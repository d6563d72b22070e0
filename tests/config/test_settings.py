"""The settings as a process of its own meets them."""

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from tests.environment import ROOT, documented_variables

# Both spellings of reading a variable in settings.py: a checked reader, or django-environ's own.
READ = re.compile(r"""(?:check\.\w+\(\s*env,\s*|env\.\w+\(\s*|environ\.get\(\s*)"([A-Z][A-Z0-9_]+)\"""")
# Read by helpers of config/environment.py and config/database_urls.py that know their variable.
READ_BY_NAME = {"SECRET_KEY", "DATABASE_URL", "DATABASE_REPLICA_URL", "DATABASE_PASSWORD"}

STRONG = "7h1s-15-a-l0ng-k3y-f0r-t35t5-wh1ch-n0b0dy-e1se-u5ed-y3t"


def read_variables() -> set[str]:
    return set(READ.findall((ROOT / "config/settings.py").read_text())) | READ_BY_NAME


def start(tmp_path: Path, **values: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "ENV_FILE")}
    return subprocess.run(
        [sys.executable, str(ROOT / "manage.py"), "diffsettings"],
        env=kept | {"VAR_DIR": str(tmp_path)} | values,
        capture_output=True,
        text=True,
        check=False,
    )


def test_env_example_documents_exactly_what_settings_read() -> None:
    documented = documented_variables()

    assert sorted(documented) == sorted(set(documented)), "a variable is documented twice"
    assert set(documented) == read_variables()


def test_every_variable_in_env_example_has_a_sentence_above_it() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    for above, line in pairwise(lines):
        if re.match(r"^#? ?[A-Z][A-Z0-9_]+=", line):
            assert re.match(r"^# .+[.:]", above), f"nothing explains {line}"


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("SECRET_KEY", "change-me", "SECRET_KEY is missing"),
        ("DATABASE_URL", "oracle://db", "DATABASE_URL must look like"),
        ("OVER_BUDGET_STATUS", "500", "OVER_BUDGET_STATUS must be one of 402, 429"),
    ],
)
def test_a_bad_value_stops_start_up_with_one_sentence(tmp_path: Path, name: str, value: str, wanted: str) -> None:
    done = start(tmp_path, **({"SECRET_KEY": STRONG, name: value}))

    assert done.returncode == 1
    assert done.stderr.startswith(f"Cannot start: {wanted}")
    assert len(done.stderr.splitlines()) == 1


def test_debug_alone_is_enough_to_start(tmp_path: Path) -> None:
    done = start(tmp_path, DEBUG="true")

    assert done.returncode == 0, done.stderr
    assert "MISTRAL_API_BASE = 'http://127.0.0.1:8010'" in done.stdout


def test_a_live_stripe_key_goes_to_stripe_alone(tmp_path: Path) -> None:
    done = start(tmp_path, DEBUG="true", STRIPE_SECRET_KEY="sk_live_x", STRIPE_API_BASE="http://127.0.0.1:12111")

    assert done.returncode == 1
    assert "STRIPE_API_BASE must be left at" in done.stderr


def test_runtime_lock_is_part_of_the_development_lock_and_names_no_index() -> None:
    runtime, dev = ((ROOT / "requirements" / name).read_text() for name in ("runtime.txt", "dev.txt"))

    pins = re.findall(r"^(\S+==\S+)", runtime, flags=re.MULTILINE)
    assert len(pins) > 20
    assert set(pins) <= set(re.findall(r"^(\S+==\S+)", dev, flags=re.MULTILINE))
    assert "://" not in runtime + dev
