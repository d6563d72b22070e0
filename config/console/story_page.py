"""The console's page of the demo's story: one button a step, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone

from billing.models import BillingAccount
from billing.stripe_api.client import StripeError
from config import story
from config.story import StoryError, StoryStatus
from governance.console import display
from governance.console.base import actor, may
from governance.console.display import Card
from governance.console.pages import ConsolePage
from governance.rules.errors import FieldError

# A page that waits for webhooks, or for a period to begin, looks again after so long.
AGAIN_S = 3
# And after a step so often at least: on a busy machine its webhooks may not have come by the first time.
AGAIN_TIMES = 5


@dataclass(frozen=True, slots=True)
class StoryStep:
    """`is_next`: the one that the story goes on with; `open`: it can be taken now."""

    name: str
    title: str
    words: str
    button: str
    icon: str
    open: bool
    is_next: bool


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    found = story.status(now=now)
    begins_in_s = _begins_in_s(found, now)
    again = next((n for n in range(1, AGAIN_TIMES + 1) if request.GET.get("wait") == str(n)), 0)
    return {
        "now": now,
        "cards": _cards(found, now),
        "steps": _steps(found, now),
        "events": [(event, now - event.received_at < timedelta(minutes=1)) for event in found.events],
        "waiting": found.waiting,
        "begins_in_s": begins_in_s,
        "again_s": AGAIN_S if found.waiting or begins_in_s or again else 0,
        "again": again - 1 if again > 1 else 0,
        "tenant": story.NAME,
        "account": found.account,
    }


def act(request: HttpRequest, step: str) -> HttpResponse:
    """Take a step, and show the page again, which waits for what comes of it. Raises PermissionDenied, Http404."""
    if not PAGE.permission(request):
        raise PermissionDenied
    if step not in story.STEPS or request.method != "POST":
        raise Http404
    try:
        messages.success(request, story.STEPS[step](by=actor(request), now=timezone.now()))
    except (StoryError, StripeError, FieldError) as error:
        messages.error(request, str(error))
        return redirect("admin:story")
    return redirect(f"{reverse('admin:story')}?wait={AGAIN_TIMES}")


def _steps(found: StoryStatus, now: datetime) -> list[StoryStep]:
    has_budget = found.budget is not None and not found.is_used_up
    renews = story.may_renew(found.budget.ends_at if found.budget else None, now=now)
    place = 0 if not found.is_alive else 2 if found.is_used_up else 3 if found.bought_nanos and renews else 1
    rows = (
        (
            "sign-up",
            "Sign up",
            "A customer opens a checkout that carries our signed reference, and pays $6 for a week with $5 to spend.",
            "Sign up and pay",
            "person_add",
            not found.is_alive,
        ),
        (
            "use-up",
            "Use it up",
            "Its agent calls models until nothing is left. The next call gets a 402 with a link to buy more.",
            "Use the budget up",
            "local_fire_department",
            has_budget,
        ),
        ("pay", "Pay", "Somebody opens that link and pays for $20 more.", "Buy a top-up", "add_card", found.is_alive),
        (
            "renew",
            "Renew",
            "Stripe's clock is moved past the end of the week. It bills the next one, and a new budget begins.",
            "Let a week pass",
            "autorenew",
            found.is_alive and renews,
        ),
    )
    return [StoryStep(*row, is_next=number == place) for number, row in enumerate(rows)]


def _begins_in_s(found: StoryStatus, now: datetime) -> int:
    """How long until a period that is paid for begins; 0 where it has."""
    starts_at = found.budget.starts_at if found.budget else None
    return max(0, int((starts_at - now).total_seconds())) if starts_at else 0


def _cards(found: StoryStatus, now: datetime) -> list[Card]:
    account, budget = found.account, found.budget
    if account is None:
        return [Card("Customer", "none yet", "sign up to begin", "person")]
    cards = [
        Card("Customer", str(account.state), account.stripe_customer_id, "person"),
        Card("Top-ups", f"${_topups(account)}", "of the budget, beside the week's", "add_card"),
    ]
    if budget is not None:
        left = max(0, budget.remaining_nanos)
        ends = f"until {budget.ends_at:%-d %b %H:%M} UTC" if budget.ends_at else "without an end"
        cards[1:1] = [
            Card("Budget", display.dollars(budget.limit_nanos), ends, "savings"),
            Card("Left", display.dollars(left), f"{budget.state}", "hourglass_bottom", "" if left else "danger"),
        ]
    return cards


def _topups(account: BillingAccount) -> str:
    """What of the tenant's budget was bought in addition, in dollars; be it by the customer before this one."""
    found = (one.removeprefix("topups:") for one in account.reasons if one.startswith("topups:"))
    return next(found, "0.00")


PAGE = ConsolePage(
    title="Story",
    path="story/",
    name="story",
    template="console/story.html",
    context=context,
    permission=lambda request: story.is_told() and may(request, "billing.change_billingaccount"),
)
