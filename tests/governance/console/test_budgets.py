"""The list of budgets and a budget's page: what they show, to whom, and what the form takes."""

from __future__ import annotations

import csv
import re
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from django.utils.html import strip_tags

from governance import ledger
from governance.actions import allowances, budgets
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.audit import Actor
from governance.models import Budget, BudgetForecast, SpendEntry
from governance.rules.errors import FieldError
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db

LIST = "/admin/governance/budget/"
HOSTILE = "<script>alert(1)</script>\u202etxt"
BY = Actor("olga")


def signed_in(*roles: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(factories.person("-".join(roles), *roles, **fields))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in("operator")


def spend(cost: str, **caller: Any) -> None:
    ledger.record(factories.reporting(cost, by=factories.caller(**caller)), now=timezone.now())


def page_of(budget: Budget) -> str:
    return reverse("admin:governance_budget_change", args=[budget.pk])


def text(answer: Any) -> str:
    assert answer.status_code == 200
    html = re.sub(r"(?=</(td|th|dt|dd|p|h2|h3|li)>)", " ", answer.content.decode())
    return re.sub(r"\s+", " ", strip_tags(html).replace("\u00a0", " "))


def names(answer: Any) -> list[str]:
    return [row.budget.scope_key for row in answer.context["cl"].rows]


@pytest.fixture
def all_states() -> dict[str, Budget]:
    """A budget in each state, by its agent."""
    rule = {"downgrade_rules": [{"from": ["*"], "to": "small"}]}
    made = {
        name: factories.budget("1", scope_type="agent", scope_key=name, window="month", **more)
        for name, more in (("active", {}), ("warned", {}), ("degraded", rule), ("stopped", {}), ("off", {}))
    }
    for name, cost in (("active", "0.10"), ("warned", "0.85"), ("degraded", "0.90"), ("stopped", "1"), ("off", "1")):
        spend(cost, agent=name)
    budgets.change(budget=made["off"], changes={"enabled": False}, by=BY, now=timezone.now())
    return made


class TestList:
    def test_the_worst_come_first_and_tabs_count_states(self, operator: Client, all_states: Any) -> None:
        answer = operator.get(LIST)
        assert names(answer) == ["stopped", "degraded", "warned", "active", "off"]
        assert [(tab.words, tab.count) for tab in answer.context["cl"].tabs] == [
            ("All", 5), ("Stopped", 1), ("Degraded", 1), ("Warned", 1), ("Active", 1), ("Off", 1),
        ]  # fmt: skip

    @pytest.mark.parametrize("state", ["active", "warned", "degraded", "stopped", "off"])
    def test_a_tab_shows_its_state_alone(self, operator: Client, all_states: Any, state: str) -> None:
        assert names(operator.get(f"{LIST}?state={state}")) == [state]

    def test_they_are_sorted_by_use_by_limit_and_by_reset(self, operator: Client) -> None:
        factories.budget("5", scope_type="agent", scope_key="lasting", window="lifetime")
        factories.budget("1", scope_type="agent", scope_key="hourly", window="hour")
        factories.budget("2", scope_type="agent", scope_key="monthly", window="month")
        spend("1", agent="lasting")
        spend("0.10", agent="hourly")
        assert names(operator.get(f"{LIST}?sort=used")) == ["lasting", "hourly", "monthly"]
        assert names(operator.get(f"{LIST}?sort=limit")) == ["lasting", "monthly", "hourly"]
        assert names(operator.get(f"{LIST}?sort=resets")) == ["hourly", "monthly", "lasting"]

    def test_what_is_chosen_stays_when_something_else_is(self, operator: Client, all_states: Any) -> None:
        cl = operator.get(f"{LIST}?q=acme&state=stopped&sort=used&window=month").context["cl"]
        assert cl.tabs[0].link == "?q=acme&sort=used&window=month"
        assert cl.sorts["worst"] == "?q=acme&state=stopped&window=month"

    def test_pages_are_walked_and_one_that_is_not_there_is_the_last(self, operator: Client) -> None:
        for number in range(51):
            factories.budget("1", scope_type="agent", scope_key=f"a{number}")
        first, second = operator.get(LIST), operator.get(f"{LIST}?p=2")
        assert (len(names(first)), len(names(second))) == (50, 1)
        assert (first.context["cl"].after, second.context["cl"].before) == ("?p=2", "?")
        assert names(operator.get(f"{LIST}?p=99")) == names(second)

    @pytest.mark.parametrize("query", ["state=x", "sort=x", "p=x", "p=-3", "p=0", "state=", "enabled=x"])
    def test_a_bad_address_is_the_list_all_the_same(self, operator: Client, query: str) -> None:
        factories.budget("1")
        assert operator.get(f"{LIST}?{query}", follow=True).status_code == 200

    def test_a_raise_is_told_beside_the_limit(self, operator: Client) -> None:
        budget = factories.budget("50", window="month")
        spend("1")
        now = timezone.now()
        allowances.raise_limit(
            budget=budget, amount_nanos=nanos("25"), starts_at=now, ends_at=now + timedelta(days=3), reason="a fair",
            by=BY, now=now,
        )  # fmt: skip
        assert re.search(r"\$50\.00 \+ \$25\.00 until \w+ \d+", text(operator.get(LIST)))
        assert re.search(r"Limit \$75\.00 \$50\.00 \+ \$25\.00 until", text(operator.get(page_of(budget))))
        # Also before the first call of a window.
        budgets.reset(budget=budget, reason="anew", by=BY, now=now)
        unused = factories.budget("3", scope_type="agent", scope_key="unused", window="month")
        allowances.raise_limit(
            budget=unused, amount_nanos=nanos("4"), starts_at=now, ends_at=now + timedelta(days=3), reason="a fair",
            by=BY, now=now,
        )  # fmt: skip
        assert re.search(r"\$3\.00 \+ \$4\.00 until \w+ \d+", text(operator.get(LIST)))
        assert re.search(r"Limit \$7\.00 \$3\.00 \+ \$4\.00 until", text(operator.get(page_of(unused))))
        topped = factories.budget("1", scope_type="agent", scope_key="support")
        spend("0.10", agent="support")
        allowances.top_up(budget=topped, amount_nanos=nanos("2"), reason="more", by=BY, now=now)
        assert "$1.00 + $2.00 in this window" in text(operator.get(LIST))

    def test_when_one_runs_out_is_shown_by_what_was_kept(self, operator: Client) -> None:
        budget = factories.budget("10", window="lifetime")
        spend("0.10")
        assert "runs out" not in text(operator.get(LIST))
        now = timezone.now()
        kept = factories.kept_forecast(budget, now=now, runs_out_in=timedelta(days=3))
        assert re.search(r"by an operator\s+runs out \w+", text(operator.get(LIST)))
        [row] = csv.DictReader(operator.get(f"{LIST}csv/").content.decode().splitlines())
        assert (row["runs_out_at"], row["forecast_at"]) == (
            (now + timedelta(days=3)).isoformat(),
            kept.made_at.isoformat(),
        )
        BudgetForecast.objects.update(runs_out_at=None)
        assert re.search(r"by an operator\s+lasts", text(operator.get(LIST)))
        Budget.objects.update(enabled=False)
        assert "lasts" not in text(operator.get(LIST))

    def test_the_csv_is_what_is_listed(self, operator: Client, all_states: Any) -> None:
        lines = operator.get(f"{LIST}csv/?state=stopped").content.decode()
        [row] = csv.DictReader(lines.splitlines())
        assert (row["budget"], row["state"], row["spent"], row["limit"]) == (
            "acme agent:stopped",
            "stopped",
            "1.00",
            "1.00",
        )
        assert row["remaining"] == "0.00"
        assert len(operator.get(f"{LIST}csv/").content.decode().splitlines()) == 6

    def test_a_name_is_no_formula_in_a_spreadsheet(self, operator: Client) -> None:
        factories.budget("1", scope_type="user", scope_key="=1+1")
        [row] = csv.DictReader(operator.get(f"{LIST}csv/").content.decode().splitlines())
        assert row["scope_key"] == "'=1+1"

    def test_names_are_escaped_and_isolated(self, operator: Client) -> None:
        factories.budget("1", scope_type="user", scope_key=HOSTILE)
        html = operator.get(LIST).content.decode()
        assert "<script>alert" not in html
        assert f"<bdi>acme user:{'&lt;script&gt;alert(1)&lt;/script&gt;'}\u202etxt</bdi>" in html

    def test_an_empty_list_says_what_to_do(self, operator: Client) -> None:
        assert "There is no budget yet" in text(operator.get(LIST))
        assert "No budget is like that" in text(operator.get(f"{LIST}?q=nobody"))
        assert "Add a budget" not in text(signed_in("viewer").get(LIST))

    def test_the_number_of_queries_does_not_grow(self, operator: Client, django_assert_max_num_queries: Any) -> None:
        for number in range(60):
            factories.budget("1", scope_type="agent", scope_key=f"a{number}")
        with django_assert_max_num_queries(12):
            operator.get(LIST)

    def test_tenant_staff_sees_their_tenants_and_resets_none(self, all_states: Any) -> None:
        factories.budget("77", tenant=factories.tenant("globex"))
        factories.budget("88", scope_type="platform")
        client = signed_in("tenant staff", of=factories.tenant("acme"))
        for address in (LIST, f"{LIST}csv/"):
            shown = client.get(address).content.decode()
            assert "acme agent:stopped" in shown
            assert not re.search(r"globex|77\.00|88\.00|platform<", shown)
        assert "Reset selected" not in text(client.get(LIST))

    def test_whoever_has_no_role_sees_nothing(self) -> None:
        client = Client()
        client.force_login(factories.person("nobody"))
        assert client.get(f"{LIST}csv/").status_code == 403


class TestPage:
    def test_it_is_read_first(self, operator: Client, all_states: Any) -> None:
        answer = operator.get(page_of(all_states["warned"]))
        cards = {card.title: (card.value, card.note) for card in answer.context["read"]()["cards"]}
        assert cards["Limit"] == ("$1.00", "soft cap 80%, hard cap 100%")
        assert cards["Spent"] == ("$0.85", "85% of the limit")
        assert cards["Remaining"] == ("$0.15", "under the hard cap")
        assert cards["Reserved"][0] == "$0.00"
        assert cards["Resets"][0].startswith("in ")
        shown = text(answer)
        assert "reached 50%, 75% of its limit" in shown
        assert "went from active to warned" in shown

    def test_what_is_used_up_says_so(self, operator: Client, all_states: Any) -> None:
        assert "Used up: no call goes through" in text(operator.get(page_of(all_states["stopped"])))

    def test_a_budget_that_was_never_used_says_what_will_be(self, operator: Client) -> None:
        shown = text(operator.get(page_of(factories.budget("1", window="lifetime"))))
        assert "Nothing was spent yet that a forecast could go by." in shown
        assert "Nothing has happened to it yet." in shown
        assert "never by itself" in shown

    def test_when_it_runs_out_is_told_and_drawn(self, operator: Client) -> None:
        budget = factories.budget("10", window="lifetime")
        now = timezone.now()
        for hours in range(5, 0, -1):
            at = now - timedelta(hours=hours)
            ledger.record(factories.reporting("1", occurred_at=at), now=at)
        answer = operator.get(page_of(budget))
        assert re.search(r"Runs out \w+ \d+, \d\d:\d\d UTC", text(answer))
        chart = answer.context["read"]()["chart"]
        assert [series["name"] for series in chart["series"]] == [
            "Spent", "Forecast", "If less is spent", "If more is spent", "Hard cap", "Soft cap",
        ]  # fmt: skip
        spent = [value for value in chart["series"][0]["values"] if value is not None]
        assert (float(spent[-1]), float(chart["series"][4]["values"][0])) == (5, 10)
        assert {len(series["values"]) for series in chart["series"]} == {len(chart["labels"])}

    def test_acts_are_sentences_with_what_differs(self, operator: Client) -> None:
        now = timezone.now()
        budget = budgets.create(
            scope_type="tenant", window="month", limit_nanos=nanos("50"), tenant=factories.tenant(), by=BY, now=now
        )
        changes = {
            "limit_nanos": nanos("75"),
            "soft_cap": "0.6",
            "alert_thresholds": [],
            "downgrade_rules": [{"from": ["large"], "to": "small", "at": "0.9"}],
            "clamp": False,
        }
        budgets.change(budget=budget, changes=changes, by=Actor(HOSTILE), now=now)
        spend("1")
        allowances.raise_limit(
            budget=budget, amount_nanos=nanos("5"), starts_at=now, ends_at=now + timedelta(days=2), reason="a fair",
            by=BY, now=now,
        )  # fmt: skip
        budgets.reset(budget=budget, reason="a new project", by=BY, now=now)
        answer = operator.get(page_of(budget))
        shown = text(answer)
        for sentence in (
            "olga made it: limit $50.00",
            "changed limit $50.00 → $75.00, soft cap 80% → 60%",
            "alert thresholds 50%, 75%, 90%, 100% → none",
            "downgrade rules none → large → small from 90%",
            "clamp yes → no",
            "raised the limit by $5.00 until",
            "olga reset it",
            "a new project",
        ):
            assert sentence in shown
        assert "<script>alert" not in answer.content.decode()

    def test_its_windows_and_what_it_refused_are_one_tab_away(self, operator: Client) -> None:
        budget, now = factories.budget("2", clamp=False), timezone.now()
        by = factories.caller(agent="support")
        decision = ledger.reserve(factories.reserving("500", by=by), now=now)
        log = RefusalLog()
        log.note(NotedRefusal("r-1", by, "large", (), decision.reason.value, 402, now, decision=decision))
        log.flush()
        spend("0.50")
        assert "acme / support asked for large" in text(operator.get(f"{page_of(budget)}?tab=refusals"))
        assert "$0.50 of $2.00" in text(operator.get(f"{page_of(budget)}?tab=windows"))
        assert operator.get(f"{page_of(budget)}?tab=x").status_code == 200

    def test_its_calls_are_asked_for_by_its_scope(self, operator: Client) -> None:
        budget = factories.budget("2", scope_type="user", scope_key="a&b", window="day")
        spend("0.50", user="a&b")
        link = operator.get(page_of(budget)).context["read"]()["calls"]
        assert link.startswith("/admin/calls/?range=custom&from=")
        assert link.endswith("&tenant=acme&user=a%26b")

    def test_a_viewer_reads_the_policy_in_words(self, all_states: Any) -> None:
        answer = signed_in("viewer").get(page_of(all_states["degraded"]))
        assert "Soft cap 80%" in text(answer)
        assert "* → small" in text(answer)
        assert not re.search(r"(?<![.\d])\d{9}|name=\"limit\"|Raise or top up", answer.content.decode())

    def test_tenant_staff_reads_theirs_and_no_names_of_operators(self, all_states: Any) -> None:
        factories.budget("77", scope_type="platform")
        other = factories.budget("1", tenant=factories.tenant("globex"))
        client = signed_in("tenant staff", of=factories.tenant("acme"))
        budgets.change(budget=all_states["active"], changes={"limit_nanos": nanos("2")}, by=BY, now=timezone.now())
        shown = text(client.get(page_of(all_states["active"])))
        assert "an operator changed limit $1.00 → $2.00" in shown
        assert "olga" not in shown
        assert client.get(page_of(other), follow=True).redirect_chain

    def test_the_number_of_queries_is_bounded(self, operator: Client, django_assert_max_num_queries: Any) -> None:
        budget = factories.budget("100")
        for _ in range(30):
            spend("0.10")
        operator.get(page_of(budget))  # what a process keeps, as the models' catalogue, it has read
        for tab in ("changes", "windows", "refusals"):
            with django_assert_max_num_queries(20):
                operator.get(f"{page_of(budget)}?tab={tab}")


FORM = {
    "limit": "10",
    "soft_cap": "80",
    "hard_cap": "100",
    "warn_at": "",
    "alert_thresholds": "50, 90",
    "downgrade_rules-from": ["large, medium", "", "*"],
    "downgrade_rules-to": ["small", "", "tiny"],
    "downgrade_rules-at": ["", "", "97.5"],
    "disabled_tools": "",
    "clamp": "on",
    "clamp_min_tokens": "256",
    "enabled": "on",
}


class TestForm:
    def test_percent_are_kept_as_shares_and_rules_are_lines(self, operator: Client) -> None:
        budget = factories.budget("1")
        assert operator.post(page_of(budget), FORM).status_code == 302
        budget.refresh_from_db()
        assert (str(budget.soft_cap.normalize()), budget.hard_cap) == ("0.8", 1)
        assert budget.alert_thresholds == ["0.5", "0.9"]
        assert budget.downgrade_rules == [
            {"from": ["large", "medium"], "to": "small"},
            {"from": ["*"], "to": "tiny", "at": "0.975"},
        ]
        html = operator.get(page_of(budget)).content.decode()
        for name, value in (("soft_cap", "80"), ("alert_thresholds", "50, 90"), ("downgrade_rules-at", "97.5")):
            assert re.search(rf'name="{name}" value="{value}"', html)
        # What is shown is what is sent back: nothing is lost.
        assert operator.post(page_of(budget), FORM).status_code == 302
        assert Budget.objects.get().downgrade_rules == budget.downgrade_rules

    def test_thresholds_are_offered_and_not_lost(self, operator: Client) -> None:
        html = operator.get(f"{LIST}add/").content.decode()
        assert 'value="50, 75, 90, 100"' in html
        assert re.search(r'<option value="tenant" selected', html)
        assert re.search(r'<option value="month" selected', html)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"soft_cap": "0.8"}, "Type percent: 80 for 80%"),
            ({"hard_cap": "101"}, "at most 1"),
            ({"alert_thresholds": "often"}, "Type a percentage such as 80"),
            ({"downgrade_rules-to": ["", "", "tiny"]}, "must be such as"),
            ({"downgrade_rules-at": ["x", "", ""]}, "Type a percentage such as 80"),
            ({"soft_cap": "100"}, "must be below hard_cap"),
        ],
    )
    def test_what_is_wrong_is_said_at_its_field_and_what_was_typed_stays(
        self, operator: Client, change: dict[str, Any], says: str
    ) -> None:
        budget = factories.budget("1")
        answer = operator.post(page_of(budget), FORM | change)
        assert says in text(answer)
        assert 'value="tiny"' in answer.content.decode()
        budget.refresh_from_db()
        assert budget.limit_nanos == nanos("1")


