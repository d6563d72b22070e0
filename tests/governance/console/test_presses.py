"""What is pressed twice in the console is done once."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from governance import audit, ledger
from governance.actions import allowances, budgets
from governance.audit import Actor, DoneBefore, Press
from governance.console.presses import DONE_ALREADY
from governance.models import Agent, Allowance, ApiKey, AuditEntry, Budget, BudgetWindow, EmergencyStop
from tests import factories
from tests.factories import nanos

pytestmark = pytest.mark.django_db

REASON = {"_confirmed": "yes", "reason": "somebody asked for it"}
RAISE = {"amount": "5", "until_0": "2099-01-01", "until_1": "12:00", "reason": "by Friday"}
# Forms for what is there already, which test_opened tries; those that a code is good for once.
OTHERS = {"budget", "customer", "plan", "account", "model"} | {"own_password", "second_factor", "sign_in_code"}
# What changes nothing here, or what a second press finds done.
OTHERS |= {"first_steps", "story", "stripe_setup", "stripe_steps", "playground", "providers", "offers", "saved_views"}
OTHERS |= {"settings", "tools"}


@pytest.fixture
def operator() -> Client:
    client = Client()
    client.force_login(factories.person("olga", "operator"))
    return client


@pytest.fixture
def budget() -> Budget:
    made = factories.budget("1")
    ledger.record(factories.reporting("0.99"), now=timezone.now())
    return made


def act_on(row: Any, act: str) -> str:
    return reverse(f"admin:governance_{row._meta.model_name}_{act}_one", args=[row.pk])


def filled(client: Client, path: str, fields: dict[str, str]) -> dict[str, str]:
    """A page's form, with its token."""
    token = re.search(r'name="_press" value="([^"]+)"', client.get(path).content.decode())
    assert token is not None
    return fields | {"_press": token[1]}


def said(client: Client, path: str, form: dict[str, str]) -> str:
    answer = client.post(path, form, follow=True)
    return " ".join(str(message) for message in answer.context["messages"])


def test_a_raise_that_is_posted_twice_raises_once(operator: Client, budget: Budget) -> None:
    path = act_on(budget, "allow")
    form = filled(operator, path, RAISE)
    first, second = operator.post(path, form), operator.post(path, form)
    assert (first.status_code, second.status_code) == (302, 302)
    assert first["location"] == second["location"]
    assert DONE_ALREADY in said(operator, path, form)
    assert Allowance.objects.get().amount_nanos == nanos("5")


def test_a_raise_on_a_form_of_its_own_is_another(operator: Client, budget: Budget) -> None:
    path = act_on(budget, "allow")
    for _ in range(2):
        operator.post(path, filled(operator, path, RAISE))
    assert Allowance.objects.count() == 2
    # Whoever opens it sees what was given before.
    assert operator.get(path).content.decode().count("by Friday") == 2


def test_what_was_refused_can_be_pressed_again(operator: Client, budget: Budget) -> None:
    path = act_on(budget, "allow")
    form = filled(operator, path, RAISE)
    refused = operator.post(path, form | {"until_0": "2020-01-01"})
    assert refused.status_code == 200
    assert form["_press"] in refused.content.decode()
    operator.post(path, form)
    assert Allowance.objects.count() == 1


def test_a_reset_that_is_posted_twice_closes_one_window(operator: Client, budget: Budget) -> None:
    path = act_on(budget, "reset")
    form = filled(operator, path, REASON)
    operator.post(path, form)
    ledger.record(factories.reporting("0.90"), now=timezone.now())
    assert DONE_ALREADY in said(operator, path, form)
    assert list(BudgetWindow.objects.order_by("id").values_list("settled_nanos", flat=True)) == [
        nanos("0.99"),
        nanos("0.90"),
    ]


def test_of_several_each_is_done_once(operator: Client, budget: Budget) -> None:
    """Also where the first press did some of them, and was cut off."""
    other = factories.budget("1", window="month")
    ledger.record(factories.reporting("0.01"), now=timezone.now())
    rows = {"action": "reset_selected", "_selected_action": [str(budget.pk), str(other.pk)]}
    path = reverse("admin:governance_budget_changelist")
    page = operator.post(path, rows).content.decode()
    token = re.search(r'name="_press" value="([^"]+)"', page)
    assert token is not None
    form = {**rows, **REASON, "_press": token[1]}
    operator.post(path, form | {"_selected_action": [str(budget.pk)]})
    text = said(operator, path, form)
    assert f"{budget}: {DONE_ALREADY}" in text
    assert "Reset: 1 of them." in text
    assert [BudgetWindow.objects.filter(budget=each).count() for each in (budget, other)] == [2, 2]


