"""The first steps of an installation, on the overview until they are done. Each looks whether it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse

from billing.stripe_api import client
from governance.console.base import is_of_the_platform, may
from governance.models import ApiKey, RefusedCall, SpendRollup, Tenant
from llm.models import ProviderEndpoint

# Whose browser has this is shown them no more.
COOKIE, KEPT = "first_steps", timedelta(days=400)


@dataclass(frozen=True, slots=True)
class FirstStep:
    """`words` say what is done, or what to do; `link` is empty for whoever may not do it."""

    title: str
    words: str
    is_done: bool
    link: str = ""
    link_words: str = ""
    is_next: bool = False


@dataclass(frozen=True, slots=True)
class FirstSteps:
    steps: tuple[FirstStep, ...]

    @property
    def done(self) -> int:
        return sum(step.is_done for step in self.steps)

    @property
    def last(self) -> FirstStep | None:
        """The only step that is left, where it is the last: then a line is enough."""
        return self.steps[-1] if self.done == len(self.steps) - 1 and not self.steps[-1].is_done else None


def of(request: HttpRequest, now: datetime) -> FirstSteps | None:
    """None where all is done, where whoever asks has put them away, and for a tenant's own staff."""
    if request.COOKIES.get(COOKIE) or not is_of_the_platform(request):
        return None
    found = [_provider(request), _customer(request), _key(request, now), _call(request), _stripe(request)]
    if all(step.is_done for step in found):
        return None
    following = next(step for step in found if not step.is_done)
    return FirstSteps(
        tuple(
            FirstStep(step.title, step.words, step.is_done, step.link, step.link_words, step is following)
            for step in found
        )
    )


def dismiss(request: HttpRequest) -> HttpResponse:
    """Put them away in this browser. Raises PermissionDenied, Http404."""
    if not is_of_the_platform(request):
        raise PermissionDenied
    if request.method != "POST":
        raise Http404
    answer = redirect("admin:index")
    answer.set_cookie(
        COOKIE,
        "away",
        max_age=KEPT,
        path=reverse("admin:index"),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
    return answer


def _provider(request: HttpRequest) -> FirstStep:
    title = "Give it a provider's key"
    if settings.MISTRAL_API_KEY or settings.OPENAI_API_KEY or settings.ANTHROPIC_API_KEY:
        return FirstStep(title, "A provider's key is in the environment.", True)
    added = ProviderEndpoint.objects.filter(enabled=True).order_by("name").first()
    if added is not None:
        return FirstStep(title, f"{added.name} was added.", True)
    if settings.MISTRAL_API_BASE == settings.SANDBOX_URL:
        return FirstStep(
            title, "The provider is simulated. MISTRAL_API_KEY in the environment makes answers real.", True
        )
    words = "Set MISTRAL_API_KEY in the environment and start again, or add another provider here."
    return _step(request, title, words, "llm.add_providerendpoint", "llm_providerendpoint_add", "Add a provider")


def _customer(request: HttpRequest) -> FirstStep:
    title = "Add a customer"
    if Tenant.objects.exists():
        return FirstStep(title, "There is a customer.", True)
    words = "Whoever spends: a customer of yours, a team, or yourself. Budgets and keys are theirs."
    return _step(request, title, words, "governance.add_tenant", "governance_tenant_add", "Add a customer")


def _key(request: HttpRequest, now: datetime) -> FirstStep:
    title = "Make a key for an agent"
    keys = ApiKey.objects.filter(role__in=(ApiKey.Role.AGENT, ApiKey.Role.TENANT), revoked_at=None)
    if keys.exclude(expires_at__lte=now).exists():
        return FirstStep(title, "There is a key that models are called with.", True)
    words = "It is shown once. The agent's client gets it in the place of a provider's key."
    return _step(request, title, words, "governance.add_apikey", "governance_apikey_add", "Make a key")


def _call(request: HttpRequest) -> FirstStep:
    title = "Make the first call"
    if SpendRollup.objects.exists() or RefusedCall.objects.exists():
        return FirstStep(title, "Calls have come.", True, reverse("admin:calls"), "Look at them")
    address = f"{settings.APP_URL.rstrip('/')}/v1"
    return FirstStep(title, f"Point a client of Mistral's or OpenAI's at {address} with that key.", False)


def _stripe(request: HttpRequest) -> FirstStep:
    title = "Connect Stripe"
    if client.is_configured():
        return FirstStep(title, "Stripe is connected.", True)
    words = "For customers who pay: their budgets follow what they paid for. Without billing, put these steps away."
    return _step(request, title, words, "billing.view_stripeevent", "stripe-health", "Connect")


def _step(request: HttpRequest, title: str, words: str, permission: str, page: str, lead: str) -> FirstStep:
    link = reverse(f"admin:{page}") if may(request, permission) else ""
    return FirstStep(title, words, False, link, lead)
