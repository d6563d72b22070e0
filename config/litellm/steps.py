"""What is wanted of a LiteLLM proxy's rows, done by the acts that people have: planned first, then in small parts.

A plan reads alone, so that it holds nobody up. A part is a customer with its limits and some of its keys, each with
its own: all of it is done in one transaction, or nothing. So nobody waits long, and no key works without its limits;
broken off, it goes on where it was when it is run again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.db import connection, transaction

from config.litellm.aliases import AliasWanted, KnownModel
from config.litellm.limits import LimitsWanted
from config.litellm.mapping import CustomerWanted, KeyWanted, KnownHere, KnownKey, LitellmMapping, NotTakenOver
from governance import audit, ledger
from governance.actions import budgets, rate_limits, tenancy
from governance.audit import Actor
from governance.management.policy_tables import CHANGED, CREATED, TABLES, UNCHANGED, Act, FieldDifference
from governance.models import Agent, ApiKey, AuditEntry, Budget, RateLimit, ScopeType, Tenant
from governance.models.tenancy import ADOPTED_PREFIX, adopted_prefix
from governance.rules import money, names
from governance.rules.errors import Conflict, FieldError
from llm.catalogue import prices, snapshot
from llm.models import Model, ModelAlias

# What is in the audit trail of each act: so a later import knows what an earlier one made.
REASON = "import_litellm"
# The audit row that says from whom a customer came: so a second import knows it, whatever its name is by then.
CAME_OVER = "tenant.import"
# Bound to one statement each, of which SQLite takes so many.
_AT_ONCE = 500
CEILINGS = ("requests_per_minute", "tokens_per_minute")
_TARGET_CHARACTERS = AuditEntry._meta.get_field("target").max_length
# With their limits they take some tenths of a second, in which SQLite lets nobody else write.
KEYS_IN_A_PART = 10
# Whoever waits for SQLite's lock looks for it every tenth of a second.
PAUSE_S = 0.12


def _nothing(by: Actor, now: datetime, reason: str) -> None:
    """The act of what is there already."""


@dataclass(frozen=True, slots=True)
class ImportStep:
    """One thing that is to be done, or is there already. Of money `differences` hold dollars."""

    table: str
    name: str
    action: str
    differences: tuple[FieldDifference, ...] = ()
    act: Act = field(default=_nothing, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ImportPart:
    """What is done in one transaction, of whom."""

    name: str
    steps: list[ImportStep]


@dataclass(slots=True)
class ImportPlan:
    parts: list[ImportPart] = field(default_factory=list)
    left: list[NotTakenOver] = field(default_factory=list)

    @property
    def steps(self) -> list[ImportStep]:
        return [step for part in self.parts for step in part.steps]

    def leave(self, why: str, what: str) -> None:
        self.left.append(NotTakenOver(why, what))


def known_here(digests: Iterable[str], *, now: datetime) -> KnownHere:
    """What is here already of those keys, and of whoever came over before."""
    rows = AuditEntry.objects.filter(action=CAME_OVER).order_by("id").values_list("target", "new")
    tenants = frozenset(Tenant.objects.values_list("slug", flat=True))
    came = {new["litellm"]: target.removeprefix("tenant ") for target, new in rows if new}
    catalogue = snapshot.read(now=now)
    keys = dict(_known_keys(sorted(digests)))
    adopted = ApiKey.objects.filter(prefix__startswith=ADOPTED_PREFIX, revoked_at=None).order_by("prefix")

    def model_of(name: str) -> KnownModel | None:
        entry = catalogue.resolve(name)
        return KnownModel(entry.provider, entry.upstream, entry.is_mistrals) if entry is not None else None

    def owners_of(name: str) -> set[str]:
        entries = [entry for known, entry in catalogue.by_name.items() if known == f"{entry.provider}/{name}"]
        return {entry.provider for entry in entries if not entry.is_mistrals}

    def agents_of(slug: str) -> dict[str, bool]:
        found = dict.fromkeys(Agent.objects.filter(tenant__slug=slug).values_list("slug", flat=True), False)
        theirs = ApiKey.objects.filter(tenant__slug=slug, prefix__startswith=ADOPTED_PREFIX)
        return found | dict.fromkeys(theirs.values_list("agent__slug", flat=True), True)

    return KnownHere(
        customers={source: slug for source, slug in came.items() if slug in tenants},
        tenants=tenants,
        keys=keys,
        other_keys=[key.prefix for key in adopted if key.digest not in keys and key.is_usable(now)],
        agents_of=agents_of,
        prefix_of=adopted_prefix,
        model_of=model_of,
        owners_of=owners_of,
    )


def _known_keys(digests: list[str]) -> Iterator[tuple[str, KnownKey]]:
    for start in range(0, len(digests), _AT_ONCE):
        some = digests[start : start + _AT_ONCE]
        for key in ApiKey.objects.filter(digest__in=some).select_related("tenant", "agent"):
            yield (
                key.digest,
                KnownKey(
                    tenant=key.tenant.slug if key.tenant else "",
                    agent=key.agent.slug if key.agent else "",
                    prefix=key.scope_key,
                    works=tenancy.works(key),
                    expires_at=key.expires_at,
                ),
            )


def plan(wanted: LitellmMapping, known: KnownHere, *, overwrite: bool = False) -> ImportPlan:
    """What is to be done. Nothing is written, and nothing locked.

    What is here already and differs stays as it is, unless `overwrite`: somebody may have changed it for a reason.
    """
    planning = _Planning(known, overwrite)
    for customer in wanted.customers:
        planning.add_customer(customer)
    aliases = [step for each in wanted.aliases if (step := planning.alias(each)) is not None]
    if aliases:
        planning.found.parts.append(ImportPart("names of models", aliases))
    return planning.found


def apply(
    planned: ImportPlan,
    *,
    by: Actor,
    clock: Callable[[], datetime],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Do it, part by part. Raises Conflict, which says what was done, where one is no longer as it was planned."""
    to_do = [part for part in planned.parts if any(step.action != UNCHANGED for step in part.steps)]
    for done, part in enumerate(to_do):
        if done and connection.vendor == "sqlite":
            time.sleep(PAUSE_S)
        try:
            _apply(part, by=by, now=clock())
        except FieldError as error:
            raise Conflict(
                "",
                f"{part.name}: {error.message} Something has changed since the difference was shown. What comes before"
                f" it was applied ({done} of {len(to_do)} parts); run it again for the rest.",
            ) from error
        progress(done + 1, len(to_do))


