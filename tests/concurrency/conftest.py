from collections.abc import Iterator

import pytest

from governance.upkeep import reconcile


@pytest.fixture(autouse=True)
def ledger_holds(live_database: str) -> Iterator[None]:
    """Whatever the processes did, the ledger's invariants hold afterwards."""
    yield
    assert reconcile.check() == []