class TestPreview:
    def preview(self, client: Client, budget: Budget, **change: Any) -> Any:
        return client.post(reverse("admin:governance_budget_preview", args=[budget.pk]), FORM | change)

    def test_it_says_what_the_typed_policy_would_have_done(self, operator: Client) -> None:
        budget = factories.budget("10", clamp=False)
        for _ in range(3):
            spend("1.00")
        shown = text(self.preview(operator, budget, limit="2", clamp="", **{"downgrade_rules-to": [], "soft_cap": ""}))
        assert "1 call refused, first" in shown
        assert "Of 3 calls as it is as typed refused 0 1" in shown
        assert "spent $3.00 $2.00" in shown
        # Nothing was written.
        budget.refresh_from_db()
        assert (budget.limit_nanos, SpendEntry.objects.count()) == (nanos("10"), 3)

    def test_where_nothing_would_change_it_says_so(self, operator: Client) -> None:
        budget = factories.budget("10")
        spend("1.00")
        assert "No call would have been refused or changed" in text(self.preview(operator, budget))

    def test_without_calls_and_with_a_wrong_form_there_is_none(self, operator: Client) -> None:
        budget = factories.budget("10")
        assert "There were no calls in the last 30 days" in text(self.preview(operator, budget))
        assert "No preview yet: Limit in dollars:" in text(self.preview(operator, budget, limit="x"))

    def test_it_is_for_whoever_may_change_the_budget(self) -> None:
        budget = factories.budget("10")
        assert self.preview(signed_in("viewer"), budget).status_code == 403
        assert self.preview(signed_in("tenant staff", of=budget.tenant), budget).status_code == 403
        operator = signed_in("operator")
        assert operator.get(reverse("admin:governance_budget_preview", args=[budget.pk])).status_code == 403
        assert operator.post(reverse("admin:governance_budget_preview", args=[999]), FORM).status_code == 404


