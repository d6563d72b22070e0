from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.test import AsyncClient
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from governance import ledger
from governance.api import spend as api_of_spend
from governance.ledger import sql
from governance.models import AuditEntry, SpendEntry
from tests import factories
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("ledger_holds", "priced")

REPORT: dict[str, Any] = {"request_id": "r-1", "model": "small", "cost": "0.25", "user": "u1", "task": "t1"}


def test_a_report_is_charged_once_however_often_it_is_sent(agent: Api) -> None:
    factories.budget("1")
    first, again = agent.post("/api/spend", REPORT), agent.post("/api/spend", REPORT | {"cost": "9"})
    assert (first.status_code, first.json()["duplicate"], first.json()["cost"]) == (201, False, "0.25")
    assert (again.status_code, again.json()["duplicate"]) == (200, True)
    assert again.json()["id"] == first.json()["id"]
    [entry] = agent.get("/api/spend").json()["results"]
    assert (entry["cost"], entry["agent"], entry["user"], entry["tenant"]) == (
        "0.25",
        "invoices",
        "u1",
        "acme",
    )


def test_the_same_request_id_of_another_tenant_is_another_call(agent: Api, stranger: Api) -> None:
    assert [api.post("/api/spend", REPORT).status_code for api in (agent, stranger)] == [201, 201]


def test_token_counts_are_priced(agent: Api) -> None:
    body = {"request_id": "r-2", "model": "small", "input_tokens": 1_000_000, "output_tokens": 500_000}
    assert agent.post("/api/spend", body).json()["cost"] == "2.00"
    assert SpendEntry.objects.get().price_rule == "test:1"


def test_a_model_without_a_price_is_refused_unless_the_cost_is_told(agent: Api) -> None:
    body = {"request_id": "r-3", "model": "mystery", "input_tokens": 10}
    refused = agent.post("/api/spend", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_not_priced")
    assert refused.json()["error"]["param"] == "model"
    assert agent.post("/api/spend", body | {"cost": "0.01"}).status_code == 201


BAD: list[tuple[dict[str, Any], str]] = [
    ({"request_id": None}, "request_id"),
    ({"request_id": ""}, "request_id"),
    ({"request_id": "x" * 101}, "request_id"),
    ({"request_id": "a\x00"}, "request_id"),
    ({"request_id": "\ud800"}, "request_id"),
    ({"cost": "-1"}, "cost"),
    ({"cost": "much"}, "cost"),
    ({"cost": {}}, "cost"),
    ({"input_tokens": -1}, "input_tokens"),
    ({"input_tokens": "x"}, "input_tokens"),
    ({"cached_tokens": 5}, "cached_tokens"),
    ({"occurred_at": "yesterday"}, "occurred_at"),
    ({"occurred_at": 5}, "occurred_at"),
    ({"agent": "churn"}, "agent"),
    ({"tenant": "globex"}, "tenant"),
    ({"user": ["a"]}, "user"),
    ({"model": 5}, "model"),
    ({"costs": "1"}, "costs"),
]


@pytest.mark.parametrize(("change", "param"), BAD, ids=[repr(change) for change, _ in BAD])
def test_a_bad_report_is_a_400_that_names_the_field(agent: Api, change: dict[str, Any], param: str) -> None:
    response = agent.post("/api/spend", REPORT | change)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)
    assert not SpendEntry.objects.exists()


def test_a_report_without_cost_or_tokens_says_what_is_missing(agent: Api) -> None:
    response = agent.post("/api/spend", {"request_id": "r", "model": "small"})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "cost")


def test_an_operator_names_the_tenant_it_reports_for(operator: Api) -> None:
    factories.tenant()
    assert operator.post("/api/spend", REPORT).json()["error"]["param"] == "tenant"
    assert operator.post("/api/spend", REPORT | {"tenant": "nobody"}).json()["error"]["param"] == "tenant"
    assert operator.post("/api/spend", REPORT | {"tenant": "acme", "agent": "x"}).status_code == 201


def entry(cost: str = "0.10", **fields: Any) -> None:
    at = fields.pop("at", None)
    by = factories.caller(fields.pop("owner", None), **fields)
    ledger.record(factories.reporting(cost, by=by, occurred_at=at), now=timezone.now())


def test_everyone_reads_their_own_spend_alone(operator: Api, tenant: Api, agent: Api, stranger: Api) -> None:
    entry("1", agent="invoices")
    entry("2", agent="churn")
    entry("4", agent="invoices", owner=factories.tenant("globex"))

    def seen(api: Api) -> tuple[int, str]:
        return len(api.get("/api/spend").json()["results"]), api.get("/api/spend/summary").json()["total"]

    assert seen(operator) == (3, "7.00")
    assert seen(tenant) == (2, "3.00")
    assert seen(agent) == (1, "1.00")
    assert seen(stranger) == (1, "4.00")
    assert tenant.get("/api/spend", tenant="globex").json()["results"] == []
    assert tenant.get("/api/spend/summary", tenant="globex").json()["results"] == []


