"""PostgreSQL ends every connection, as a restart or a pooler does: what comes next meets new ones."""

from __future__ import annotations

import httpx2 as httpx
import pytest
from django.db import connection

from tests import factories as make
from tests.concurrency.processes import let_go_of_connections
from tests.concurrency.test_gateway_processes import web_process
from tests.product import eventually

pytestmark = pytest.mark.postgres_only
LARGE = b'{"slug": "x", "more": "' + b"a" * 70_000 + b'"}'
END_ALL = """SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE pid <> pg_backend_pid() AND datname = current_database()"""


def test_a_large_body_is_taken_again_soon_after(process_environment: dict[str, str]) -> None:
    key, _ = make.key(role="operator")
    let_go_of_connections()
    with web_process(process_environment) as (url, _):
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}

        def answered() -> int:
            return httpx.post(f"{url}/api/tenants", content=LARGE, headers=headers, timeout=30).status_code

        assert answered() == 400
        with connection.cursor() as cursor:
            cursor.execute(END_ALL)
        assert answered() in (400, 503)
        assert eventually(lambda: answered() == 400)
