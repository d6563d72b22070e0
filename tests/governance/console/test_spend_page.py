"""The console's page of what was spent."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine
from django.test import Client

from governance import ledger
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.console import spend_chart, spend_figures, spend_table
from governance.models import Tenant
from governance.queries import breakdown
from governance.rules.calls import Usage
from tests import factories
from tests.factories import NOON

pytestmark = pytest.mark.django_db
PAGE = "/admin/spend/"
HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(autouse=True)
def at_noon() -> Any:
    with time_machine.travel(NOON, tick=False):
        yield


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(factories.person("vera", "viewer"))
    return client


@pytest.fixture
def globex() -> Tenant:
    return factories.tenant("globex", time_zone="America/New_York")


@pytest.fixture
def history(globex: Tenant) -> None:
    """Two customers with an agent of one name; half of the week before, a refusal and an estimate."""
    spent("3", agent="support")
    spent("1", agent="invoices", model="small", user="zoe")
    spent("2", agent="support", at=NOON - timedelta(days=7, hours=1))
    spent("4", agent="support", owner=globex)
    spent("0.50", agent="support", owner=globex, certainty="estimated")
    log, caller = RefusalLog(), factories.caller(globex, agent="support")
    log.note(NotedRefusal("r-1", caller, "large", (), "stopped", 403, NOON, sentence="Stopped."))
    log.flush()


def spent(
    cost: str,
    *,
    at: datetime = NOON,
    owner: Tenant | None = None,
    model: str = "large",
    certainty: str = "confirmed",
    **named: str,
) -> None:
    made = factories.reporting(cost, by=factories.caller(owner, **named), occurred_at=at)
    usage = Usage("mistral", model, 1000, 250, 100)
    ledger.record(replace(made, usage=usage, certainty=certainty), now=max(at, NOON))


def opened(client: Client, **asked: str) -> str:
    answer = client.get(PAGE, asked)
    assert answer.status_code == 200
    return answer.content.decode()


def lines(page: str) -> list[tuple[str, list[str]]]:
    """Each line of the table as it reads: its name, and its figures."""
    found = re.findall(r'<tr class="sg-(?:group|within|total)" role="row">(.*?)</tr>', page, re.DOTALL)
    return [
        (_text(row.partition("</th>")[0]), [_text(cell) for cell in re.findall(r"<td.*?</td>", row)]) for row in found
    ]


def _text(markup: str) -> str:
    return html.unescape(" ".join(re.sub(r"<[^>]*>", "", markup).split()))


def links(page: str) -> list[str]:
    return [html.unescape(found) for found in re.findall(r'href="([^"]*)"', page.partition("sg-breakdown")[2])]


def chart(page: str) -> Any:
    found = re.search(r'<script id="spend-chart" type="application/json">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


def test_it_says_who_spent_most_this_week_and_on_which_model(viewer: Client, history: None) -> None:
    found = lines(opened(viewer))
    assert found == [
        ("globex", ["$4.50", "52.9%", "new", "2", "$2.25", "$2.05", "25.0%", "11.1%", "1"]),
        ("large", ["$4.50", "52.9%", "new", "2", "$2.25", "$2.05", "25.0%", "11.1%", "1"]),
        ("acme", ["$4.00", "47.1%", "+100%", "2", "$2.00", "$1.82", "25.0%", "0%", "0"]),
        ("large", ["$3.00", "35.3%", "+50.0%", "1", "$3.00", "$2.73", "25.0%", "0%", "0"]),
        ("small", ["$1.00", "11.8%", "new", "1", "$1.00", "$0.9091", "25.0%", "0%", "0"]),
        ("Total", ["$8.50", "100%", "+325.0%", "4", "$2.12", "$1.93", "25.0%", "5.9%", "1"]),
    ]


def test_agents_are_named_with_their_customer_and_never_added_up(viewer: Client, history: None) -> None:
    names = [name for name, _ in lines(opened(viewer, group="agent", subgroup=""))]
    assert names == ["globex / support", "acme / support", "acme / invoices", "Total"]


def test_every_cell_leads_to_the_calls_behind_it(viewer: Client, history: None) -> None:
    page = opened(viewer, group="agent", subgroup="")
    first = [link for link in links(page) if "agent=support" in link and "tenant=globex" in link]
    asked = [(urlsplit(link).path, parse_qs(urlsplit(link).query)) for link in first]
    week = {"range": ["custom"], "from": ["2026-03-04T00Z"], "to": ["2026-03-10T23Z"]}
    of_globex = {"tenant": ["globex"], "agent": ["support"]}
    assert asked[0] == (PAGE, {"range": ["7d"], **of_globex})
    assert all(path == "/admin/calls/" and query.items() >= (week | of_globex).items() for path, query in asked[1:])
    assert {query["status"][0] for _, query in asked[1:] if "status" in query} == {"served", "estimated", "refused"}
    # One of each kind of cell, and the change leads to the period before.
    assert len(asked) == 9
    before = f"{PAGE}?range=custom&group=agent&subgroup=&from=2026-02-25T00Z&to=2026-03-03T11Z"
    assert links(page).count(before) == 4


def test_what_has_no_name_leads_nowhere(viewer: Client) -> None:
    spent("1")
    page = opened(viewer, group="agent", subgroup="")
    assert lines(page)[0][0] == "acme / not named"
    assert not [link for link in links(page.partition("<tfoot")[0]) if "/calls/" in link]


def test_filters_are_chips_that_can_be_taken_away(viewer: Client, history: None) -> None:
    page = opened(viewer, tenant="acme", agent="support")
    assert lines(page)[-1][1][0] == "$3.00"
    without = html.unescape(re.findall(r'<a href="([^"]*)" aria-label="Remove the filter Agent support"', page)[0])
    assert lines(viewer.get(without).content.decode())[-1][1][0] == "$4.00"


def test_a_filter_is_added_by_a_form_and_the_address_then_says_it(viewer: Client, history: None) -> None:
    answer = viewer.get(PAGE, {"group": "tenant", "subgroup": "", "field": "agent", "value": " Support "})
    assert (answer.status_code, answer["Location"]) == (302, f"{PAGE}?range=7d&group=tenant&subgroup=&agent=Support")
    # An agent's name is one whatever its case.
    assert lines(viewer.get(answer["Location"]).content.decode())[-1][1][0] == "$7.50"


def test_days_are_the_customers_where_one_is_looked_at_else_utcs(viewer: Client, globex: Tenant) -> None:
    spent("1", owner=globex, at=datetime(2026, 3, 10, 3, 30, tzinfo=UTC))
    of_all = opened(viewer, group="day", subgroup="")
    assert [name for name, _ in lines(of_all)] == ["Tue, Mar 10", "Total"]
    assert "Mar 4 to Mar 10, UTC" in of_all
    of_one = opened(viewer, group="day", subgroup="", tenant="globex")
    assert [name for name, _ in lines(of_one)] == ["Mon, Mar 9", "Total"]
    assert "Mar 4 to Mar 10, America/New_York" in of_one


@pytest.mark.parametrize(("day", "hours", "twice"), [("2026-03-08", 23, 0), ("2025-11-02", 25, 2)])
def test_a_day_on_which_clocks_are_changed_has_its_hours(
    viewer: Client, globex: Tenant, day: str, hours: int, twice: int
) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=globex.zone).astimezone(UTC)
    with time_machine.travel(begin + timedelta(days=2), tick=False):
        for hour in range(hours):
            made = factories.reporting("1", by=factories.caller(globex), occurred_at=begin + timedelta(hours=hour))
            ledger.record(made, now=begin + timedelta(days=2))
        page = opened(viewer, tenant="globex", group="hour", subgroup="", **{"from": day, "to": day})
    names = [name for name, _ in lines(page)[:-1]]
    assert (len(names), len(set(names))) == (hours, hours)
    assert len([name for name in names if " 01:00" in name]) == (twice or 1)
    assert lines(page)[-1][1][0] == f"${hours}.00"
    assert len(chart(page)["labels"]) == hours


def test_the_chart_stacks_the_dearest_seven_and_the_rest_and_leads_to_the_slice(viewer: Client) -> None:
    for number in range(9):
        spent(f"{number + 1}", agent=f"a{number}")
        spent("0.5", agent=f"a{number}", at=NOON - timedelta(days=1))
    figures = chart(opened(viewer, group="agent", subgroup=""))
    assert [series["name"] for series in figures["series"]] == [
        *(f"acme / a{number}" for number in range(8, 1, -1)),
        "All others",
    ]
    assert figures["labels"][-2:] == ["Mar 9", "Mar 10"]
    assert [float(value) for value in figures["series"][0]["values"][-2:]] == [0.5, 9.0]
    # The two least dear.
    assert [float(value) for value in figures["series"][7]["values"][-2:]] == [1.0, 3.0]
    assert figures["series"][7]["calls"][-1] == 2
    link = urlsplit(figures["links"][0][-1])
    assert parse_qs(link.query) == {
        "range": ["custom"],
        "from": ["2026-03-10T00Z"],
        "to": ["2026-03-10T23Z"],
        "tenant": ["acme"],
        "agent": ["a8"],
    }
    assert parse_qs(urlsplit(figures["links"][7][-1]).query) == {
        "range": ["custom"],
        "from": ["2026-03-10"],
        "to": ["2026-03-10"],
    }


def test_a_long_time_is_drawn_in_weeks(viewer: Client, history: None) -> None:
    figures = chart(opened(viewer, group="model", subgroup="", **{"from": "2025-10-01", "to": "2026-03-10"}))
    assert figures["labels"][:2] == ["Sep 29", "Oct 6"]
    assert [float(value) for value in figures["series"][0]["values"][-2:]] == [2.0, 7.5]
    assert parse_qs(urlsplit(figures["links"][0][0]).query)["from"] == ["2025-10-01"]


def test_a_page_shows_the_first_of_more_lines_than_a_table_of_all_may_have(
    viewer: Client, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = opened(viewer, group="agent", subgroup="")
    monkeypatch.setattr(breakdown, "MOST_GROUPS", 2)
    monkeypatch.setattr(spend_figures, "MOST_GROUPS", 1)
    monkeypatch.setattr(spend_chart, "TOP", 1)
    page = opened(viewer, group="agent", subgroup="")
    assert lines(page) == [lines(known)[0], lines(known)[-1]]
    assert "the other 2 are more than the CSV takes" in page
    assert [series["name"] for series in chart(page)["series"]] == ["globex / support", "All others"]
    answer = viewer.get(PAGE, {"group": "agent", "subgroup": "", "format": "csv"})
    assert "more than 2 lines: choose less time" in answer.content.decode()
    assert "sg-breakdown" not in answer.content.decode()


def test_the_same_lines_are_a_table_for_a_spreadsheet(viewer: Client, history: None) -> None:
    answer = viewer.get(PAGE, {"group": "agent", "subgroup": "model", "format": "csv"})
    assert answer["Content-Disposition"] == 'attachment; filename="spend-2026-03-04-2026-03-10.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [(row["tenant"], row["agent"], row["model"], row["cost"]) for row in rows] == [
        ("globex", "support", "large", "4.50"),
        ("acme", "support", "large", "3.00"),
        ("acme", "invoices", "small", "1.00"),
        ("total", "", "", "8.50"),
    ]
    first = {name: rows[0][name] for name in spend_table.MEASURES}
    assert first == {
        "cost": "4.50",
        "share": "0.5294",
        "cost_before": "0.00",
        "change": "",
        "calls": "2",
        "cost_a_call": "2.25",
        "cost_a_thousand_tokens": "2.045454545",
        "input_tokens": "2000",
        "cached_tokens": "500",
        "output_tokens": "200",
        "cached_share": "0.2500",
        "estimated_cost": "0.50",
        "estimated_share": "0.1111",
        "refused": "1",
    }
    assert (rows[1]["cost_before"], rows[1]["change"]) == ("2.00", "0.5000")


def test_a_name_that_a_spreadsheet_would_run_is_quoted(viewer: Client) -> None:
    spent("1", user="=1+1")
    assert "'=1+1" in viewer.get(PAGE, {"group": "user", "format": "csv"}).content.decode()


def test_lines_beyond_what_a_page_shows_are_in_the_table(
    viewer: Client, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spend_figures, "MOST_GROUPS", 1)
    monkeypatch.setattr(spend_figures, "MOST_WITHIN", 1)
    page = opened(viewer, group="tenant", subgroup="agent")
    assert [name for name, _ in lines(page)] == ["globex", "support", "Total"]
    assert "the CSV has the other 1 too" in page
    page = opened(viewer, group="model", subgroup="agent")
    assert "1 more</a>" in page


def test_users_are_told_apart_in_time_that_has_few_calls(
    viewer: Client, history: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened(viewer, group="user", subgroup="")
    assert ("acme / zoe", "$1.00") in [(name, cells[0]) for name, cells in lines(page)]
    assert "at most 50,000 calls at once" in page
    monkeypatch.setattr(breakdown, "MOST_ENTRIES", 1)
    page = opened(viewer, user="zoe")
    assert "choose less time, or a customer" in page
    answer = viewer.get(PAGE, {"group": "user", "format": "csv"})
    assert answer["Content-Type"].startswith("text/html")


def test_what_a_provider_was_not_asked_is_not_known_of_it(viewer: Client, history: None) -> None:
    page = opened(viewer, group="provider", subgroup="")
    assert lines(page)[0] == ("mistral", ["$8.50", "100%", "+325.0%", "4", "$2.12", "$1.93", "25.0%", "5.9%", "–"])
    assert "before any provider was asked" in page


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"group": "planet"}, "group: is one of tenant, agent, model"),
        ({"subgroup": HOSTILE}, "subgroup: is one of"),
        ({"range": "year"}, 'range: is one of 24h, 7d, 30d, custom, not "year".'),
        ({"from": "2026-03-01T25Z", "to": "2026-03-02T00Z"}, "from: is an hour of UTC"),
        ({"from": "2026-03-05T01Z", "to": "2026-03-02T00Z"}, "from: is after the last hour."),
        ({"from": "2020-03-05T01Z", "to": "2026-03-02T00Z"}, "from: at most 400 days"),
        ({"from": "0001-03-05T01Z", "to": "2026-03-02T00Z"}, "from: is between the years"),
        ({"tenant": "nobody"}, "There is no customer"),
        ({"tenant": "a" * 300}, "Customer"),
        ({"agent": "a\x07b"}, "Agent"),
        ({"field": "user", "value": "a" * 1000}, "User"),
        ({"field": "planet", "value": "x", "format": "pdf"}, "field: is one of tenant, agent"),
        ({"key": "sg_x", "provider": "p", "task": "t", "model": "m", "user": "u"}, "take one away"),
    ],
)
def test_a_bad_address_is_the_page_with_a_sentence(
    viewer: Client, history: None, asked: dict[str, str], said: str
) -> None:
    page = opened(viewer, **asked)
    assert said in html.unescape(page)
    assert HOSTILE not in page


def test_hostile_names_are_text(viewer: Client) -> None:
    spent("1", agent=HOSTILE, user="evil\u202etxt", model='"><img src=x>')
    for group in ("agent", "user", "model"):
        page = opened(viewer, group=group, subgroup="agent", agent=HOSTILE)
        assert HOSTILE not in page
        assert "<img" not in page
        assert re.search(r"<bdi>[^<]*</bdi>", page)


def test_an_empty_product_says_what_to_do_next(viewer: Client, admin_client: Client) -> None:
    assert "No call has been made yet. The first one will show here." in _text(opened(viewer))
    assert "/admin/governance/apikey/add/" in opened(admin_client)
    spent("1", at=NOON - timedelta(days=20))
    page = opened(viewer)
    assert "No call was made in this time" in page
    [longer] = re.findall(r'<a href="([^"]*)">Look at 30 days</a>', page)
    assert lines(viewer.get(html.unescape(longer)).content.decode())[-1][1][0] == "$1.00"


class TestTenantStaff:
    @pytest.fixture
    def grace(self, globex: Tenant) -> Client:
        client = Client()
        client.force_login(factories.person("grace", "tenant staff", of=globex))
        return client

    @pytest.mark.parametrize("asked", [{}, {"tenant": "acme"}, {"group": "tenant"}, {"group": "user"}])
    def test_see_their_tenant_alone(self, grace: Client, history: None, asked: dict[str, str]) -> None:
        page = opened(grace, **asked)
        assert "$3.00" not in page
        assert "invoices" not in page
        assert "Customer</option>" not in page
        assert "America/New_York" in page
        assert ("$4.50" in page) == ("tenant" not in asked)

    def test_another_tenants_name_is_told_as_one_that_nobody_has(self, grace: Client, history: None) -> None:
        for name in ("acme", "nobody"):
            page = html.unescape(opened(grace, tenant=name))
            assert f'There is no customer "{name}".' in page
            assert "America/New_York" in page

    def test_their_own_is_no_filter_and_their_file_has_their_lines(self, grace: Client, history: None) -> None:
        page = opened(grace, tenant="globex")
        assert "Remove the filter" not in page
        assert lines(page)[0][0] == "globex / support"
        text = grace.get(PAGE, {"format": "csv"}).content.decode()
        assert "globex,support" in text
        assert "acme" not in text


def test_who_has_no_role_is_turned_away(client: Client, history: None) -> None:
    assert client.get(PAGE).status_code == 302
    client.force_login(factories.person("nora"))
    for asked in ({}, {"format": "csv"}):
        assert client.get(PAGE, asked).status_code == 403


@pytest.mark.parametrize("asked", [{}, {"group": "user"}, {"group": "day", "subgroup": "agent", "tenant": "acme"}])
def test_it_asks_a_bounded_number_of_queries(
    viewer: Client, history: None, django_assert_max_num_queries: Any, asked: dict[str, str]
) -> None:
    for number in range(10):
        spent("1", agent=f"a{number}", user=f"u{number}")
    with django_assert_max_num_queries(16):
        opened(viewer, **asked)


def csv_of(client: Client, **asked: str) -> list[dict[str, str]]:
    answer = client.get(PAGE, {"subgroup": "", "format": "csv", **asked})
    return list(csv.DictReader(io.StringIO(answer.content.decode())))


@pytest.mark.parametrize(
    ("begin", "end", "before"),
    [
        # No multiple of 24 hours: the days before are other stretches of hours.
        ("2026-03-03T00Z", "2026-03-04T11Z", ["", ""]),
        ("2026-03-03T06Z", "2026-03-04T05Z", ["6.00", "18.00"]),
        ("2026-03-03", "2026-03-04", ["24.00", "24.00"]),
    ],
)
def test_a_day_is_compared_with_as_much_of_a_day_or_with_none(
    viewer: Client, begin: str, end: str, before: list[str]
) -> None:
    for hour in range(8 * 24):
        spent("1", at=datetime(2026, 2, 26, tzinfo=UTC) + timedelta(hours=hour))
    rows = csv_of(viewer, group="day", **{"from": begin, "to": end})
    assert [row["cost_before"] for row in rows[:-1]] == before
    assert {row["change"] for row in rows[:-1]} <= {"", "0.0000"}
    assert rows[-1]["change"] == "0.0000"


@pytest.mark.parametrize(("day", "hours"), [("2025-11-02", 25), ("2026-03-08", 23)])
def test_an_hour_that_the_day_before_had_not_is_compared_with_none(
    viewer: Client, globex: Tenant, day: str, hours: int
) -> None:
    begin = datetime.fromisoformat(day).replace(tzinfo=globex.zone).astimezone(UTC) - timedelta(days=1)
    with time_machine.travel(begin + timedelta(days=3), tick=False):
        for hour in range(24 + hours):
            made = factories.reporting("1", by=factories.caller(globex), occurred_at=begin + timedelta(hours=hour))
            ledger.record(made, now=begin + timedelta(days=3))
        rows = csv_of(viewer, tenant="globex", group="hour", **{"from": day, "to": day})
    assert [row["cost_before"] for row in rows] == [*[""] * (hours - 24), *["1.00"] * min(hours, 24), "24.00"]


@pytest.mark.parametrize(("minutes", "spent_before"), [(13 * 60 + 30, "81.00"), (10, "1.00")])
def test_a_day_so_far_is_compared_with_the_day_before_as_far(viewer: Client, minutes: int, spent_before: str) -> None:
    midnight = datetime(2026, 3, 9, tzinfo=UTC)
    now = midnight + timedelta(minutes=minutes)
    with time_machine.travel(now, tick=False):
        for ten in range(24 * 6 + minutes // 10):
            at = midnight - timedelta(days=1) + timedelta(minutes=10 * ten)
            ledger.record(factories.reporting("1", occurred_at=at), now=now)
        today = {"from": "2026-03-09", "to": "2026-03-09"}
        rows = csv_of(viewer, group="tenant", **today)
        assert [(row["cost"], row["cost_before"], row["change"]) for row in rows] == [
            (spent_before, spent_before, "0.0000")
        ] * 2
        assert f"change against Mar 8, 00:00 to Mar 8, {now:%H:%M}" in opened(viewer, group="tenant", **today)
