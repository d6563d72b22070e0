"""What LiteLLM says of itself, whether its database or its API said it: rows, read by their fields' names. Pure.

The rows are those of its `schema.prisma`; its API's answers hold the same fields. Amounts are dollars.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

from governance.rules import money
from governance.rules.errors import quoted

# Keys by which people are signed in to LiteLLM's own pages.
CONSOLE_TEAM = "litellm-dashboard"
_DIGEST = re.compile("[0-9a-f]{64}")
# Among the routes that a key may call, those of models; a key without any of these is for administration.
_OF_MODELS = re.compile(r"llm_api|/v1|/chat/|/completions|/embeddings|/messages|^\*$|^/\*$")
# Of an amount: LiteLLM adds floats up, so that its sums are finer than a nanodollar.
_NANO = Decimal("0.000000001")


class BadExport(ValueError):
    """What was given is not what LiteLLM says; the message names file or table, row and field."""


@dataclass(frozen=True, slots=True)
class LitellmRow:
    """One row, and where it stands: "keys.json: row 3". Each reader raises BadExport for a value of another kind."""

    place: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Empty where there is none."""
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.wrong(name, "must be text")
        return value

    def needed(self, name: str) -> str:
        if not (value := self.text(name)):
            raise self.wrong(name, "is needed")
        return value

    def dollars(self, name: str, *, rounding: str = ROUND_FLOOR) -> int | None:
        """Nanodollars."""
        value = self._number(name)
        if value is None:
            return None
        try:
            return money.nanos_from_dollars(money.decimal(value.quantize(_NANO, rounding=rounding)))
        except ArithmeticError as error:
            raise self.wrong(name, f"must be an amount of dollars, not {quoted(value)}") from error
        except money.AmountError as error:
            raise self.wrong(name, str(error)) from error

    def whole(self, name: str) -> int | None:
        value = self._number(name)
        if value is not None and (value != value.to_integral_value() or abs(value) >= 2**63):
            raise self.wrong(name, f"must be a whole number, not {quoted(value)}")
        return None if value is None else int(value)

    def flag(self, name: str) -> bool:
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return bool(value)

    def moment(self, name: str) -> datetime | None:
        """Without an offset it is UTC, as its database keeps it."""
        text = self.text(name)
        if not text:
            return None
        try:
            at = datetime.fromisoformat(text)
            return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
        except (ValueError, OverflowError) as error:
            raise self.wrong(name, "must be a time such as 2026-03-01T12:00:00Z") from error

    def listed(self, name: str) -> list[Any]:
        value = self.values.get(name)
        if value is not None and not isinstance(value, list):
            raise self.wrong(name, "must be a list")
        return value or []

    def inner(self, name: str) -> LitellmRow:
        """An object within, empty where there is none."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, "must be an object")
        return LitellmRow(f"{self.place}: {name}", value or {})

    def inner_rows(self, name: str) -> list[LitellmRow]:
        rows = self.listed(name)
        if any(not isinstance(each, dict) for each in rows):
            raise self.wrong(name, "must be a list of objects")
        return [LitellmRow(f"{self.place}: {name}, {number}", each) for number, each in enumerate(rows, 1)]

    def wrong(self, name: str, message: str) -> BadExport:
        return BadExport(f"{self.place}: {name}: {message}")

    def _number(self, name: str) -> Decimal | None:
        value = self.values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.wrong(name, "must be a number")
        return Decimal(value)


@dataclass(frozen=True, slots=True)
class LitellmLimits:
    """What a team, user, key or end user may spend and call; `spent_nanos` is of its current window.

    `windows` are further budgets of a key or team: (duration, nanodollars).
    """

    max_nanos: int | None
    duration: str
    soft_nanos: int | None
    spent_nanos: int
    tokens_per_minute: int | None
    requests_per_minute: int | None
    windows: tuple[tuple[str, int], ...] = ()

    @property
    def lets_nothing_pass(self) -> bool:
        return self.tokens_per_minute == 0 or self.requests_per_minute == 0


@dataclass(frozen=True, slots=True)
class LitellmHolder:
    """A team or a user: who may have keys."""

    id: str
    alias: str
    limits: LitellmLimits
    blocked: bool = False


@dataclass(frozen=True, slots=True)
class LitellmKey:
    digest: str
    alias: str
    masked: str
    team: str
    user: str
    limits: LitellmLimits
    expires_at: datetime | None
    blocked: bool
    # Whether it is for calls of models at all; others are for LiteLLM's administration.
    calls_models: bool
    # A budget of its own that was not among the rows.
    missing_budget: str = ""


@dataclass(frozen=True, slots=True)
class LitellmEndUser:
    id: str
    blocked: bool
    has_budget: bool
    limits: LitellmLimits
    missing_budget: str = ""


@dataclass(frozen=True, slots=True)
class LitellmModel:
    """A deployment: what callers call it, and what it stands for; empty where that cannot be read."""

    name: str
    stands_for: str
    api_base: str


@dataclass(frozen=True, slots=True)
class LitellmExport:
    """All of it. `unread` are the tables that were not given, `left` counts what has no place here, by a sentence."""

    teams: Sequence[LitellmHolder] = ()
    users: Sequence[LitellmHolder] = ()
    keys: Sequence[LitellmKey] = ()
    end_users: Sequence[LitellmEndUser] = ()
    models: Sequence[LitellmModel] = ()
    unread: frozenset[str] = frozenset()
    left: Mapping[str, int] = field(default_factory=dict)


Rows = Sequence[LitellmRow]


def of(tables: Mapping[str, Rows], *, left: Mapping[str, int]) -> LitellmExport:
    """The tables by their names, those of `files.ANSWERS`; one that is missing was not read. Raises BadExport."""

    def rows(name: str, key: str) -> list[LitellmRow]:
        """Each once: pages of an answer may overlap."""
        return list({row.needed(key): row for row in tables.get(name, ())}.values())

    budgets = {row.needed("budget_id"): row for row in tables.get("budgets", ())}
    teams, users, keys = rows("teams", "team_id"), rows("users", "user_id"), rows("keys", "token")
    return LitellmExport(
        teams=[_team(row) for row in teams],
        users=[_user(row) for row in users],
        keys=[_key(row, budgets) for row in keys],
        end_users=[_end_user(row, budgets) for row in rows("customers", "user_id")],
        models=[_model(row) for row in tables.get("models", ())],
        unread=frozenset({"teams", "users", "keys", "models", "customers"} - set(tables)),
        left=_without_place(teams=teams, users=users, keys=keys, tables=tables) | dict(left),
    )


def _team(row: LitellmRow) -> LitellmHolder:
    limits = _limits(row, row, soft=row)
    return LitellmHolder(row.text("team_id"), row.text("team_alias"), limits, blocked=row.flag("blocked"))


def _user(row: LitellmRow) -> LitellmHolder:
    alias = row.text("user_alias") or row.text("user_email")
    return LitellmHolder(row.text("user_id"), alias, _limits(row, row, soft=row))


def _key(row: LitellmRow, budgets: Mapping[str, LitellmRow]) -> LitellmKey:
    if not _DIGEST.fullmatch(row.text("token")):
        # Not what is there: it may be the key itself.
        raise row.wrong("token", "must be 64 hexadecimal digits, the SHA-256 of the key as LiteLLM keeps it")
    shared, missing = _shared_budget(row, budgets)
    own = row if row.values.get("max_budget") is not None else shared
    routes = row.listed("allowed_routes")
    return LitellmKey(
        digest=row.text("token"),
        alias=row.text("key_alias"),
        masked=row.text("key_name"),
        team=row.text("team_id"),
        user=row.text("user_id"),
        limits=_limits(row, own, soft=shared, otherwise=shared),
        expires_at=row.moment("expires"),
        blocked=row.flag("blocked"),
        calls_models=not routes or any(_OF_MODELS.search(str(route)) for route in routes),
        missing_budget=missing,
    )


def _end_user(row: LitellmRow, budgets: Mapping[str, LitellmRow]) -> LitellmEndUser:
    shared, missing = _shared_budget(row, budgets)
    limits = _limits(row, shared, soft=shared, otherwise=shared)
    has_budget = bool(shared.values) or bool(missing)
    return LitellmEndUser(row.text("user_id"), row.flag("blocked"), has_budget, limits, missing)


def _model(row: LitellmRow) -> LitellmModel:
    params = row.inner("litellm_params")
    stands_for, provider = params.text("model"), params.text("custom_llm_provider")
    if stands_for and provider and not stands_for.startswith(f"{provider}/"):
        stands_for = f"{provider}/{stands_for}"
    return LitellmModel(row.needed("model_name"), stands_for, params.text("api_base"))


def _shared_budget(row: LitellmRow, budgets: Mapping[str, LitellmRow]) -> tuple[LitellmRow, str]:
    """The row of budgets that this one names, as its answer brings it along or as it was read; or which is missing."""
    within, named = row.inner("litellm_budget_table"), row.text("budget_id")
    if within.values or not named:
        return within, ""
    return (budgets[named], "") if named in budgets else (within, named)


def _limits(
    row: LitellmRow, budget: LitellmRow, *, soft: LitellmRow, otherwise: LitellmRow | None = None
) -> LitellmLimits:
    """Of a row whose budget is `budget`; a rate that it does not have is that of `otherwise`, as LiteLLM has it."""

    def rate(name: str) -> int | None:
        own = row.whole(name)
        found = own if own is not None or otherwise is None else otherwise.whole(name)
        if found is not None and found < 0:
            raise row.wrong(name, f"must not be negative, as {found} is")
        return found

    most = budget.dollars("max_budget")
    if most is not None and most < 0:
        raise budget.wrong("max_budget", "must not be negative")
    windows = []
    for each in row.inner_rows("budget_limits"):
        nanos = each.dollars("max_budget")
        if nanos is not None:
            windows.append((each.text("budget_duration"), nanos))
    return LitellmLimits(
        max_nanos=most,
        duration=budget.text("budget_duration"),
        soft_nanos=soft.dollars("soft_budget"),
        spent_nanos=max(0, row.dollars("spend", rounding=ROUND_CEILING) or 0),
        tokens_per_minute=rate("tpm_limit"),
        requests_per_minute=rate("rpm_limit"),
        windows=tuple(windows),
    )


def _without_place(*, teams: Rows, users: Rows, keys: Rows, tables: Mapping[str, Rows]) -> dict[str, int]:
    """What has no place here, counted by the sentence that says so."""

    def having(rows: Rows, name: str) -> int:
        return sum(bool(row.values.get(name)) for row in rows)

    def noting(name: str) -> int:
        return sum(bool(row.inner("metadata").values.get(name)) for row in (*teams, *users, *keys))

    own = (*teams, *users, *keys)
    members = [each for row in teams for each in row.inner_rows("team_memberships")]
    models_of_keys = "lists of allowed models: every model can be called here by whoever has the budget for it"
    counted = {
        models_of_keys: having(own, "models"),
        "budgets and rates by model: here they are for all models together": having(own, "model_max_budget")
        + noting("model_rpm_limit")
        + noting("model_tpm_limit"),
        "ceilings of parallel requests: ceilings here are a minute's": having(own, "max_parallel_requests"),
        "budgets of a team's members: the key of each can have one": sum(
            bool(row.text("budget_id")) for row in members
        ),
        "tags for calls: calls say x-task, x-session or x-user": noting("tags"),
        "guardrails and policies: what a call says is not looked into": noting("guardrails") + having(own, "policies"),
        "names of models that a key has for itself": having(keys, "aliases"),
        "keys that LiteLLM rotates by itself: rotate them in the console": having(keys, "auto_rotate"),
        "organisations: a customer stands under the platform's budgets alone": len(tables.get("organizations", ())),
    }
    return {sentence: count for sentence, count in counted.items() if count}
