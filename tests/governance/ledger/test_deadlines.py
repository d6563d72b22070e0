"""The deadlines that a transaction of the ledger has on PostgreSQL."""

import pytest

from governance.ledger import sql_dialect as words

pytestmark = [pytest.mark.django_db, pytest.mark.postgres_only]


def test_one_of_the_whole_transaction_is_asked_of_servers_that_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "transaction_timeout" in words._of_deadlines()
    monkeypatch.setattr(words, "_ENDS_TRANSACTIONS", 10**9)
    assert "transaction_timeout" not in words._of_deadlines()
    assert "lock_timeout" in words._of_deadlines()
