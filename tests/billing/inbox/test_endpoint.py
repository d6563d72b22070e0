"""Our endpoint at Stripe: what is wrong with it, how it is made and mended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from billing.inbox import endpoint, handlers
from billing.stripe_api import client
from governance.audit import Actor
from governance.models import Alert, AuditEntry
from tests.billing.events import START
from tests.fakes import stripe_api

pytestmark = pytest.mark.django_db
URL = "https://governor.example.com/api/webhooks/stripe"


@pytest.fixture
def stripe(settings: Any) -> Iterator[stripe_api.Account]:
    settings.STRIPE_SECRET_KEY = "sk_test_1"
    settings.APP_URL = "https://governor.example.com"
    with stripe_api.answering() as account:
        yield account


def ours(**changes: Any) -> dict[str, Any]:
    return {
        "id": "we_1",
        "url": URL,
        "status": "enabled",
        "api_version": endpoint.API_VERSION,
        "enabled_events": sorted(handlers.asked_for()),
        **changes,
    }


def set_up(**wanted: Any) -> endpoint.Setup:
    return endpoint.set_up(url=URL, by=Actor("ann"), now=START, **wanted)


def codes(*endpoints: dict[str, Any]) -> list[str]:
    return [finding.code for finding in endpoint.lint(endpoints, url=URL)]


def test_the_right_endpoint_has_nothing_wrong() -> None:
    assert codes(ours(), {**ours(id="we_other"), "url": "https://else.example.com", "status": "disabled"}) == []
    assert codes(ours(url=URL + "/")) == []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"status": "disabled"}, "disabled"),
        ({"api_version": "2024-06-20"}, "other_version"),
        ({"api_version": None}, "other_version"),
        ({"enabled_events": sorted(handlers.asked_for() - {"invoice.paid"})}, "missing_events"),
        ({"enabled_events": [*sorted(handlers.asked_for()), "payout.paid"]}, "extra_events"),
        ({"enabled_events": [*sorted(handlers.asked_for()), "invoice.created"]}, "delays_invoices"),
    ],
)
def test_each_thing_that_can_be_wrong_is_found(changes: dict[str, Any], code: str) -> None:
    assert codes(ours(**changes)) == [code]


def test_an_endpoint_of_everything_is_told_of_what_it_delays() -> None:
    assert codes(ours(enabled_events=["*"])) == ["delays_invoices", "extra_events"]


def test_types_that_a_new_version_asks_for_are_named_with_what_to_run() -> None:
    before = handlers.asked_for() - {"customer.created", "price.created"}
    [finding] = endpoint.lint([ours(enabled_events=sorted(before))], url=URL)
    assert finding.message == "we_1 does not send customer.created, price.created; run stripe_setup."


def test_none_and_too_many_are_found() -> None:
    assert codes() == ["missing"]
    assert codes(ours(), ours(id="we_2")) == ["several"]


def test_a_new_endpoint_has_exactly_our_events_at_the_pinned_version(stripe: stripe_api.Account) -> None:
    done = set_up()
    [made] = stripe.webhook_endpoints
    assert (made["url"], made["api_version"]) == (URL, "2026-10-28.endive")
    assert set(made["enabled_events"]) == handlers.asked_for()
    assert "invoice.created" not in made["enabled_events"]
    assert (done.secrets, done.findings) == ({"we_1": "whsec_made"}, [])


def test_a_second_run_does_nothing_and_tells_no_secret(stripe: stripe_api.Account) -> None:
    set_up()
    stripe.requests.clear()
    done = set_up()
    assert (done.actions, done.secrets, stripe.calls()) == ([], {}, [])


@pytest.mark.parametrize("meters", [False, True])
def test_a_secret_is_told_and_the_act_kept_whatever_fails_afterwards(
    stripe: stripe_api.Account, settings: Any, meters: bool
) -> None:
    """Stripe gives it once, and the events that it sends from then on are signed with it."""
    settings.STRIPE_METERS = {"llm_cost": "microdollars"}
    stripe.fails_after = "/v1/webhook_endpoints"
    done = set_up(meters=meters)
    assert done.secrets == {"we_1": "whsec_made"}
    assert (done.failed != "", done.is_wrong) == (True, True)
    kept = AuditEntry.objects.get(action="billing.set_up_endpoint")
    assert kept.new == {"actions": [f"create an endpoint for {URL} at {endpoint.API_VERSION}"]}


def test_what_failed_before_anything_was_done_is_an_error_and_no_act(stripe: stripe_api.Account) -> None:
    stripe.fails = 500
    with pytest.raises(client.StripeError):
        set_up()
    assert not AuditEntry.objects.exists()


def test_two_who_set_it_up_at_one_moment_are_given_the_same_one(
    stripe: stripe_api.Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([[], []])
    real = endpoint.endpoints
    others: list[endpoint.Setup] = []

    def look() -> list[Any]:
        found = next(looks, None)
        if found is None:
            return list(real())
        if not others:
            # The first has looked; now the second does all of it.
            others.append(endpoint.Setup())
            others.append(set_up())
        return list(found)

    monkeypatch.setattr(endpoint, "endpoints", look)
    assert set_up().secrets == others[1].secrets == {"we_1": "whsec_made"}
    assert len(stripe.webhook_endpoints) == 1
    # One that was deleted at Stripe since is made anew, not remembered.
    stripe.webhook_endpoints.clear()
    monkeypatch.setattr(endpoint, "endpoints", real)
    assert set_up().findings == []
    assert len(stripe.webhook_endpoints) == 1


def test_a_dry_run_writes_nothing(stripe: stripe_api.Account, settings: Any) -> None:
    settings.STRIPE_METERS = {"llm_cost": "microdollars"}
    done = set_up(dry_run=True, meters=True)
    assert len(done.actions) == 3
    assert stripe.calls() == []
    assert [finding.code for finding in done.findings] == ["missing"]


def test_events_and_status_are_mended(stripe: stripe_api.Account) -> None:
    stripe.webhook_endpoints = [ours(status="disabled", enabled_events=["invoice.created"])]
    done = set_up()
    assert (done.findings, done.secrets) == ([], {})
    assert stripe.calls() == ["/v1/webhook_endpoints/we_1"]


def test_an_endpoint_of_another_version_is_replaced_and_then_disabled_on_request(stripe: stripe_api.Account) -> None:
    stripe.webhook_endpoints = [ours(id="we_old", api_version="2024-06-20")]
    # Until the new secret is in place nothing may be lost, so the old one stays, even where its end is asked for.
    done = set_up(retire=True)
    assert list(done.secrets.values()) == ["whsec_made"]
    assert [one["status"] for one in stripe.webhook_endpoints] == ["enabled", "enabled"]
    assert {finding.code for finding in done.findings} == {"other_version", "several"}
    done = set_up(retire=True)
    assert [one["status"] for one in stripe.webhook_endpoints] == ["disabled", "enabled"]
    assert (done.findings, set_up().actions) == ([], [])


def test_meters_and_the_destination_of_their_errors_are_made_once(stripe: stripe_api.Account, settings: Any) -> None:
    settings.STRIPE_METERS = {"llm_cost": "microdollars", "llm_tokens": "tokens"}
    done = set_up(meters=True)
    assert [one["event_name"] for one in stripe.meters] == ["llm_cost", "llm_tokens"]
    [destination] = stripe.event_destinations
    assert (destination["event_payload"], destination["enabled_events"]) == (
        "thin",
        sorted(handlers.asked_for(thin=True)),
    )
    assert done.secrets == {"we_1": "whsec_made", "ed_1": "whsec_thin"}
    stripe.requests.clear()
    assert set_up(meters=True).actions == []
    assert stripe.calls() == []


@pytest.mark.parametrize("url", ["http://governor.example.com/x", "ftp://x", ""])
def test_stripe_sends_to_https_alone(url: str) -> None:
    with pytest.raises(endpoint.NotReachable, match="https"):
        endpoint.checked_url(url)


def test_operators_are_told_until_it_is_mended(db: None, stripe: stripe_api.Account) -> None:
    stripe.webhook_endpoints = [ours(status="disabled")]
    row = endpoint.check(now=START)
    assert (row.figures, row.finished_at) == ({"serious": 1}, START)
    assert "disabled" in Alert.objects.get(kind="stripe_endpoint", cleared_at=None).message
    stripe.webhook_endpoints = [ours()]
    assert endpoint.check(now=START).findings == []
    assert not Alert.objects.filter(cleared_at=None).exists()
