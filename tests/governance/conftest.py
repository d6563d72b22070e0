from collections.abc import Iterator

import pytest

from governance.upkeep import reconcile


@pytest.fixture
def ledger_holds(db: None) -> Iterator[None]:
    """Whatever a test did, the ledger's invariants hold after it."""
    yield
    assert reconcile.check() == []
