"""What LiteLLM says of itself, whether its database or its API said it: rows, read by their fields' names. Pure.

The rows are those of its `schema.prisma`; its API's answers hold the same fields. Amounts are dollars.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, TypeVar

from config.litellm import routes
from config.litellm.routes import ModelRoutes
from governance.rules import money
from governance.rules.errors import quoted

# Keys by which people are signed in to LiteLLM's own pages.
CONSOLE_TEAM = "litellm-dashboard"
_DIGEST = re.compile("[0-9a-f]{64}")
# By what the rows of each table are known.
IDS: Mapping[str, str] = {
    "teams": "team_id",
    "users": "user_id",
    "keys": "token",
    "budgets": "budget_id",
    "customers": "user_id",
    "projects": "project_id",
}
# A deployment that has no more than these is the provider's model as everybody has it.
_PLAIN = {"model", "custom_llm_provider", "api_key", "tpm", "rpm", "timeout", "stream_timeout", "max_retries", "weight"}
_OF_A_PRICE = re.compile("cost|pric")
# Where a call goes, and as whose: "api_base", "litellm_credential_name", "vertex_project", "aws_region_name".
_OF_AN_ADDRESS = re.compile(
    "base|url|endpoint|credential|region|location|project|api_version|proxy|tenant_id|role_name"
)
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
    routes: ModelRoutes
    # None where its project was not given.
    project_is_blocked: bool | None = False
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
    """A deployment: what callers call it, and what it stands for; empty where that cannot be read.

    `settings` are those by which it is not the provider's model as everybody has it.
    """

    name: str
    stands_for: str
    has_address: bool
    has_price: bool
    is_a_teams: bool
    settings: Sequence[str]


@dataclass(frozen=True, slots=True)
class LitellmExport:
    """All of it. `unread` are the tables that were not given, `left` counts what has no place here, by a sentence.

    `odd` says of each row that cannot be read where it stands and why; `odd_users` are the ids of users among them.
    """

    teams: Sequence[LitellmHolder] = ()
    users: Sequence[LitellmHolder] = ()
    keys: Sequence[LitellmKey] = ()
    end_users: Sequence[LitellmEndUser] = ()
    models: Sequence[LitellmModel] = ()
    unread: frozenset[str] = frozenset()
    left: Mapping[str, int] = field(default_factory=dict)
    odd: Sequence[str] = ()
    odd_users: frozenset[str] = frozenset()


Rows = Sequence[LitellmRow]
T = TypeVar("T")


def of(tables: Mapping[str, Rows], *, left: Mapping[str, int]) -> LitellmExport:
    """The tables by their names, those of `files.ANSWERS`; one that is missing was not read. Raises BadExport."""
    _refuse_keys_without_budgets(tables)
    odd: dict[str, None] = {}
    # What each table's rows say, by their ids: pages of an answer may overlap.
    rows: dict[str, dict[str, LitellmRow]] = {name: {} for name in IDS}

    def read(name: str, parsed: Callable[[LitellmRow], T]) -> list[T]:
        found: dict[str, T] = {}
        for row in tables.get(name, ()):
            try:
                id = row.needed(IDS[name])
                found[id], rows[name][id] = parsed(row), row
            except BadExport as error:
                odd[str(error)] = None
        return list(found.values())

    read("budgets", lambda row: row)
    projects = {row.text("project_id"): row.flag("blocked") for row in read("projects", _project)}
    teams, users = read("teams", _team), read("users", _user)
    keys = read("keys", lambda row: _key(row, rows["budgets"], projects))
    end_users = read("customers", lambda row: _end_user(row, rows["budgets"]))
    models = []
    for row in tables.get("models", ()):
        try:
            models.append(_model(row))
        except BadExport as error:
            odd[str(error)] = None
    known = {user.id for user in users}
    ids = {str(row.values.get("user_id")) for row in tables.get("users", ())}
    return LitellmExport(
        teams=teams,
        users=users,
        keys=keys,
        end_users=end_users,
        models=models,
        unread=frozenset({"teams", "users", "keys", "models", "customers"} - set(tables)),
        left=_without_place(rows=rows, tables=tables) | dict(left),
        odd=list(odd),
        odd_users=frozenset(ids - known),
    )


def _refuse_keys_without_budgets(tables: Mapping[str, Rows]) -> None:
    """Of a key that does not say which budget it shares with others none would come over, and nobody would know."""
    for row in tables.get("keys", ()):
        if tables.get("budgets") and "budget_id" not in row.values and not row.values.get("litellm_budget_table"):
            raise row.wrong(
                "budget_id",
                "is not in this answer, so that nobody knows who has which of the budgets:"
                " give --database, or what a newer LiteLLM answers",
            )


def _team(row: LitellmRow) -> LitellmHolder:
    row.inner("metadata"), row.inner_rows("team_memberships")
    return LitellmHolder(row.text("team_id"), row.text("team_alias"), _limits(row), blocked=row.flag("blocked"))


def _user(row: LitellmRow) -> LitellmHolder:
    row.inner("metadata")
    return LitellmHolder(row.text("user_id"), row.text("user_alias") or row.text("user_email"), _limits(row))


def _project(row: LitellmRow) -> LitellmRow:
    row.flag("blocked")
    return row


def _key(row: LitellmRow, budgets: Mapping[str, LitellmRow], projects: Mapping[str, bool]) -> LitellmKey:
    if not _DIGEST.fullmatch(row.text("token")):
        # Not what is there: it may be the key itself.
        raise row.wrong("token", "must be 64 hexadecimal digits, the SHA-256 of the key as LiteLLM keeps it")
    row.inner("metadata")
    shared, missing = _shared_budget(row, budgets)
    project = row.text("project_id")
    return LitellmKey(
        digest=row.text("token"),
        alias=row.text("key_alias"),
        masked=row.text("key_name"),
        team=row.text("team_id"),
        user=row.text("user_id"),
        limits=_limits(row, shared),
        expires_at=row.moment("expires"),
        blocked=row.flag("blocked"),
        routes=routes.of([str(route) for route in row.listed("allowed_routes")]),
        project_is_blocked=projects.get(project) if project else False,
        missing_budget=missing,
    )


def _end_user(row: LitellmRow, budgets: Mapping[str, LitellmRow]) -> LitellmEndUser:
    shared, missing = _shared_budget(row, budgets)
    has_budget = bool(shared.values) or bool(missing)
    return LitellmEndUser(row.text("user_id"), row.flag("blocked"), has_budget, _limits(row, shared), missing)


def _model(row: LitellmRow) -> LitellmModel:
    params, info, name = row.inner("litellm_params"), row.inner("model_info"), row.needed("model_name")
    stands_for, provider = params.text("model"), params.text("custom_llm_provider")
    if stands_for and provider and not stands_for.startswith(f"{provider}/"):
        stands_for = f"{provider}/{stands_for}"
    settings = sorted(each for each, value in params.values.items() if value and each not in _PLAIN)
    return LitellmModel(
        name,
        stands_for,
        has_address=any(_OF_AN_ADDRESS.search(each) for each in settings),
        # Of prices in `model_info` nobody can tell whether they are LiteLLM's own.
        has_price=any(_OF_A_PRICE.search(each) for each in settings) or bool(info.values.get("base_model")),
        is_a_teams=bool(info.values.get("team_id")) or name.startswith("model_name_"),
        settings=settings,
    )


def _shared_budget(row: LitellmRow, budgets: Mapping[str, LitellmRow]) -> tuple[LitellmRow, str]:
    """The row of budgets that this one names, as its answer brings it along or as it was read; or which is missing."""
    within, named = row.inner("litellm_budget_table"), row.text("budget_id")
    if within.values or not named:
        return within, ""
    return (budgets[named], "") if named in budgets else (within, named)


def _limits(row: LitellmRow, shared: LitellmRow | None = None) -> LitellmLimits:
    """Of a row; what it does not say itself says the budget that it shares with others, field by field."""

    def said_by(name: str) -> LitellmRow:
        return row if shared is None or row.values.get(name) not in (None, "") else shared

    def least(name: str, value: int | None) -> int | None:
        if value is not None and value < 0:
            raise said_by(name).wrong(name, "must not be negative")
        return value

    windows = []
    for each in row.inner_rows("budget_limits"):
        nanos = each.dollars("max_budget")
        if nanos is not None:
            windows.append((each.text("budget_duration"), nanos))
    return LitellmLimits(
        max_nanos=least("max_budget", said_by("max_budget").dollars("max_budget")),
        duration=said_by("budget_duration").text("budget_duration"),
        soft_nanos=said_by("soft_budget").dollars("soft_budget"),
        spent_nanos=max(0, row.dollars("spend", rounding=ROUND_CEILING) or 0),
        tokens_per_minute=least("tpm_limit", said_by("tpm_limit").whole("tpm_limit")),
        requests_per_minute=least("rpm_limit", said_by("rpm_limit").whole("rpm_limit")),
        windows=tuple(windows),
    )


def _without_place(*, rows: Mapping[str, Mapping[str, LitellmRow]], tables: Mapping[str, Rows]) -> dict[str, int]:
    """What has no place here, counted by the sentence that says so."""
    teams, keys = list(rows["teams"].values()), list(rows["keys"].values())
    own = (*teams, *rows["users"].values(), *keys)
    rated = (*own, *rows["budgets"].values())

    def having(rows: Iterable[LitellmRow], name: str) -> int:
        return sum(bool(row.values.get(name)) for row in rows)

    def noting(name: str) -> int:
        return sum(bool(row.inner("metadata").values.get(name)) for row in own)

    members = [each for row in teams for each in row.inner_rows("team_memberships")]
    unsaid = [] if "budgets" in tables else [row for row in keys if "budget_id" not in row.values]
    counted = {
        "keys whose answer does not say which budget they share: give --database": sum(
            not row.values.get("litellm_budget_table") for row in unsaid
        ),
        "lists of allowed models: every model can be called here by whoever has the budget for it": having(
            own, "models"
        ),
        "budgets and rates by model: here they are for all models together": having(own, "model_max_budget")
        + noting("model_rpm_limit")
        + noting("model_tpm_limit"),
        "ceilings of parallel requests: ceilings here are a minute's": having(own, "max_parallel_requests"),
        "ceilings of tokens a day: a budget for a day bounds their cost": having(rated, "tpd_limit")
        + noting("tpd_limit"),
        "raises for a time: an operator can make one in the console": noting("temp_budget_increase")
        + having(rows["budgets"].values(), "temp_budget_increase"),
        "keys that are slowed once their budget is used up: here they are refused": noting(
            "throttle_on_budget_exceeded"
        ),
        "budgets that a key gives to end users: a budget for each user can be made": noting("end_user_budget_id"),
        "budgets of a team's members: the key of each can have one": having(members, "budget_id"),
        "tags for calls: calls say x-task, x-session or x-user": noting("tags"),
        "guardrails and policies: what a call says is not looked into": noting("guardrails") + having(own, "policies"),
        "names of models that a key has for itself": having(keys, "aliases"),
        "keys that LiteLLM rotates by itself: rotate them in the console": having(keys, "auto_rotate"),
        "organisations: a customer stands under the platform's budgets alone": len(tables.get("organizations", ())),
        "projects between teams and keys": len(rows["projects"]),
    }
    return {sentence: count for sentence, count in counted.items() if count}
