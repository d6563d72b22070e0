from collections.abc import Iterator

import pytest

from tests.invariants import drifts


@pytest.fixture(autouse=True)
def ledger_holds(live_database: str) -> Iterator[None]:
    """Whatever the processes did, the ledger's invariants hold afterwards."""
    yield
    assert drifts() == []
