"""Whose word binds a tenant: signed webhooks, as Stripe sends them, with what strangers can write into them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from billing.accounts import references, sync
from billing.inbox import envelope, store
from billing.models import BillingAccount
from governance.models import Alert, AuditEntry, Budget, Tenant
from tests import confirmed, factories
from tests.billing.conftest import window_of
from tests.billing.events import (
    DAY,
    START,
    checkout_completed,
    event,
    invoice,
    invoice_paid,
    standard_plans,
    subscription_created,
    subscription_deleted,
    subscription_updated,
)

pytestmark = pytest.mark.django_db
STANDARD = factories.nanos("50")
LATER = START + DAY
Event = dict[str, Any]
Hook = Callable[..., None]


@pytest.fixture
def hook(post: Callable[..., Any], dispatched: list[str]) -> Hook:
    """Post each event to the webhook and have a worker handle it."""

    def run(*events: Event, now: datetime = START) -> None:
        for one in events:
            assert post(one).status_code == 200
            store.process(one["id"], now=now)

    return run


@pytest.fixture
def console(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("ann"))
    return client


def account(customer: str = "cus_acme") -> BillingAccount:
    return BillingAccount.objects.get(stripe_customer_id=customer)


def owner_of(customer: str) -> str | None:
    tenant = account(customer).tenant
    return tenant.slug if tenant else None


def status_of(slug: str = "acme") -> str:
    return Tenant.objects.get(slug=slug).status


def subscribed(
    customer: str = "cus_acme", *, at: datetime = START, metadata: dict[str, str] | None = None
) -> list[Event]:
    """A paid subscription of a customer."""
    fields: dict[str, Any] = {
        "customer": customer,
        "subscription": f"sub_{customer}",
        "period_start": at,
        "period_end": at + 30 * DAY,
    }
    return [subscription_created(created=at, metadata=metadata, **fields), invoice_paid(created=at, **fields)]


def cancelled(customer: str = "cus_acme", *, at: datetime = LATER, **fields: Any) -> Event:
    return subscription_deleted(customer=customer, subscription=f"sub_{customer}", created=at, **fields)


def session(reference: Any, customer: str = "cus_stranger", **fields: Any) -> Event:
    """A checkout of a payment link whose address carries this `client_reference_id`."""
    return checkout_completed(customer=customer, **{"client_reference_id": reference, **fields})


def said(console: Client, path: str) -> str:
    return console.get(path).content.decode()


def decide(console: Client, act: str, customer: str = "cus_stranger") -> None:
    form = {"action": act, "_selected_action": [account(customer).pk]}
    assert confirmed.press(console, "/admin/billing/billingaccount/", form).status_code == 200


class TestAStranger:
    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_who_names_a_tenant_in_a_payment_links_address_has_nothing_of_it(
        self, tenant: Tenant, hook: Hook, order: tuple[int, ...]
    ) -> None:
        stream = [session("acme"), *subscribed("cus_stranger")]
        hook(*(stream[place] for place in order))
        hook(cancelled("cus_stranger"), now=LATER)
        assert (owner_of("cus_stranger"), status_of()) == (None, "active")
        assert not Budget.objects.filter(tenant=tenant).exists()

    @pytest.mark.parametrize(
        "written",
        [
            {"client_reference_id": " acme "},
            {"client_reference_id": "ACME"},
            {"client_reference_id": "ａｃｍｅ"},
            {"client_reference_id": "acme\u200b"},
            {"client_reference_id": "acme-99999999999-" + "A" * 43},
            {"client_reference_id": None, "customer_details": {"name": "acme", "email": "owner@acme.test"}},
            {"client_reference_id": None, "customer_email": "acme"},
            {"client_reference_id": None, "custom_fields": [{"key": "tenant_id", "text": {"value": "acme"}}]},
            {"client_reference_id": {"tenant_id": "acme"}},
            {"client_reference_id": "acme", "payment_link": None},
            {"client_reference_id": "acme", "mode": "payment", "payment_intent": "pi_1"},
            {"client_reference_id": "acme", "mode": "setup"},
        ],
    )
    def test_whatever_a_payer_writes_binds_nobody(
        self, tenant: Tenant, hook: Hook, settings: Any, written: Any
    ) -> None:
        settings.STRIPE_CREATE_TENANTS = True
        hook(session(**{"reference": None, **written}), *subscribed("cus_stranger"))
        assert owner_of("cus_stranger") is None
        assert list(Tenant.objects.values_list("slug", flat=True)) == ["acme"]

    @pytest.mark.parametrize("kind", ["charge", "payment_method", "refund"])
    def test_metadata_counts_of_what_the_business_alone_writes(self, tenant: Tenant, hook: Hook, kind: str) -> None:
        data = {"id": "x_1", "object": kind, "customer": "cus_stranger", "metadata": {"tenant_id": "acme"}}
        hook(event("charge.refunded", data))
        assert owner_of("cus_stranger") is None

    @pytest.mark.parametrize("first", ["stranger", "customer"])
    def test_stands_in_no_customers_way(self, tenant: Tenant, hook: Hook, first: str) -> None:
        theirs, ours = [session("acme"), *subscribed("cus_stranger")], [checkout_completed(), *subscribed()]
        hook(*(theirs + ours if first == "stranger" else ours + theirs))
        hook(cancelled("cus_stranger"), now=LATER)
        assert (owner_of("cus_acme"), owner_of("cus_stranger"), status_of()) == ("acme", None, "active")
        assert window_of().limit_nanos == STANDARD

    def test_is_shown_to_operators_while_it_pays(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        assert account("cus_stranger").reasons == ["unproven_claim:acme"]
        assert Alert.objects.filter(kind="unproven_claim", cleared_at=None).count() == 1
        assert "Whoever paid named acme, and nothing of yours did." in said(console, "/admin/billing/billingaccount/")
        assert "Whoever paid typed acme, and nothing of yours says so." in said(console, "/admin/unbound/")
        hook(cancelled("cus_stranger"), now=LATER)
        assert not Alert.objects.filter(kind="unproven_claim", cleared_at=None).exists()

    def test_whose_reference_names_nothing_of_ours_is_no_alert(self, tenant: Tenant, hook: Hook) -> None:
        hook(session("order-4711"), *subscribed("cus_stranger"))
        assert account("cus_stranger").reasons == ["unbound"]

    def test_does_not_replace_what_the_business_says(self, db: None, hook: Hook) -> None:
        standard_plans()
        hook(checkout_completed(tenant="late"), *subscribed(), session("other", customer="cus_acme"))
        for slug in ("other", "late"):
            factories.tenant(slug)
        sync.due(now=START)
        assert owner_of("cus_acme") == "late"

    def test_costs_beat_nothing(self, tenant: Tenant, hook: Hook) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        assert sync.due(now=START) == 0


class TestAReference:
    def test_of_ours_binds_the_tenant(self, tenant: Tenant, hook: Hook) -> None:
        hook(session(references.make(tenant="acme", now=START).text, "cus_acme"), *subscribed())
        assert (owner_of("cus_acme"), window_of().limit_nanos) == ("acme", STANDARD)

    def test_passes_stripe(self) -> None:
        """What has other characters, or too many, Stripe drops without a word."""
        text = references.make(tenant="a" * 50, now=START).text
        assert len(text) <= 200
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda text: text.replace("acme", "globex"),
            lambda text: text.replace("acme", "ACME"),
            lambda text: text[:-1],
            lambda text: text + "x",
            lambda text: text.replace(text.split("-")[1], "99999999999"),
        ],
    )
    def test_that_was_changed_is_a_payers_word(self, tenant: Tenant, hook: Hook, spoil: Callable[[str], str]) -> None:
        factories.tenant("globex")
        hook(session(spoil(references.make(tenant="acme", now=START).text)), *subscribed("cus_stranger"))
        assert owner_of("cus_stranger") is None

    @pytest.mark.parametrize(("begun", "bound"), [(-1, "acme"), (0, None)])
    def test_counts_for_a_checkout_that_began_in_time(
        self, tenant: Tenant, hook: Hook, begun: int, bound: str | None
    ) -> None:
        made = references.make(tenant="acme", now=START)
        hook(
            checkout_completed(
                customer="cus_stranger",
                created=made.expires_at + begun * DAY,
                client_reference_id=made.text,
            ),
            now=made.expires_at + 9 * DAY,
        )
        assert owner_of("cus_stranger") == bound

    def test_is_spent_by_who_pays_first(self, tenant: Tenant, hook: Hook) -> None:
        made = references.make(tenant="acme", now=START).text
        hook(session(made, customer="cus_acme"), *subscribed())
        hook(session(made), *subscribed("cus_stranger"))
        assert account("cus_stranger").reasons == ["tenant_taken:acme"]
        hook(cancelled(), *subscribed("cus_stranger", at=LATER), session(made, created=LATER), now=LATER)
        sync.due(now=LATER)
        assert (owner_of("cus_acme"), owner_of("cus_stranger")) == ("acme", None)
        assert account("cus_stranger").reasons == ["unproven_claim:acme"]

    def test_for_a_tenant_that_is_not_there_waits_for_it(self, db: None, hook: Hook) -> None:
        standard_plans()
        hook(checkout_completed(), *subscribed())
        assert account().reasons == ["unknown_tenant:acme"]
        factories.tenant("acme")
        sync.due(now=START)
        assert owner_of("cus_acme") == "acme"

    def test_is_made_over_the_api_by_operators(self, tenant: Tenant, client: Client, hook: Hook) -> None:
        body = {"tenant": "acme", "payment_link": "https://buy.stripe.com/x?client_reference_id=mine&locale=de"}
        viewer, operator = (
            {"Authorization": f"Bearer {factories.key(role=role)[0]}"} for role in ("viewer", "operator")
        )
        path = "/api/billing/references"
        assert client.post(path, body, "application/json", headers=viewer).status_code == 403
        made = client.post(path, body, "application/json", headers=operator)
        assert made.status_code == 201, made.content
        reference = made.json()["reference"]
        assert made.json()["url"] == f"https://buy.stripe.com/x?locale=de&client_reference_id={reference}"
        assert AuditEntry.objects.filter(action="billing.refer", target="tenant acme").count() == 1
        for wrong in ({"tenant": "nobody"}, {"tenant": "acme", "payment_link": "http://x"}, {}):
            assert client.post(path, wrong, "application/json", headers=operator).status_code == 400
        hook(session(reference, customer="cus_acme"))
        assert owner_of("cus_acme") == "acme"

    def test_is_made_by_a_command(self, tenant: Tenant, capsys: Any) -> None:
        call_command("stripe_reference", "acme", "--json")
        made = json.loads(capsys.readouterr().out)
        assert (made["tenant"], made["url"]) == ("acme", None)
        assert made["reference"].startswith("acme-")
        call_command("stripe_reference", "acme", "--link", "https://buy.stripe.com/x")
        assert capsys.readouterr().out.startswith("https://buy.stripe.com/x?client_reference_id=acme-")
        with pytest.raises(CommandError, match="nobody"):
            call_command("stripe_reference", "nobody")


class TestTheBusiness:
    @pytest.mark.parametrize("place", ["session", "customer", "subscription", "invoice"])
    def test_binds_by_metadata_that_it_alone_writes(self, tenant: Tenant, hook: Hook, place: str) -> None:
        named = {"tenant_id": "acme"}
        one = {
            "session": session("globex", customer="cus_acme", metadata=named),
            "customer": event("customer.updated", {"id": "cus_acme", "object": "customer", "metadata": named}),
            "subscription": subscription_updated(metadata=named),
            "invoice": event("invoice.paid", invoice(tenant="acme")),
        }[place]
        hook(one)
        assert owner_of("cus_acme") == "acme"

    def test_makes_no_tenant_that_reads_like_another(self, tenant: Tenant, hook: Hook, settings: Any) -> None:
        settings.STRIPE_CREATE_TENANTS = True
        hook(*subscribed(metadata={"tenant_id": "Acme"}))
        assert account().reasons == ["unknown_tenant:Acme"]

    def test_that_names_another_tenant_later_moves_nobody(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        factories.tenant("globex")
        hook(*subscribed(metadata={"tenant_id": "acme"}))
        renamed = subscription_updated(subscription="sub_cus_acme", metadata={"tenant_id": "globex"}, created=LATER)
        hook(renamed, now=LATER)
        assert (owner_of("cus_acme"), account().reasons) == ("acme", ["names_another_tenant:globex"])
        assert Alert.objects.filter(kind="names_another_tenant", cleared_at=None).exists()
        decide(console, "dismiss_claim", "cus_acme")
        hook({**renamed, "id": "evt_again"}, now=LATER)
        assert (owner_of("cus_acme"), account().reasons) == ("acme", [])

    def test_moves_a_customer_by_an_operators_word(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        factories.tenant("globex")
        hook(*subscribed(metadata={"tenant_id": "acme"}))
        hook(subscription_updated(subscription="sub_cus_acme", metadata={"tenant_id": "globex"}))
        decide(console, "accept_claim", "cus_acme")
        hook({**subscribed(metadata={"tenant_id": "acme"})[0], "id": "evt_old"})
        assert owner_of("cus_acme") == "globex"


class TestATenantWithBudgetsOfItsOwn:
    @pytest.fixture
    def own(self, tenant: Tenant) -> Budget:
        return factories.budget("500", window="month", tenant=tenant)

    @pytest.mark.parametrize("by", ["reference", "metadata"])
    def test_is_bound_by_an_operator_alone(
        self, tenant: Tenant, own: Budget, hook: Hook, console: Client, by: str
    ) -> None:
        if by == "reference":
            hook(checkout_completed(customer="cus_stranger"), *subscribed("cus_stranger"))
        else:
            hook(*subscribed("cus_stranger", metadata={"tenant_id": "acme"}))
        assert account("cus_stranger").reasons == ["tenant_has_budgets:acme"]
        assert (owner_of("cus_stranger"), sync.due(now=START)) == (None, 0)
        assert list(Budget.objects.filter(tenant=tenant)) == [own]
        decide(console, "accept_claim")
        assert (owner_of("cus_stranger"), window_of().limit_nanos) == ("acme", STANDARD)

    def test_may_buy_a_top_up_and_is_lowered_by_no_subscription_of_its_payer(
        self, tenant: Tenant, own: Budget, hook: Hook, console: Client
    ) -> None:
        hook(session(None, customer="cus_acme", mode="payment", metadata={"tenant_id": "acme"}))
        assert (owner_of("cus_acme"), account().reasons) == ("acme", [])
        hook(*subscribed())
        assert account().reasons == ["tenant_has_budgets:acme"]
        hook(cancelled(), now=LATER)
        assert status_of() == "active"
        assert list(Budget.objects.filter(tenant=tenant)) == [own]

    def test_given_after_it_was_bound_stays_bound(self, tenant: Tenant, hook: Hook) -> None:
        hook(checkout_completed(), *subscribed())
        factories.budget("500", window="month", tenant=tenant)
        hook(cancelled(), now=LATER)
        assert status_of() == "suspended"


class TestACustomerThatNeverPaid:
    @pytest.mark.parametrize("free", ["0", "5"])
    @pytest.mark.parametrize("end", ["incomplete_expired", "canceled", "unpaid", "paused", "deleted"])
    def test_stops_and_lowers_nobody(self, tenant: Tenant, hook: Hook, settings: Any, end: str, free: str) -> None:
        settings.STRIPE_FREE_BUDGET = Decimal(free)
        hook(subscription_created(status="incomplete", metadata={"tenant_id": "acme"}))
        gone = event("customer.deleted", {"id": "cus_acme", "object": "customer"}, created=LATER)
        hook(gone if end == "deleted" else subscription_updated(status=end, created=LATER), now=LATER)
        assert (owner_of("cus_acme"), status_of()) == ("acme", "active")
        # While it may still be paid for, the tenant has nothing in place of the platform's default budget.
        waits = [1] if end in ("unpaid", "paused") else []
        assert list(Budget.objects.filter(tenant=tenant).values_list("limit_nanos", flat=True)) == waits
        assert sync.due(now=LATER) == 0

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    def test_is_told_from_one_that_did_in_any_order(self, tenant: Tenant, hook: Hook, order: tuple[int, ...]) -> None:
        stream = [*subscribed(metadata={"tenant_id": "acme"}), cancelled(metadata={"tenant_id": "acme"})]
        hook(*(stream[place] for place in order), now=LATER)
        assert status_of() == "suspended"


class TestACustomerThatComesBack:
    @pytest.mark.parametrize("end", ["cancelled", "deleted"])
    @pytest.mark.parametrize("first", ["old", "new"])
    def test_under_another_id_has_the_tenant_of_the_one_that_is_over(
        self, tenant: Tenant, hook: Hook, end: str, first: str
    ) -> None:
        hook(checkout_completed(), *subscribed())
        over = (
            cancelled()
            if end == "cancelled"
            else event("customer.deleted", {"id": "cus_acme", "object": "customer"}, created=LATER)
        )
        back = subscribed("cus_back", at=LATER, metadata={"tenant_id": "acme"})
        hook(*([over, *back] if first == "old" else [*back, over]), now=LATER)
        sync.due(now=LATER)
        assert (owner_of("cus_acme"), owner_of("cus_back"), status_of()) == (None, "acme", "active")
        assert (window_of().starts_at, window_of().limit_nanos) == (LATER, STANDARD)
        assert not Alert.objects.filter(kind="tenant_taken", cleared_at=None).exists()
        assert sync.due(now=LATER) == 0

    def test_takes_nothing_from_one_that_pays(self, tenant: Tenant, hook: Hook) -> None:
        hook(checkout_completed(), *subscribed())
        hook(*subscribed("cus_back", at=LATER, metadata={"tenant_id": "acme"}), now=LATER)
        assert (owner_of("cus_acme"), account("cus_back").reasons) == ("acme", ["tenant_taken:acme"])

    def test_finds_its_successor_in_its_place(self, tenant: Tenant, hook: Hook) -> None:
        hook(checkout_completed(), *subscribed(), cancelled())
        hook(*subscribed("cus_back", at=LATER, metadata={"tenant_id": "acme"}), now=LATER)
        more: dict[str, Any] = {"subscription": "sub_more", "created": LATER}
        hook(subscription_created(**more), invoice_paid(subscription="sub_more"), now=LATER)
        assert (owner_of("cus_back"), account().reasons) == ("acme", ["tenant_taken:acme"])


class TestAnOperator:
    def test_gives_a_stranger_the_tenant(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        decide(console, "accept_claim")
        assert (owner_of("cus_stranger"), window_of().limit_nanos) == ("acme", STANDARD)
        assert AuditEntry.objects.get(action="billing.bind").actor == "ann"

    def test_dismisses_a_claim_for_good(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        decide(console, "dismiss_claim")
        hook(session("acme", id="evt_again"))
        assert account("cus_stranger").reasons == ["unbound"]
        assert not Alert.objects.filter(kind="unproven_claim", cleared_at=None).exists()
        assert AuditEntry.objects.get(action="billing.dismiss_claim").actor == "ann"

    def test_unbinds_and_nothing_binds_again(self, tenant: Tenant, hook: Hook, console: Client) -> None:
        hook(*subscribed(metadata={"tenant_id": "acme"}), cancelled())
        assert status_of() == "suspended"
        console.post(f"/admin/billing/billingaccount/{account().pk}/change/", {"tenant": "", "limit_override": ""})
        assert (owner_of("cus_acme"), status_of()) == (None, "active")
        hook({**subscribed(metadata={"tenant_id": "acme"})[0], "id": "evt_again"})
        assert owner_of("cus_acme") is None

    def test_who_only_looks_decides_nothing(self, tenant: Tenant, hook: Hook, client: Client) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        client.force_login(User.objects.create_user("vic", is_staff=True))
        client.post(
            "/admin/billing/billingaccount/",
            {"action": "accept_claim", "_selected_action": [account("cus_stranger").pk]},
        )
        assert owner_of("cus_stranger") is None

    def test_sees_claims_over_the_api(self, tenant: Tenant, hook: Hook, client: Client) -> None:
        hook(session("acme"), *subscribed("cus_stranger"))
        headers = {"Authorization": f"Bearer {factories.key(role='viewer')[0]}"}
        [row] = client.get("/api/billing/accounts?bound=false", headers=headers).json()["results"]
        assert (row["tenant"], row["reasons"]) == (None, ["unproven_claim:acme"])


@pytest.mark.django_db(transaction=True)
def test_two_customers_that_claim_one_tenant_at_once_are_bound_one_after_the_other() -> None:
    """Also with one reference between them, and over a customer that gives the tenant up."""
    standard_plans()
    tenant = factories.tenant("acme")
    BillingAccount.objects.create(stripe_customer_id="cus_old", tenant=tenant, state="closed")
    sent = checkout_completed()["data"]["object"]
    start = threading.Barrier(2)

    def claim(customer: str) -> None:
        try:
            start.wait(timeout=10)
            one = {**sent, "customer": customer}
            body = event("checkout.session.completed", one)
            store.store(envelope.parse(json.dumps(body)), now=START)
            store.process(body["id"], now=START)
            store.sweep(now=LATER)
        finally:
            connection.close()

    workers = [threading.Thread(target=claim, args=(f"cus_{number}",)) for number in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    store.sweep(now=LATER + DAY)
    bound = [one for one in ("cus_0", "cus_1") if owner_of(one) == "acme"]
    assert (len(bound), owner_of("cus_old")) == (1, None)
