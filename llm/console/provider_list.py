"""The list of providers: those of the environment, which is read-only here, and those that operators keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from django.conf import settings
from django.urls import reverse

from llm.models import Model, ProviderEndpoint
from llm.providers import endpoints, registry
from llm.providers.registry import EnvironmentsProvider
from llm.rules.pricing import DEFAULT_PROVIDER, ZONE_PROVIDERS
from llm.state import breakers


@dataclass(frozen=True, slots=True)
class ProviderRow:
    """A provider as the list shows it; of its key nothing but where it is. `test`: where its button posts."""

    name: str
    kind: str
    address: str
    key: str
    link: str
    test: str
    state: str
    tone: str
    # What is to be done, where something is.
    note: str
    models: int
    models_link: str
    breakers: str


def rows(added: Iterable[ProviderEndpoint], *, now: datetime) -> list[ProviderRow]:
    """The environment's first. Two queries, and the file of the breakers."""
    served = Counter(Model.objects.filter(status__in=Model.SERVED).values_list("provider", flat=True))
    troubles = _troubles(now)
    added = list(added)
    unusable = endpoints.unusable()
    taken = {row.name for row in added if row.enabled and row.name not in unusable}
    return [
        *(_of_environment(one, served, troubles, is_hidden=one.name in taken) for one in registry.ENVIRONMENTS),
        *(_added(row, served, troubles, unusable.get(row.name, "")) for row in added),
    ]


def _troubles(now: datetime) -> dict[str, tuple[int, int]]:
    """By provider: how many of its models were called from here of late, and how many of these are impaired."""
    found: dict[str, tuple[int, int]] = {}
    for status in breakers.shared().snapshot(now.timestamp()):
        known, impaired = found.get(provider := status.name.partition("/")[0], (0, 0))
        found[provider] = known + 1, impaired + status.is_impaired
    return found


def _of_environment(
    one: EnvironmentsProvider, served: Counter[str], troubles: dict[str, tuple[int, int]], *, is_hidden: bool
) -> ProviderRow:
    if is_hidden:
        state, tone, note = "replaced", "off", "The provider of the same name below is called in its place."
    elif one.has_key:
        state, tone, note = "configured", "active", ""
    elif one.is_configured and one.base_url == settings.SANDBOX_URL:
        state, tone, note = "simulated", "info", f"Its answers cost nothing. Set {one.variable} for the real one."
    elif one.is_configured:
        state, tone, note = "without a key", "info", "The address may need none."
    else:
        state, tone, note = "no key", "off", f"Set {one.variable} and start anew to call it."
    home = DEFAULT_PROVIDER if one.name in ZONE_PROVIDERS else one.name
    return ProviderRow(
        name=one.name,
        kind="of the environment",
        address=_shown(one.base_url),
        key=one.variable if one.has_key else "none",
        link="",
        test=reverse("admin:llm_providerendpoint_try_environment", args=[one.name]) if one.is_configured else "",
        state=state,
        tone=tone,
        note=note,
        models=served[home],
        models_link=_models_link(home),
        breakers=_in_words(troubles.get(one.name)),
    )


def _added(
    row: ProviderEndpoint, served: Counter[str], troubles: dict[str, tuple[int, int]], problem: str
) -> ProviderRow:
    if not row.enabled:
        state, tone = "switched off", "off"
    else:
        state, tone = ("unusable", "stopped") if problem else ("configured", "active")
    note = problem or ("" if served[row.name] else "The catalogue has no model of it yet.")
    return ProviderRow(
        name=row.name,
        kind=row.get_kind_display(),
        address=row.base_url,
        key=row.key_env or ("kept sealed" if row.sealed_key else "none"),
        link=reverse("admin:llm_providerendpoint_change", args=[row.pk]),
        test=reverse("admin:llm_providerendpoint_try_one", args=[row.pk]) if row.enabled else "",
        state=state,
        tone=tone,
        note=note,
        models=served[row.name],
        models_link=_models_link(row.name),
        breakers=_in_words(troubles.get(row.name)),
    )


def _models_link(provider: str) -> str:
    return f"{reverse('admin:llm_model_changelist')}?provider={provider}"


def _in_words(found: tuple[int, int] | None) -> str:
    if found is None:
        return "not called of late"
    known, impaired = found
    return f"{impaired} of {known} models impaired" if impaired else f"{known} models answer"


def _shown(address: str) -> str:
    """Without what may be secret in it: a user, a password, a query."""
    parts = urlsplit(address)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"