class TestWhoseWindowIsReset:
    """Of a budget for each one: that of one alone, unless somebody says that it is everybody's."""

    @pytest.fixture
    def each(self) -> Budget:
        made = factories.budget("1", scope_type="user", scope_key="*")
        for user in ("alice", "bob"):
            spend("0.90", user=user)
        return made

    def reset(self, operator: Client, budget: Budget, subject: str) -> Any:
        form = {"_confirmed": "yes", "reason": "stuck", "subject": subject}
        return operator.post(reverse("admin:governance_budget_reset_one", args=[budget.pk]), form)

    def spent(self, budget: Budget) -> dict[str, int]:
        return dict(budget.windows.filter(closed_at=None).values_list("subject", "settled_nanos"))

    def test_the_page_proposes_whom_it_was_opened_for(self, operator: Client, each: Budget) -> None:
        path = reverse("admin:governance_budget_reset_one", args=[each.pk])
        assert operator.get(path, {"subject": "alice"}).context["form"]["subject"].value() == "alice"
        page = operator.get(path)
        assert page.context["form"]["subject"].value() == ""
        assert "Everybody&#x27;s: 2 open now" in page.content.decode()

    def test_one_window_alone(self, operator: Client, each: Budget) -> None:
        assert self.reset(operator, each, "alice").status_code == 302
        assert self.spent(each) == {"alice": 0, "bob": nanos("0.90")}
        assert "reset it for alice" in text(operator.get(page_of(each)))

    def test_everybodys(self, operator: Client, each: Budget) -> None:
        self.reset(operator, each, "")
        assert self.spent(each) == {"alice": 0, "bob": 0}

    def test_nobodys_where_there_is_no_such_window(self, operator: Client, each: Budget) -> None:
        assert self.reset(operator, each, "carol").status_code == 200
        with pytest.raises(FieldError, match="no open window"):
            budgets.reset(budget=each, subject="carol", reason="stuck", by=BY, now=timezone.now())
        assert self.spent(each) == {"alice": nanos("0.90"), "bob": nanos("0.90")}

    def test_of_several_budgets_the_page_says_that_it_is_everybodys(self, operator: Client, each: Budget) -> None:
        chosen = {"action": "reset_selected", "_selected_action": [str(each.pk)]}
        assert "of a budget for each one that of everybody" in text(operator.post(LIST, chosen))

    def test_a_raise_is_for_all_so_not_for_one(self, operator: Client, each: Budget) -> None:
        path = reverse("admin:governance_budget_allow_one", args=[each.pk])
        assert operator.get(path, {"subject": "alice"}).context["form"]["subject"].value() == "alice"
        form = {"amount": "5", "reason": "fair", "subject": "alice", "until_0": "2099-01-01", "until_1": "12:00"}
        assert "Every window of the budget would have more" in text(operator.post(path, form))
        operator.post(path, form | {"until_0": "", "until_1": ""})
        assert dict(each.windows.values_list("subject", "limit_nanos")) == {"alice": nanos("6"), "bob": nanos("1")}