@pytest.mark.parametrize("act", ["issue", "rotate"])
def test_a_key_is_made_once_and_whoever_pressed_twice_is_told(operator: Client, act: str) -> None:
    _, key = factories.key()
    path, form = act_on(key, "rotate"), REASON
    if act == "issue":
        path, form = reverse("admin:governance_apikey_add"), {"role": "viewer", "name": "for a graph"}
    form = filled(operator, path, form)
    assert operator.post(path, form).status_code == 200
    assert "was shown by the first press" in said(operator, path, form)
    assert ApiKey.objects.count() == 2


def test_a_stop_and_its_lifting(operator: Client) -> None:
    factories.agent()
    path = reverse("admin:governance_emergencystop_add")
    form = filled(operator, path, {"tenant": "", "agent": "", "reason": "a loop"})
    operator.post(path, form)
    stop = EmergencyStop.objects.get()
    lift = act_on(stop, "lift")
    pressed = filled(operator, lift, REASON)
    operator.post(lift, pressed)
    assert DONE_ALREADY in said(operator, lift, pressed)
    # The browser's way back to the form that stopped everything stops nothing again.
    assert DONE_ALREADY in said(operator, path, form)
    assert EmergencyStop.objects.get().lifted_at is not None


def test_a_pause_that_came_again_after_a_resume_pauses_nothing(operator: Client) -> None:
    agent = factories.agent()
    pause, resume = act_on(agent, "pause"), act_on(agent, "resume")
    form = filled(operator, pause, REASON)
    operator.post(pause, form)
    operator.post(resume, filled(operator, resume, REASON))
    operator.post(pause, form)
    assert Agent.objects.get().status == "active"


class TestOneMoment:
    """Both presses looked before either had done it: the act's own transaction settles which one did."""

    def top_up(self, budget: Budget, press: Press) -> None:
        by = Actor("olga", press=press)
        allowances.top_up(budget=budget, amount_nanos=nanos("5"), reason="fair", by=by, now=timezone.now())

    def test_what_comes_second_is_undone(self, budget: Budget) -> None:
        self.top_up(budget, Press("token"))
        with pytest.raises(DoneBefore):
            self.top_up(budget, Press("token"))
        assert Allowance.objects.count() == AuditEntry.objects.filter(action="budget.top_up").count() == 1
        assert BudgetWindow.objects.get().limit_nanos == nanos("6")

    def test_also_where_it_had_looked_before_the_first_was_kept(
        self, budget: Budget, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def after_the_first() -> Any:
            first = {"actor": "olga", "action": "x", "target": "x", "once": Press("token").once}
            AuditEntry.objects.create(occurred_at=timezone.now(), **first)
            return transaction.atomic()

        monkeypatch.setattr(audit, "transaction", SimpleNamespace(atomic=after_the_first))
        with pytest.raises(DoneBefore):
            self.top_up(budget, Press("token"))
        assert not Allowance.objects.exists()

    def test_an_act_of_several_audit_rows_is_one(self, budget: Budget) -> None:
        press = Press("token")
        for limit in ("2", "3"):
            by = Actor("olga", press=press)
            budgets.change(budget=budget, changes={"limit_nanos": nanos(limit)}, by=by, now=timezone.now())
        assert Budget.objects.get().limit_nanos == nanos("3")

    def test_of_several_things_each_is_another(self, budget: Budget) -> None:
        self.top_up(budget, Press("token", part="1"))
        self.top_up(budget, Press("token", part="2"))
        assert Allowance.objects.count() == 2


def test_every_form_that_acts_has_a_token() -> None:
    folder = Path(str(settings.TEMPLATES[0]["DIRS"][0]), "console")
    pages = {page.stem: page.read_text() for page in folder.glob("*.html")}
    forms = {name for name, text in pages.items() if 'method="post"' in text}
    assert forms - OTHERS
    assert [name for name in forms - OTHERS if "console/once.html" not in pages[name]] == []
