"""Customers about whom somebody has to decide, in the console: what is proposed, and what comes of it."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from billing.accounts import binding
from billing.console import account_page
from billing.models import BillingAccount
from governance.audit import Actor
from governance.models import AuditEntry, Tenant
from tests import confirmed, factories
from tests.billing.conftest import Deliver, window_of
from tests.billing.events import START, invoice_paid, subscription_created

pytestmark = pytest.mark.django_db
PAGE = "/admin/unbound/"
HOSTILE = "<b>\u202eevil"


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(factories.person("bea", "billing"))
    return client


def pays(deliver: Deliver, customer: str, *, names: str = "", **said: Any) -> BillingAccount:
    """A customer whose subscription is paid; `names`: the tenant in its metadata."""
    ids = {"customer": customer, "subscription": f"sub_{customer}"}
    metadata = {"tenant_id": names} if names else {}
    deliver(subscription_created(**ids, metadata=metadata), invoice_paid(**ids, **said))
    return BillingAccount.objects.get(stripe_customer_id=customer)


def proposed(staff: Client) -> dict[str, Any]:
    return {str(row.account): row for row in staff.get(PAGE).context["rows"]}


def act(account: BillingAccount, name: str) -> str:
    return f"/admin/billing/billingaccount/{account.pk}/{name}/"


def test_one_whose_tenant_has_budgets_is_bound_by_a_word(staff: Client, tenant: Tenant, deliver: Deliver) -> None:
    factories.budget("12", tenant=tenant, scope_type="tenant", scope_key="acme")
    account = pays(deliver, "cus_acme", names="acme", customer_name="Acme", customer_email="a@acme.example")
    row = proposed(staff)["cus_acme"]
    assert row.sentence == "Stripe names acme, which has budgets of its own."
    assert (row.proposal, row.who) == ("acme", "Acme · a@acme.example")
    asked = staff.get(row.accept_link).content.decode()
    assert "acme can spend $50.00" in asked
    assert "$12.00 per" in asked
    answer = confirmed.press(staff, row.accept_link).content.decode()
    assert "cus_acme pays for acme." in answer
    assert window_of().limit_nanos == factories.nanos("50")
    assert proposed(staff) == {}
    assert AuditEntry.objects.get(action="billing.bind").actor == "bea"
    assert (
        account.stripe_customer_id in staff.get(f"/admin/billing/billingaccount/{account.pk}/change/").content.decode()
    )


def test_a_claim_is_refused_and_waits_no_more_for_that(staff: Client, tenant: Tenant, deliver: Deliver) -> None:
    factories.budget("12", tenant=tenant, scope_type="tenant", scope_key="acme")
    account = pays(deliver, "cus_acme", names="acme")
    assert "is not bound to it" in staff.get(act(account, "dismiss")).content.decode()
    confirmed.press(staff, act(account, "dismiss"))
    account.refresh_from_db()
    assert (account.tenant, account.decided_claims) == (None, ["acme"])
    row = proposed(staff)["cus_acme"]
    assert (row.sentence, row.dismiss_link) == ("Nothing names a customer of yours.", "")


def test_one_that_names_nobody_is_proposed_for_whom_it_is_like(staff: Client, tenant: Tenant, deliver: Deliver) -> None:
    factories.tenant("globex")
    pays(deliver, "cus_1", customer_name="Globex", customer_email="pay@mail.example")
    pays(deliver, "cus_2", customer_name=HOSTILE, customer_email="pay@acme.example")
    pays(deliver, "cus_3", customer_name="Nobody We Know")
    rows = proposed(staff)
    assert {id: row.proposal for id, row in rows.items()} == {"cus_1": "globex", "cus_2": "acme", "cus_3": ""}
    assert "is like acme's" in rows["cus_2"].sentence
    assert rows["cus_3"].accept_link == ""
    page = staff.get(PAGE).content.decode()
    assert "&lt;b&gt;" in page
    confirmed.press(staff, rows["cus_1"].accept_link)
    assert BillingAccount.objects.get(stripe_customer_id="cus_1").tenant == Tenant.objects.get(slug="globex")
    nobody = BillingAccount.objects.get(stripe_customer_id="cus_3")
    assert "choose whom it pays for" in staff.get(act(nobody, "accept"), follow=True).content.decode()


def test_what_is_unknown_or_taken_says_what_to_do(staff: Client, tenant: Tenant, deliver: Deliver) -> None:
    pays(deliver, "cus_acme", names="acme")
    taken = pays(deliver, "cus_second", names="acme")
    pays(deliver, "cus_new", names="initech")
    rows = proposed(staff)
    assert set(rows) == {"cus_second", "cus_new"}
    assert rows["cus_second"].sentence == "Stripe names acme, which cus_acme pays for already."
    assert (rows["cus_second"].accept_link, rows["cus_new"].create_link) == ("", "")
    assert "cus_acme already; unbind" in confirmed.press(staff, act(taken, "accept")).content.decode()
    staff.force_login(factories.person("olga", "owner"))
    assert proposed(staff)["cus_new"].create_link.endswith("slug=initech")


def test_who_reads_only_decides_nothing_and_a_tenants_staff_sees_nothing(
    client: Client, tenant: Tenant, deliver: Deliver
) -> None:
    account = pays(deliver, "cus_1", customer_name="Acme")
    client.force_login(factories.person("vera", "viewer"))
    assert "Bind to" not in client.get(PAGE).content.decode()
    for name in ("accept", "dismiss", "read"):
        assert client.post(act(account, name)).status_code == 403
    client.force_login(factories.person("ted", "tenant staff", of=tenant))
    assert client.get(PAGE).status_code == 403


def test_as_many_queries_however_many_wait(
    staff: Client, tenant: Tenant, deliver: Deliver, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    assert "Nobody waits" in staff.get(PAGE).content.decode()
    for number in range(8):
        pays(deliver, f"cus_{number}", names=f"t{number}")
    with django_assert_max_num_queries(18):
        assert len(proposed(staff)) == 8


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("owed:12.00", "$12.00 was used beyond what was paid for, and is less to spend until it is paid."),
        ("unknown_tenant:x", "It names x, which does not exist here."),
        ("new_code:1", "new code:1"),
    ],
)
def test_reasons_are_sentences(code: str, words: str) -> None:
    assert account_page.sentence(code) == words


class TestWhatAPageNamed:
    """Nothing else is done than what whoever pressed its button had read."""

    @pytest.fixture
    def account(self, tenant: Tenant) -> BillingAccount:
        factories.tenant("globex")
        return BillingAccount.objects.create(stripe_customer_id="cus_1", claimed_tenant="acme")

    def change(self, account: BillingAccount, **fields: Any) -> None:
        BillingAccount.objects.filter(pk=account.pk).update(**fields)

    @pytest.mark.parametrize("name", ["accept", "dismiss"])
    def test_is_asked_for_anew_where_the_payer_names_another_since(
        self, staff: Client, account: BillingAccount, name: str
    ) -> None:
        form = confirmed.read(staff, act(account, name))
        self.change(account, claimed_tenant="globex")
        answer = staff.post(act(account, name), form).content.decode()
        assert "has changed since you opened it" in answer
        assert "globex" in answer
        account.refresh_from_db()
        assert (account.tenant, account.decided_claims) == (None, [])

    @pytest.mark.parametrize("action", ["accept_claim", "dismiss_claim"])
    def test_also_of_several(self, staff: Client, account: BillingAccount, action: str) -> None:
        path = reverse("admin:billing_billingaccount_changelist")
        chosen = {"action": action, "_selected_action": [account.pk]}
        form = confirmed.read(staff, path, chosen)
        self.change(account, claimed_tenant="globex")
        assert "has changed since you opened it" in staff.post(path, form).content.decode()
        confirmed.press(staff, path, chosen)
        account.refresh_from_db()
        assert account.decided_claims == ["globex"]
        assert (account.tenant is not None) == (action == "accept_claim")

    def test_does_not_undo_what_another_has_bound(self, staff: Client, account: BillingAccount) -> None:
        path = f"{act(account, 'accept')}?tenant=globex"
        form = confirmed.read(staff, path)
        confirmed.press(staff, act(account, "accept"))
        assert "acme has nothing of it any more" in staff.post(path, form).content.decode()
        account.refresh_from_db()
        assert str(account.tenant) == "acme"

    def test_nor_at_the_same_moment(self, account: BillingAccount) -> None:
        read = BillingAccount.objects.get()
        self.change(account, tenant=Tenant.objects.get(slug="globex"))
        for decide in (partial(binding.bind, tenant=Tenant.objects.get(slug="acme")), binding.dismiss):
            with pytest.raises(binding.BindingError, match="than a moment ago"):
                decide(account=read, by=Actor("ann"), now=START)

    def test_is_an_error_where_nobody_has_that_name(self, staff: Client, account: BillingAccount) -> None:
        path = f"{act(account, 'accept')}?tenant=nosuch"
        for answer in (staff.get(path, follow=True), staff.post(path, follow=True)):
            assert "There is no customer" in answer.content.decode()
        account.refresh_from_db()
        assert account.tenant is None

    def test_a_post_that_says_nothing_is_asked(self, staff: Client, account: BillingAccount) -> None:
        for name in ("accept", "dismiss", "read"):
            assert staff.post(act(account, name)).status_code == 200
        account.refresh_from_db()
        assert (account.tenant, account.decided_claims) == (None, [])