@pytest.mark.parametrize(
    ("query", "costs"),
    [
        ({"agent": "churn"}, ["2.00"]),
        ({"user": "u1"}, ["1.00"]),
        ({"session": "s1"}, ["2.00"]),
        ({"task": "t1"}, ["2.00"]),
        ({"model": "large"}, ["2.00", "1.00"]),
        ({"scope": "agent:invoices"}, ["1.00"]),
        ({"scope": "tenant:acme"}, ["2.00", "1.00"]),
        ({"scope": "key:sg_nothing"}, []),
        ({"scope": "platform"}, ["2.00", "1.00"]),
        ({"certainty": "estimated"}, []),
        ({"from": "2026-03-02"}, ["2.00"]),
        ({"to": "2026-03-02T00:00:00Z"}, ["1.00"]),
        ({"from": "2026-03-01T01:00:00+01:00", "to": "2026-03-01T00:00:01Z"}, ["1.00"]),
    ],
)
def test_filters(operator: Api, query: dict[str, str], costs: list[str]) -> None:
    entry("1", agent="invoices", user="u1", at=datetime(2026, 3, 1, tzinfo=UTC))
    entry("2", agent="churn", session="s1", task="t1", at=datetime(2026, 3, 2, 12, tzinfo=UTC))
    assert [row["cost"] for row in operator.get("/api/spend", **query).json()["results"]] == costs


@pytest.mark.parametrize(
    ("path", "query", "param"),
    [
        ("/api/spend", {"scope": "planet:earth"}, "scope"),
        ("/api/spend", {"certainty": "sure"}, "certainty"),
        ("/api/spend", {"from": "soon"}, "from"),
        ("/api/spend", {"from": "2026-02-30"}, "from"),
        ("/api/spend", {"from": "2026-03-02", "to": "2026-03-01"}, "to"),
        ("/api/spend", {"modle": "x"}, "modle"),
        ("/api/spend/summary", {"group_by": "colour"}, "group_by"),
        ("/api/spend/summary", {"group_by": ","}, "group_by"),
    ],
)
def test_a_bad_query_is_a_400_that_names_the_parameter(
    operator: Api, path: str, query: dict[str, str], param: str
) -> None:
    response = operator.get(path, **query)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_summary_groups_by_what_is_asked_and_adds_up_to_the_ledger(operator: Api) -> None:
    day = datetime(2026, 3, 1, 10, tzinfo=UTC)
    entry("1", agent="invoices", at=day)
    entry("2", agent="invoices", at=day + timedelta(days=1))
    entry("4", agent="churn", at=day)
    found = operator.get("/api/spend/summary", group_by="day,agent").json()
    assert found["total"] == "7.00"
    assert [(row["day"], row["agent"], row["cost"], row["calls"]) for row in found["results"]] == [
        ("2026-03-01", "churn", "4.00", 1),
        ("2026-03-01", "invoices", "1.00", 1),
        ("2026-03-02", "invoices", "2.00", 1),
    ]
    models = operator.get("/api/spend/summary", group_by="tenant,model", to="2026-03-02").json()["results"]
    assert [(row["tenant"], row["model"], row["cost"]) for row in models] == [("acme", "large", "5.00")]


def test_a_summary_comes_in_pages_and_its_total_is_of_them_all(operator: Api) -> None:
    for number in range(5):
        entry("1", agent=f"a{number}")
    pages, address = [], "/api/spend/summary?group_by=agent&page_size=2"
    while address:
        found = operator.client.get(address).json()
        pages.append([row["agent"] for row in found["results"]])
        assert (found["total"], found["calls"]) == ("5.00", 5)
        before, address = found["previous"], found["next"]
    assert pages == [["a0", "a1"], ["a2", "a3"], ["a4"]]
    first = operator.client.get(operator.client.get(before).json()["previous"]).json()
    assert [row["agent"] for row in first["results"]] == pages[0]
    assert first["previous"] is None


def test_a_summary_takes_no_cursor_of_another_list(operator: Api) -> None:
    for _ in range(2):
        entry("1")
    other = operator.get("/api/spend", page_size=1).json()["next"].partition("cursor=")[2].partition("&")[0]
    refused = operator.client.get(f"/api/spend/summary?cursor={other}")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "cursor")


