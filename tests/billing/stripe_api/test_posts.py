"""POSTs that must not be made twice: the key is committed before the request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from billing.models import OutboundRequest
from billing.stripe_api import posts
from billing.stripe_api.client import StripeRefused, StripeUnavailable
from tests.billing.events import START

pytestmark = pytest.mark.django_db
State = OutboundRequest.State


def ask(send: Any, *, now: Any = START, **fields: Any) -> Any:
    asked = {"kind": "topup", "subject": "acme", "params": {"price": "p"}, **fields}
    return posts.once(send=send, now=now, **asked)


class Stripe:
    def __init__(self, *answers: Any) -> None:
        self.answers, self.keys = list(answers), list[str]()

    def __call__(self, key: str) -> Any:
        assert OutboundRequest.objects.get(key=key).state == State.OPEN, "the key is written before it is used"
        self.keys.append(key)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_request_is_kept_with_its_key_before_it_is_sent() -> None:
    stripe = Stripe({"id": "cs_1"})
    assert ask(stripe) == {"id": "cs_1"}
    row = OutboundRequest.objects.get()
    assert (str(row.key), row.state, row.object_id, row.answered_at) == (stripe.keys[0], "done", "cs_1", START)


@pytest.mark.parametrize("failure", [StripeUnavailable("timeout"), StripeUnavailable("busy", status=429)])
def test_a_request_without_an_answer_is_made_again_under_its_own_key(failure: Exception) -> None:
    stripe = Stripe(failure, {"id": "cs_1"})
    with pytest.raises(StripeUnavailable):
        ask(stripe)
    ask(stripe)
    assert len(set(stripe.keys)) == 1
    assert OutboundRequest.objects.get().state == "done"


@pytest.mark.parametrize("failure", [StripeUnavailable("oops", status=500), StripeRefused("no", status=400)])
def test_an_answer_that_stripe_keeps_is_not_asked_for_under_the_same_key(failure: Exception) -> None:
    stripe = Stripe(failure, {"id": "cs_1"})
    with pytest.raises(type(failure)):
        ask(stripe)
    assert OutboundRequest.objects.get().state == "failed"
    ask(stripe)
    assert len(set(stripe.keys)) == 2


def test_other_parameters_subjects_and_kinds_are_other_requests() -> None:
    stripe = Stripe(*[StripeUnavailable("timeout")] * 4)
    for other in ({}, {"params": {"price": "q"}}, {"subject": "globex"}, {"kind": "other"}):
        with pytest.raises(StripeUnavailable):
            ask(stripe, **other)
    assert len(set(stripe.keys)) == 4


def test_a_key_that_stripe_may_have_forgotten_is_not_used_again() -> None:
    stripe = Stripe(StripeUnavailable("timeout"), {"id": "cs_1"})
    with pytest.raises(StripeUnavailable):
        ask(stripe)
    ask(stripe, now=START + posts.KEY_LIFE + timedelta(seconds=1))
    assert len(set(stripe.keys)) == 2
    assert OutboundRequest.objects.filter(state="failed").count() == 1


def test_the_latest_of_a_subject() -> None:
    assert posts.latest(kind="topup", subject="acme", since=START) == ""
    for number in range(2):
        ask(Stripe({"id": f"cs_{number}"}), now=START + timedelta(minutes=number))
    assert posts.latest(kind="topup", subject="acme", since=START) == "cs_1"
    assert posts.latest(kind="topup", subject="acme", since=START + timedelta(hours=1)) == ""
    assert posts.latest(kind="topup", subject="globex", since=START) == ""