@ledger.run_again
@transaction.atomic
def _apply(part: ImportPart, *, by: Actor, now: datetime) -> None:
    for step in part.steps:
        if step.action != UNCHANGED:
            step.act(by, now, REASON)


class _Planning:
    """Of one import: what is found, and what an earlier one made."""

    def __init__(self, known: KnownHere, overwrite: bool) -> None:
        self.found = ImportPlan()
        self._known, self._overwrite = known, overwrite
        acts = ("budget.create", "budget.change", "rate_limit.create", "rate_limit.change")
        made = AuditEntry.objects.filter(action__in=acts, reason=REASON).values_list("target", flat=True)
        self._made = frozenset(made)
        # As DEFAULT_DAILY_BUDGET makes one.
        of_all = Budget.objects.filter(tenant=None, scope_type=ScopeType.TENANT, scope_key=names.EACH, enabled=True)
        self._for_each = [f"${money.format_dollars(each.limit_nanos)} per {each.window}" for each in of_all]

    def add_customer(self, wanted: CustomerWanted) -> None:
        slug = wanted.slug
        try:
            steps = [self._customer(wanted)]
        except FieldError as error:
            self.found.leave(_refused(error), f"customer {slug}, with its keys")
            return
        for limits in wanted.limits:
            steps += self._limits(limits, slug)
        here = self._known.agents_of(slug) if slug in self._known.tenants else {}
        parts = [ImportPart(f"customer {slug}", steps)]
        for count, key in enumerate(wanted.keys):
            if count and count % KEYS_IN_A_PART == 0:
                parts.append(ImportPart(f"keys of {slug}", []))
            parts[-1].steps.append(self._key(key, slug, joins=key.agent in here))
            parts[-1].steps.extend(self._limits(key.limits, slug))
        self.found.parts += parts
        own = Budget.objects.filter(tenant__slug=slug, scope_type=ScopeType.TENANT, enabled=True)
        if not any(step.name.startswith(f"budget {slug} per ") for step in steps) and not own.exists():
            for each in self._for_each:
                self.found.leave(f"a customer without a budget of its own: the platform's bounds it, {each}", slug)
        if slug in self._known.tenants:
            self._tell_what_is_gone(wanted)

    def _customer(self, wanted: CustomerWanted) -> ImportStep:
        slug, target, came = wanted.slug, f"tenant {wanted.slug}", {"litellm": wanted.source}
        source = FieldDifference("litellm", None, wanted.source)

        def join(by: Actor, now: datetime, reason: str) -> None:
            audit.record(action=CAME_OVER, target=target, by=by, now=now, reason=reason, new=came)

        def create(by: Actor, now: datetime, reason: str) -> None:
            tenancy.create_tenant(slug=slug, name=wanted.name, by=by, now=now)
            join(by, now, reason)

        if slug not in self._known.tenants:
            tenancy.check_tenant(tenant=Tenant(slug=slug, name=wanted.name), changes={})
            return ImportStep("tenants", target, CREATED, (FieldDifference("name", None, wanted.name), source), create)
        if self._known.customers.get(wanted.source) == slug:
            return ImportStep("tenants", target, UNCHANGED)
        return ImportStep("tenants", target, CHANGED, (source,), join)

    def _key(self, wanted: KeyWanted, slug: str, *, joins: bool) -> ImportStep:
        name = f"key {wanted.prefix} of {slug}/{wanted.agent}"
        if wanted.digest in self._known.keys:
            return ImportStep("keys", name, UNCHANGED)

        def act(by: Actor, now: datetime, reason: str) -> None:
            tenant = tenancy.tenant_named(slug)
            if joins:
                agent = tenancy.agent_named(tenant, wanted.agent)
            else:
                agent = tenancy.create_agent(tenant=tenant, slug=wanted.agent, by=by, now=now)
            tenancy.adopt_key(
                digest=wanted.digest,
                tenant=tenant,
                agent=agent,
                name=wanted.name,
                expires_at=wanted.expires_at,
                by=by,
                now=now,
            )

        ends = wanted.expires_at.isoformat() if wanted.expires_at else None
        return ImportStep("keys", name, CREATED, _new(name=wanted.name, expires_at=ends), act)

    def _limits(self, wanted: LimitsWanted, slug: str) -> Iterator[ImportStep]:
        scope = {"scope_type": wanted.scope_type, "scope_key": wanted.scope_key}
        for each in wanted.budgets:
            shown: dict[str, Any] = {"limit": money.format_dollars(each.limit_nanos)}
            columns = {**scope, "window": each.window, "limit_nanos": each.limit_nanos}
            if each.alert_thresholds:
                shown["alert_thresholds"] = columns["alert_thresholds"] = list(each.alert_thresholds)
            yield from self._limit("budgets", f"budget {_scope(slug, wanted)} per {each.window}", slug, columns, shown)
        if given := _ceilings(wanted):
            yield from self._limit("rate_limits", f"rate limit {_scope(slug, wanted)}", slug, scope | given, given)

    def _limit(
        self, table: str, name: str, slug: str, columns: Mapping[str, Any], shown: Mapping[str, Any]
    ) -> Iterator[ImportStep]:
        """The step of one budget or rate limit, where there is one. `shown` is what people see of a new one."""
        # A limit at LiteLLM bounds calls, so that one that is off here is another.
        asked = {"tenant": slug if table == "budgets" else {"slug": slug}, **columns, "enabled": True}
        try:
            if slug not in self._known.tenants:
                # Nothing of a customer that is not here can be here; it must be something that can be made.
                _check(table, columns)
                action, differences = CREATED, _new(**shown)
            else:
                change = TABLES[table].plan(dict(asked))
                action, differences = change.action, change.differences
                if action == CREATED:
                    differences = tuple(each for each in differences if each.field != "enabled")
        except FieldError as error:
            self.found.leave(_refused(error), name)
            return
        if action == CHANGED and not self._overwrite:
            told = ", ".join(f"{each.field} {each.old}, at LiteLLM {each.new}" for each in differences)
            self.found.leave("a limit that is another here: it stays, unless --overwrite is said", f"{name} ({told})")
            return
        if action == CREATED and self._is_made(name) and not self._overwrite:
            self.found.leave("a limit that was deleted here: it stays so, unless --overwrite is said", name)
            return

        def create(by: Actor, now: datetime, reason: str) -> None:
            make = budgets.create if table == "budgets" else rate_limits.create
            make(tenant=tenancy.tenant_named(slug), **columns, by=by, now=now, reason=reason)

        def change_it(by: Actor, now: datetime, reason: str) -> None:
            again = TABLES[table].plan(dict(asked))
            if (again.action, again.differences) != (action, differences):
                raise Conflict("", f"{name} is no longer as it was.")
            again.act(by, now, reason)

        yield ImportStep(table, name, action, differences, create if action == CREATED else change_it)

    def _is_made(self, name: str) -> bool:
        """Whether an earlier import made a limit, as far as the audit trail keeps of its name."""
        return name.removeprefix("budget ")[:_TARGET_CHARACTERS] in self._made

    def _tell_what_is_gone(self, customer: CustomerWanted) -> None:
        """What an earlier import made, and LiteLLM has no longer, of the scopes that it told of."""
        scopes = [*customer.limits, *(key.limits for key in customer.keys)]
        wanted = {f"budget {_scope(customer.slug, each)} per {of.window}" for each in scopes for of in each.budgets}
        rated = {f"rate limit {_scope(customer.slug, each)}": each for each in scopes if _ceilings(each)}
        told_of = {(each.scope_type, each.scope_key) for each in scopes}
        here: list[Budget | RateLimit] = [
            *Budget.objects.filter(tenant__slug=customer.slug, enabled=True).select_related("tenant").order_by("id"),
            *RateLimit.objects.filter(tenant__slug=customer.slug, enabled=True).select_related("tenant").order_by("id"),
        ]
        for row in here:
            name = f"budget {row}" if isinstance(row, Budget) else f"rate limit {row}"
            if not self._is_made(name) or (row.scope_type, row.scope_key) not in told_of:
                continue
            if name not in wanted | rated.keys():
                self.found.leave("a limit that came over before and is none at LiteLLM now: delete it", name)
            elif isinstance(row, RateLimit):
                gone = [each for each in CEILINGS if getattr(row, each) and not getattr(rated[name], each)]
                for each in gone:
                    self.found.leave("a ceiling that is none at LiteLLM: take it away", f"{name} ({each})")

    def alias(self, wanted: AliasWanted) -> ImportStep | None:
        name = f"model name {wanted.name}"
        if wanted.name == wanted.model:
            return ImportStep("models", name, UNCHANGED)
        model = Model.objects.filter(provider=wanted.provider, name=wanted.model).first()
        if model is None:
            self.found.leave(
                f"refused: {wanted.provider} has no models of its own in the catalogue; give it a name there.", name
            )
            return None
        if ModelAlias.objects.filter(model=model, name=wanted.name).exists():
            return ImportStep("models", name, UNCHANGED)
        alias = ModelAlias(name=wanted.name, model=model)
        try:
            alias.full_clean(validate_constraints=False)
        except ValidationError as error:
            self.found.leave(f"refused: name {' '.join(error.messages)}", name)
            return None

        def act(by: Actor, now: datetime, reason: str) -> None:
            if ModelAlias.objects.filter(provider=wanted.provider, name=wanted.name).exists():
                raise Conflict("name", f"{wanted.name} is an alias already.")
            prices.save(row=ModelAlias(name=wanted.name, model=model), old=None, by=by, now=now)

        return ImportStep("models", name, CREATED, _new(model=f"{wanted.provider}/{wanted.model}"), act)


def _check(table: str, columns: Mapping[str, Any]) -> None:
    if table == "budgets":
        budgets.validate(Budget(**columns))
    else:
        rate_limits.validate(RateLimit(**columns))


def _ceilings(limits: LimitsWanted) -> dict[str, int]:
    return {ceiling: value for ceiling in CEILINGS if (value := getattr(limits, ceiling))}


def _scope(slug: str, limits: LimitsWanted) -> str:
    return slug if limits.scope_type == "tenant" else f"{slug} {limits.scope_type}:{limits.scope_key}"


def _refused(error: FieldError) -> str:
    return " ".join(filter(None, ("refused:", error.field, error.message)))


def _new(**values: Any) -> tuple[FieldDifference, ...]:
    return tuple(FieldDifference(name, None, value) for name, value in values.items() if value not in (None, ""))
