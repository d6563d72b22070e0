"""The provider's own list of models, taken into the catalogue: aliases, deprecations, context, names on invoices.

Asked every night through Mistral's SDK. A model that is new appears as a preview, which is never served until an
operator has priced and confirmed it. Prices are not in the list. Each change leaves an audit row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import transaction

from governance import alerts
from governance.audit import Actor
from governance.rules.errors import FieldError
from governance.rules.names import checked
from llm.catalogue import model_alerts, prices
from llm.models import Model, ModelAlias
from llm.rules.pricing import DEFAULT_PROVIDER

TIMEOUT_MS = 15_000
SYNC = Actor("model sync")
FAILED = "model_sync_failed"
# What the SDK says of a model that tells no context length.
UNSAID_CONTEXT = 32_768
KINDS = {
    "completion_chat": "chat",
    "completion_fim": "fim",
    "embedding": "embedding",
    "ocr": "ocr",
    "moderation": "moderation",
    "audio_transcription": "transcription",
}
ABILITIES = {"function_calling": "tools", "vision": "vision", "reasoning": "reasoning", "audio": "audio"}


class SyncFailed(Exception):
    """The list could not be had, or is none that can be believed."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model as the list describes it, under all of its names."""

    names: frozenset[str]
    canonical: str
    kinds: tuple[str, ...] = ("chat",)
    capabilities: tuple[str, ...] = ("chat",)
    context_tokens: int | None = None
    deprecated_at: datetime | None = None
    replacement: str = ""
    billing_name: str = ""
    owned_by: str = "mistralai"


@dataclass(slots=True)
class SyncResult:
    """What a sync changed, one sentence each."""

    listed: int = 0
    changes: list[str] = field(default_factory=list)
    alerts: int = 0


def can_ask() -> bool:
    """Whether there is a key, or an address that may need none."""
    return bool(settings.MISTRAL_API_KEY) or settings.MISTRAL_API_BASE == settings.SANDBOX_URL


def run(*, now: datetime, dry_run: bool = False) -> SyncResult:
    """Ask for the list and take it over, then look after the models in use.

    Raises SyncFailed, with an alert open. `dry_run`: say what would change, and change nothing.
    """
    try:
        listed = fetch() if can_ask() else None
        with transaction.atomic():
            outcome = SyncResult() if listed is None else take_over(listed, now=now)
            outcome.alerts = model_alerts.look(now=now)
            transaction.set_rollback(dry_run)
    except SyncFailed as error:
        if not dry_run:
            alerts.report(kind=FAILED, subject=DEFAULT_PROVIDER, message=str(error), now=now)
        raise
    if listed is not None and not dry_run:
        alerts.clear(kind=FAILED, subject=DEFAULT_PROVIDER, now=now)
    return outcome


def fetch() -> list[ListedModel]:
    """The provider's list, through its SDK. Raises SyncFailed."""
    # Half a second to import, which no other part of the product should wait for.
    from mistralai.client import Mistral
    from mistralai.client.errors import MistralError

    try:
        with Mistral(
            api_key=settings.MISTRAL_API_KEY or "sandbox", server_url=settings.MISTRAL_API_BASE, timeout_ms=TIMEOUT_MS
        ) as client:
            listed = client.models.list().data or []
    except MistralError as error:
        raise SyncFailed(f"the list of models was answered with status {error.status_code}") from error
    except Exception as error:
        # The SDK lets through whatever its transport or its checks raise, with bodies that may hold anything.
        raise SyncFailed(f"the list of models could not be had: {type(error).__name__}") from error
    return cards([card.model_dump() for card in listed if card.type == "base"])


def cards(listed: Iterable[Mapping[str, Any]]) -> list[ListedModel]:
    """One card for each model: the list has one for each name."""
    groups: list[tuple[set[str], list[Mapping[str, Any]]]] = []
    for item in listed:
        names = {name for name in (item["id"], *(item.get("aliases") or ())) if is_name(name)}
        if not names:
            continue
        members = [item]
        for group in [group for group in groups if not names.isdisjoint(group[0])]:
            groups.remove(group)
            names |= group[0]
            members = group[1] + members
        groups.append((names, members))
    return [_card(frozenset(names), members) for names, members in groups]


def is_name(name: str) -> bool:
    """Whether a call could name a model so: a list from elsewhere may say anything."""
    try:
        return checked("model", name) == name
    except FieldError:
        return False