def test_a_summary_of_a_tenants_key_adds_up_so_many_hourly_sums(
    operator: Api, tenant: Api, agent: Api, settings: Any
) -> None:
    for number in range(3):
        entry("1", agent="invoices" if number else "churn", at=datetime(2026, 3, 1 + number, tzinfo=UTC))
    settings.SUMMARY_HOURLY_SUMS = 2

    for accept in ("application/json", "text/csv"):
        refused = tenant.client.get("/api/spend/summary", headers={"accept": accept})
        assert (refused.status_code, refused.json()["error"]["param"]) == (422, "from")
        assert "more than 2 hourly sums" in refused.json()["error"]["message"]
    assert tenant.get("/api/spend/summary", agent="invoices").json()["total"] == "2.00"
    assert tenant.get("/api/spend/summary", **{"from": "2026-03-02"}).json()["total"] == "2.00"
    assert agent.get("/api/spend/summary").json()["total"] == "2.00"
    assert operator.get("/api/spend/summary").json()["total"] == "3.00"


def test_a_table_of_sums_comes_whole_or_not_at_all(operator: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        entry("1", agent=f"a{number}")
    csv = {"accept": "text/csv"}
    monkeypatch.setattr(api_of_spend, "MOST_LINES", 2)
    refused = operator.client.get("/api/spend/summary?group_by=agent", headers=csv)
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "group_by")
    assert "more than 2 lines" in refused.json()["error"]["message"]
    monkeypatch.setattr(api_of_spend, "MOST_LINES", 3)
    whole = operator.client.get("/api/spend/summary?group_by=agent", headers=csv)
    assert len(whole.getvalue().splitlines()) == 4


def test_csv_has_the_rows_of_the_json_and_no_formulas(operator: Api) -> None:
    entry("1", agent="invoices", user="=HYPERLINK(1)")
    response = operator.client.get("/api/spend", headers={"accept": "text/csv"})
    assert response["Content-Type"].startswith("text/csv")
    header, line = response.getvalue().decode().splitlines()
    row = dict(zip(header.split(","), line.split(","), strict=True))
    [shown] = operator.get("/api/spend").json()["results"]
    assert list(shown) == header.split(",")
    assert (row["cost"], row["user"]) == ("1.00", "'=HYPERLINK(1)")
    summary = operator.client.get("/api/spend/summary?group_by=agent", headers={"accept": "text/csv"})
    assert b"invoices" in summary.getvalue()


def test_an_error_is_json_even_where_csv_was_asked_for(operator: Api) -> None:
    response = operator.client.get("/api/spend?from=soon", headers={"accept": "text/csv"})
    assert (response.status_code, response["Content-Type"]) == (400, "application/json")
    assert response.json()["error"]["param"] == "from"


def test_the_list_asks_the_same_number_of_queries_for_one_row_and_for_fifty(operator: Api) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            assert operator.get("/api/spend").status_code == 200
        return len(captured)

    entry()
    one = queries()
    for _ in range(49):
        entry()
    assert queries() == one <= 3


@pytest.mark.django_db(transaction=True)
async def test_an_asgi_server_streams_the_table_piece_by_piece() -> None:
    @sync_to_async
    def prepare() -> str:
        for _ in range(3):
            ledger.record(factories.reporting("1"), now=timezone.now())
        return factories.key(role="operator")[0]

    headers = {"authorization": f"Bearer {await prepare()}", "accept": "text/csv"}
    response: Any = await AsyncClient().get("/api/spend", headers=headers)
    pieces = [piece async for piece in response.streaming_content]
    # The thread that served it has a connection of its own.
    await sync_to_async(connections.close_all)()
    assert response.is_async
    assert [piece.count(b"\n") for piece in pieces] == [1, 3]


def test_what_an_operator_reports_is_audited_once_and_a_repeat_is_a_no_op(operator: Api) -> None:
    factories.tenant()
    body = {"tenant": "acme", "agent": "invoices", "request_id": "r1", "cost": "0.25"}
    answers = [operator.post("/api/spend", body) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert [answer.json()["duplicate"] for answer in answers] == [False, True]
    row = AuditEntry.objects.get(action="spend.report")
    assert row.target == "spend of acme invoices"
    assert row.new == {"entry": answers[0].json()["id"], "request_id": "r1", "cost_nanos": factories.nanos("0.25")}


def test_of_two_who_report_a_call_at_once_the_second_is_a_repeat(
    operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second looks before the first has written; the constraint notices, and it looks again."""
    factories.tenant()
    body = {"tenant": "acme", "request_id": "r1", "cost": "0.25"}
    operator.post("/api/spend", body)
    looks = iter([lambda keys: {}, sql.reported])
    monkeypatch.setattr(sql, "reported", lambda keys: next(looks)(keys))
    answer = operator.post("/api/spend", body)
    assert (answer.status_code, answer.json()["duplicate"]) == (200, True)
    assert AuditEntry.objects.filter(action="spend.report").count() == 1
