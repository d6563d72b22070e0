"""The deadlines that a transaction of the ledger has on PostgreSQL."""

from typing import Any

import pytest
from django.db import connection, transaction

from governance.ledger import sql_dialect as words

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.postgres_only
def test_one_of_the_whole_transaction_is_asked_of_servers_that_know_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "transaction_timeout" in words._of_deadlines()
    monkeypatch.setattr(words, "_ENDS_TRANSACTIONS", 10**9)
    assert "transaction_timeout" not in words._of_deadlines()
    assert "lock_timeout" in words._of_deadlines()


def statement_timeout() -> Any:
    return words.select("SELECT current_setting('statement_timeout')", [])[0][0]


@pytest.mark.postgres_only
def test_brief_reads_end_by_themselves_and_leave_no_deadline_behind() -> None:
    before = statement_timeout()
    for _ in range(2):
        with words.briefly():
            assert statement_timeout() == words.BRIEF.statement
        assert statement_timeout() == before
    assert words._of_deadlines()["statement_timeout"] == words.PROMPT.statement


@pytest.mark.postgres_only
def test_within_a_transaction_they_end_with_it() -> None:
    before = statement_timeout()
    with transaction.atomic(), words.briefly():
        assert statement_timeout() == before
    with words.committed():
        words.keep_deadlines()
        with words.briefly():
            assert statement_timeout() == words.PROMPT.statement


@pytest.mark.sqlite_only
def test_on_sqlite_they_lock_nothing() -> None:
    with words.briefly():
        assert not connection.in_atomic_block