@transaction.atomic
def take_over(listed: list[ListedModel], *, now: datetime) -> SyncResult:
    """Bring the catalogue up to date with the list, all or nothing. Raises SyncFailed for one that cannot be right."""
    rows = {row.name: row for row in Model.objects.select_for_update().filter(provider=DEFAULT_PROVIDER).order_by("pk")}
    served = {name for name, row in rows.items() if row.status in Model.SERVED and row.listed_at is not None}
    named = frozenset().union(*(card.names for card in listed))
    if not listed or len(served - named) * 2 > len(served):
        raise SyncFailed(f"the list names {len(named)} models and leaves out {len(served - named)} that are served")
    outcome = SyncResult(listed=len(listed))
    for card in listed:
        ours = [rows[name] for name in sorted(card.names) if name in rows]
        row = rows.get(card.canonical) or (ours[0] if ours else None)
        if row is None:
            row = rows[card.canonical] = _added(card, outcome, now)
        else:
            _update(row, card, outcome, now)
        if len(ours) < 2:
            # Where we have several models under names that are one model there, an operator has to say which is right.
            _name(row, card.names - rows.keys(), outcome, now)
    _retire([row for name, row in rows.items() if name not in named], outcome, now)
    Model.objects.filter(provider=DEFAULT_PROVIDER, name__in=named).update(listed_at=now)
    return outcome


def _added(card: ListedModel, outcome: SyncResult, now: datetime) -> Model:
    row = Model(
        provider=DEFAULT_PROVIDER,
        name=card.canonical,
        owned_by=card.owned_by,
        kinds=list(card.kinds),
        capabilities=list(card.capabilities),
        context_tokens=card.context_tokens,
        status=Model.Status.PREVIEW,
        deprecated_at=card.deprecated_at,
        replacement=card.replacement,
        billing_name=card.billing_name,
    )
    prices.save(row=row, old=None, by=SYNC, now=now)
    outcome.changes.append(f"{row.name}: new; a preview until it has a price and is confirmed")
    return row


def _update(row: Model, card: ListedModel, outcome: SyncResult, now: datetime) -> None:
    said: dict[str, Any] = {
        "deprecated_at": card.deprecated_at,
        "replacement": card.replacement,
        "billing_name": card.billing_name,
    }
    if card.context_tokens is not None:
        said["context_tokens"] = card.context_tokens
    if card.deprecated_at is not None and card.deprecated_at <= now and row.status == Model.Status.GA:
        said["status"] = Model.Status.DEPRECATED
    old = {name: str(getattr(row, name)) for name, value in said.items() if getattr(row, name) != value}
    if not old:
        return
    for name in old:
        setattr(row, name, said[name])
        outcome.changes.append(f"{row.name}: {name} is {said[name]}, was {old[name]}")
    prices.save(row=row, old=old, by=SYNC, now=now)


def _name(row: Model, names: Iterable[str], outcome: SyncResult, now: datetime) -> None:
    """Aliases that the list gives the model. Those that it no longer names stay: they may be an operator's own."""
    for name in sorted(names):
        alias = ModelAlias.objects.select_related("model").filter(provider=row.provider, name=name).first()
        if alias is None:
            prices.save(row=ModelAlias(name=name, model=row), old=None, by=SYNC, now=now)
            outcome.changes.append(f"{name}: means {row.name}")
        elif alias.model_id != row.pk:
            before = alias.model.name
            alias.model = row
            prices.save(row=alias, old={"model": before}, by=SYNC, now=now)
            outcome.changes.append(f"{name}: means {row.name}, meant {before}")


def _retire(unlisted: list[Model], outcome: SyncResult, now: datetime) -> None:
    """What is gone from the list after its deprecation is over. What is just gone may be a slip: see model_alerts."""
    for row in unlisted:
        if row.status == Model.Status.DEPRECATED and row.deprecated_at is not None and row.deprecated_at <= now:
            old = {"status": row.status}
            row.status = Model.Status.RETIRED
            prices.save(row=row, old=old, by=SYNC, now=now)
            outcome.changes.append(f"{row.name}: retired")


def _card(names: frozenset[str], members: list[Mapping[str, Any]]) -> ListedModel:
    said = [item.get("name") for item in members if item.get("name") in names]
    ids = sorted((item["id"] for item in members), key=lambda id: (id.endswith("-latest"), id))
    item = next((item for item in members if item["id"] == (said or ids)[0]), members[0])
    can = item.get("capabilities") or {}
    kinds = tuple(kind for flag, kind in KINDS.items() if can.get(flag)) or ("chat",)
    more = tuple(word for flag, word in ABILITIES.items() if can.get(flag))
    context = item.get("max_context_length")
    return ListedModel(
        names=names,
        canonical=str((said or ids)[0]),
        kinds=kinds,
        capabilities=(*kinds, *more, *(("json",) if "chat" in kinds else ())),
        context_tokens=context if context and context != UNSAID_CONTEXT else None,
        deprecated_at=_aware(item.get("deprecation")),
        replacement=item.get("deprecation_replacement_model") or "",
        billing_name=item.get("billing_model_name") or "",
        owned_by=item.get("owned_by") or "mistralai",
    )


def _aware(moment: datetime | None) -> datetime | None:
    return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment
