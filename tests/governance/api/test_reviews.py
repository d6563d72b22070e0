"""Reports beyond what a tenant's budgets leave, over the API: what is answered, who sees them, who decides."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance import ledger
from governance.actions import reviews
from governance.models import BudgetWindow, KeptAnswer, PendingReport, Reservation, SpendEntry
from tests import factories
from tests.factories import nanos
from tests.governance.api.conftest import Api

pytestmark = pytest.mark.usefixtures("ledger_holds", "priced")

BEYOND: dict[str, Any] = {"request_id": "r-1", "model": "small", "cost": "200000", "user": "u1"}
ASK = {"model": "large", "estimated_cost": "0.10"}


def settled() -> int:
    return sum(BudgetWindow.objects.values_list("settled_nanos", flat=True))


def keyed(api: Api, path: str, key: str, body: Any) -> Any:
    return api.client.post(path, data=body, content_type="application/json", headers={"idempotency-key": key})


def reserve(api: Api) -> str:
    answer = api.post("/api/reservations", ASK)
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_a_report_beyond_the_budget_is_a_409_that_says_what_was_kept(agent: Api, operator: Api) -> None:
    factories.budget("10")
    factories.budget("100", scope_type="platform")
    answer = agent.post("/api/spend", BEYOND)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (409, "report_needs_review", "cost")
    kept = error["report"]
    assert (kept["status"], kept["cost"], kept["waiting"], kept["charged"]) == (
        "waiting",
        "200000.00",
        "200000.00",
        "0.00",
    )
    assert kept["bound"] == {"scope": "tenant:acme", "window": "day", "left": "10.00"}
    assert (kept["request_id"], kept["user"], kept["agent"]) == ("r-1", "u1", "invoices")
    assert kept["id"] in error["message"]
    assert "tenant:acme per day leaves ($10.00)" in error["message"]
    assert (settled(), SpendEntry.objects.count()) == (0, 0)
    # Within it nothing changes, and an operator may report anything.
    assert agent.post("/api/spend", BEYOND | {"request_id": "r-2", "cost": "10"}).status_code == 201
    more = BEYOND | {"request_id": "r-3", "tenant": "acme"}
    assert operator.post("/api/spend", more).status_code == 201


def test_token_counts_are_held_against_it_at_their_price(agent: Api) -> None:
    factories.budget("1")
    body = {"request_id": "r-1", "model": "small", "input_tokens": 2_000_000, "output_tokens": 500_000}
    kept = agent.post("/api/spend", body).json()["error"]["report"]
    assert (kept["cost"], kept["input_tokens"], kept["output_tokens"]) == ("3.00", 2_000_000, 500_000)
    assert PendingReport.objects.get().price_rule == "test:1"


def test_the_figures_of_a_wider_budget_are_not_told(agent: Api, operator: Api) -> None:
    factories.budget("3", scope_type="platform")
    error = agent.post("/api/spend", BEYOND | {"cost": "4"}).json()["error"]
    assert error["report"]["bound"] == {"scope": "platform", "window": "day", "left": None}
    assert "3.00" not in error["message"]
    [seen] = operator.get("/api/spend/reviews").json()["results"]
    assert seen["bound"]["left"] == "3.00"


def test_without_a_budget_of_its_own_a_day_bounds_it(agent: Api, settings: Any) -> None:
    error = agent.post("/api/spend", BEYOND).json()["error"]
    assert error["report"]["bound"] == {"scope": None, "window": None, "left": "10.00"}
    assert "may be reported unreviewed ($10.00)" in error["message"]


@pytest.mark.parametrize("key", ["", "k1"])
def test_a_repeat_is_answered_alike_and_by_what_was_decided_since(agent: Api, operator: Api, key: str) -> None:
    factories.budget("10")
    send = (lambda: keyed(agent, "/api/spend", key, BEYOND)) if key else (lambda: agent.post("/api/spend", BEYOND))
    first, again = send(), send()
    assert (first.status_code, again.status_code) == (409, 409)
    kept = first.json()["error"]["report"]
    assert again.json()["error"]["report"] == kept
    assert PendingReport.objects.count() == 1
    accepted = operator.post(f"/api/spend/reviews/{kept['id']}/accept", {"reason": "the bill"})
    assert (accepted.status_code, accepted.json()["status"]) == (200, "accepted")
    duplicate = send()
    assert (duplicate.status_code, duplicate.json()["duplicate"]) == (200, True)
    assert duplicate.json()["id"] == accepted.json()["entry"]
    assert settled() == nanos("200000")


def test_a_repeat_of_a_rejected_one_says_so(agent: Api, operator: Api) -> None:
    factories.budget("10")
    id = agent.post("/api/spend", BEYOND).json()["error"]["report"]["id"]
    assert operator.post(f"/api/spend/reviews/{id}/reject", {"reason": "a slip"}).json()["status"] == "rejected"
    error = agent.post("/api/spend", BEYOND).json()["error"]
    assert (error["code"], error["report"]["id"], error["report"]["reason"]) == ("report_rejected", id, "a slip")
    assert "rejected" in error["message"]
    assert settled() == 0


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("key", ["", "k1"])
def test_a_settlement_beyond_it_charges_the_hold_and_keeps_the_rest(
    agent: Api, operator: Api, late: bool, key: str
) -> None:
    factories.budget("1")
    id = reserve(agent)
    if late:
        Reservation.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
        assert ledger.expire_due(now=timezone.now()) == 1
    path, body = f"/api/reservations/{id}/settle", {"cost": "9", "request_id": "p-1"}
    send = (lambda: keyed(agent, path, key, body)) if key else (lambda: agent.post(path, body))
    first, again = send(), send()
    error = first.json()["error"]
    assert (first.status_code, error["code"]) == (409, "report_needs_review")
    kept = error["report"]
    assert (kept["reservation"], kept["cost"], kept["charged"], kept["waiting"]) == (id, "9.00", "0.10", "8.90")
    assert "$0.10 is charged, and $8.90 is more than" in error["message"]
    assert again.json()["error"]["report"] == kept
    assert settled() == nanos("0.10")
    assert agent.get(f"/api/reservations/{id}").json()["cost"] == "0.10"
    accepted = operator.post(f"/api/spend/reviews/{kept['id']}/accept", {"reason": "the bill"}).json()
    done = send()
    assert (done.status_code, done.json()["cost"], done.json()["late"]) == (200, "9.00", late)
    assert done.json()["entry"] == accepted["entry"]
    assert (settled(), agent.get(f"/api/reservations/{id}").json()["cost"]) == (nanos("9"), "9.00")
    other = agent.post(path, {"cost": "8"})
    assert (other.status_code, other.json()["error"]["code"]) == (409, "reservation_resolved")


def test_a_rejected_settlement_stays_at_its_hold(agent: Api, operator: Api) -> None:
    factories.budget("1")
    path = f"/api/reservations/{reserve(agent)}/settle"
    id = agent.post(path, {"cost": "9"}).json()["error"]["report"]["id"]
    operator.post(f"/api/spend/reviews/{id}/reject", {"reason": "no"})
    assert agent.post(path, {"cost": "9"}).json()["error"]["code"] == "report_rejected"
    assert settled() == nanos("0.10")


def test_an_operator_settles_at_anything(agent: Api, operator: Api) -> None:
    factories.budget("1")
    assert operator.post(f"/api/reservations/{reserve(agent)}/settle", {"cost": "9"}).status_code == 200
    assert settled() == nanos("9")


def test_other_answers_are_kept_under_their_key_as_ever(agent: Api) -> None:
    factories.budget("10")
    keyed(agent, "/api/spend", "k1", BEYOND)
    assert not KeptAnswer.objects.exists()
    keyed(agent, "/api/spend", "k1", BEYOND | {"request_id": "r-2", "cost": "1"})
    assert KeptAnswer.objects.get().response_status == 201


def test_only_so_many_of_a_tenant_wait_and_further_ones_are_to_be_sent_again(
    agent: Api, stranger: Api, operator: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reviews, "MOST_WAITING", 2)
    factories.budget("1")
    ids = [agent.post("/api/spend", BEYOND | {"request_id": f"r-{n}"}).json()["error"]["report"]["id"] for n in (1, 2)]
    held = reserve(agent)
    path = f"/api/reservations/{held}/settle"
    for answer in (agent.post("/api/spend", BEYOND | {"request_id": "r-3"}), keyed(agent, path, "k1", {"cost": "9"})):
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "too_many_reports")
        assert answer["Retry-After"] == "60"
    assert (PendingReport.objects.count(), Reservation.objects.get().status, settled()) == (2, "pending", 0)
    # Those that are kept are still answered, what fits is still charged, and others have their own number.
    assert agent.post("/api/spend", BEYOND | {"request_id": "r-1"}).status_code == 409
    assert agent.post("/api/spend", BEYOND | {"request_id": "r-4", "cost": "0.10"}).status_code == 201
    assert stranger.post("/api/spend", BEYOND).status_code == 409
    operator.post(f"/api/spend/reviews/{ids[0]}/reject", {"reason": "no"})
    assert keyed(agent, path, "k1", {"cost": "9"}).json()["error"]["code"] == "report_needs_review"


def test_everyone_sees_their_own_reports_alone(
    operator: Api, viewer: Api, tenant: Api, agent: Api, stranger: Api
) -> None:
    for api in (agent, stranger):
        api.post("/api/spend", BEYOND)
    tenant.post("/api/spend", BEYOND | {"request_id": "r-2"})

    def seen(api: Api, **query: Any) -> int:
        return len(api.get("/api/spend/reviews", **query).json()["results"])

    assert [seen(api) for api in (operator, viewer, tenant, agent, stranger)] == [3, 3, 2, 1, 1]
    assert seen(stranger, tenant="acme") == 0
    [mine] = agent.get("/api/spend/reviews").json()["results"]
    assert agent.get(f"/api/spend/reviews/{mine['id']}").json() == mine
    assert stranger.get(f"/api/spend/reviews/{mine['id']}").status_code == 404


def test_the_list_is_filtered_and_comes_as_a_table(agent: Api, operator: Api) -> None:
    factories.budget("1")
    ids = [agent.post("/api/spend", BEYOND | {"request_id": f"r-{n}"}).json()["error"]["report"]["id"] for n in (1, 2)]
    path = f"/api/reservations/{reserve(agent)}/settle"
    ids.append(agent.post(path, {"cost": "9"}).json()["error"]["report"]["id"])
    operator.post(f"/api/spend/reviews/{ids[0]}/reject", {"reason": "no"})

    def found(**query: Any) -> list[str]:
        return [row["id"] for row in operator.get("/api/spend/reviews", **query).json()["results"]]

    assert found() == ids[::-1]
    assert found(status="waiting") == ids[:0:-1]
    assert found(request_id="r-1") == [ids[0]]
    assert found(reservation=path.split("/")[3]) == [ids[2]]
    assert found(tenant="acme", agent="invoices", status="rejected") == [ids[0]]
    assert found(to="2020-01-01") == []
    assert operator.get("/api/spend/reviews", status="lost").json()["error"]["param"] == "status"
    table = operator.client.get("/api/spend/reviews", headers={"accept": "text/csv"})
    rows = list(csv.DictReader(io.StringIO(b"".join(table).decode())))
    assert [row["id"] for row in rows] == ids[::-1]
    assert rows[0]["waiting"] == "8.90"


def test_it_is_decided_once_and_with_a_reason(agent: Api, operator: Api) -> None:
    factories.budget("10")
    id = agent.post("/api/spend", BEYOND).json()["error"]["report"]["id"]
    path = f"/api/spend/reviews/{id}"
    missing = operator.post(f"{path}/accept")
    assert (missing.status_code, missing.json()["error"]["param"]) == (400, "reason")
    assert operator.post(f"{path}/accept", {"reason": "x"}).status_code == 200
    again = operator.post(f"{path}/reject", {"reason": "x"})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "conflict")
    assert "accepted already" in again.json()["error"]["message"]
    for act in ("accept", "reject"):
        assert agent.post(f"{path}/{act}", {"reason": "x"}).status_code == 403


def test_who_decided_is_told_to_those_who_operate(agent: Api, operator: Api, viewer: Api) -> None:
    factories.budget("10")
    id = agent.post("/api/spend", BEYOND).json()["error"]["report"]["id"]
    path = f"/api/spend/reviews/{id}"
    decided = operator.post(f"{path}/reject", {"reason": "not spent"}).json()["decided_by"]
    assert decided not in ("", "an operator")
    assert [api.get(path).json()["decided_by"] for api in (viewer, agent)] == [decided, "an operator"]
    assert agent.get("/api/spend/reviews").json()["results"][0]["decided_by"] == "an operator"