@pytest.mark.parametrize(
    ("field", "typed"),
    [
        ("limit", "99999999999999999999"),
        ("limit", "0.00000000001"),
        ("soft_cap", "33.33333"),
        ("hard_cap", "0"),
        ("hard_cap", "1e20"),
        ("alert_thresholds", "33.33333"),
        ("clamp_min_tokens", "-1"),
    ],
)
def test_what_is_wrong_is_said_without_words_of_a_program(operator: Client, field: str, typed: str) -> None:
    form = {"limit": "1", "hard_cap": "100", "enabled": "on", "clamp_min_tokens": "16"} | {field: typed}
    answer = operator.post(page_of(factories.budget("1")), form)
    error = str(answer.context["adminform"].form.errors[field])
    assert not re.search(r"Decimal|None|True|False|\[&#x27;", error), error


class TestClosingAGoal:
    @pytest.fixture
    def goal(self) -> Budget:
        return factories.budget("1", scope_type="task", scope_key="report", window="lifetime")

    def test_it_asks_for_a_reason_and_is_told_on_the_page(self, operator: Client, goal: Budget) -> None:
        spend("0.40", task="report")
        address = f"{LIST}{goal.pk}/close/"
        assert "Calls of this task are refused from now on" in text(operator.get(address))
        operator.post(address, {"reason": " ", "_confirmed": "yes"})
        goal.refresh_from_db()
        assert goal.closed_at is None
        done = operator.post(address, {"reason": "the report is sent", "_confirmed": "yes"}, follow=True)
        shown = text(done)
        assert "its calls are refused" in shown
        assert "closed it" in shown
        assert "the report is sent" in shown
        goal.refresh_from_db()
        assert goal.closed_at is not None
        assert "close_one" not in done.content.decode()

    def test_of_other_budgets_it_is_not_offered(self, operator: Client, goal: Budget) -> None:
        other = factories.budget("1", scope_type="task", scope_key="report")
        assert f"{goal.pk}/close/" in operator.get(page_of(goal)).content.decode()
        assert f"{other.pk}/close/" not in operator.get(page_of(other)).content.decode()

    def test_who_may_not_change_budgets_closes_none(self, goal: Budget) -> None:
        signed_in("viewer").post(f"{LIST}{goal.pk}/close/", {"reason": "x", "_confirmed": "yes"})
        goal.refresh_from_db()
        assert goal.closed_at is None


class TestCarriedOver:
    def test_it_is_typed_shown_apart_and_told(self, operator: Client) -> None:
        budget = factories.budget("10", carry_over="50%")
        yesterday = timezone.now() - timedelta(days=1)
        with time_machine.travel(yesterday, tick=False):
            ledger.record(factories.reporting("7"), now=yesterday)
        spend("1")
        shown = text(operator.get(page_of(budget)))
        assert "$10.00 + $3.00 left of the last window" in shown
        assert "+ $3.00 carried over" in text(operator.get(LIST))
        budgets.change(budget=budget, changes={"carry_over": "2.5"}, by=BY, now=timezone.now())
        assert "changed carried over at most 50% → at most $2.50" in text(operator.get(page_of(budget)))
        viewer = text(signed_in("viewer").get(page_of(budget)))
        assert "Carried over at most $2.50" in viewer
