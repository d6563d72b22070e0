"""What LiteLLM says of itself, whether its database or its API said it. Pure.

The rows are those of its `schema.prisma`; its API's answers hold the same fields. Amounts are dollars.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_CEILING
from typing import TypeVar

from config.litellm import routes, without_place
from config.litellm.routes import ModelRoutes
from config.litellm.rows import BadExport, LitellmRow

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

    @property
    def has_rates(self) -> bool:
        return self.tokens_per_minute is not None or self.requests_per_minute is not None


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

    `odd` says of each row that cannot be read where it stands and why; `odd_ids` are the ids of such rows, by tables:
    they are there all the same.
    """

    teams: Sequence[LitellmHolder] = ()
    users: Sequence[LitellmHolder] = ()
    keys: Sequence[LitellmKey] = ()
    end_users: Sequence[LitellmEndUser] = ()
    models: Sequence[LitellmModel] = ()
    unread: frozenset[str] = frozenset()
    left: Mapping[str, int] = field(default_factory=dict)
    odd: Sequence[str] = ()
    # Where rows stand that say something else than an earlier one of the same id, and count in its place.
    twice: Sequence[str] = ()
    odd_ids: Mapping[str, frozenset[str]] = field(default_factory=lambda: defaultdict(frozenset))

    @property
    def odd_sources(self) -> frozenset[str]:
        """As a key says whose it is."""
        return frozenset(f"{kind}:{id}" for kind in ("team", "user") for id in self.odd_ids[f"{kind}s"])


Rows = Sequence[LitellmRow]
T = TypeVar("T")


def of(tables: Mapping[str, Rows], *, left: Mapping[str, int]) -> LitellmExport:
    """The tables by their names, those of `files.ANSWERS`; one that is missing was not read. Raises BadExport."""
    _refuse_keys_without_budgets(tables)
    odd: dict[str, None] = {}
    twice: list[str] = []
    # What each table's rows say, by their ids: pages of an answer may overlap.
    rows: dict[str, dict[str, LitellmRow]] = {name: {} for name in IDS}

    def read(name: str, parsed: Callable[[LitellmRow], T]) -> list[T]:
        found: dict[str, T] = {}
        for row in tables.get(name, ()):
            try:
                id, said = row.needed(IDS[name]), parsed(row)
                if found.setdefault(id, said) != said:
                    twice.append(row.place)
                found[id], rows[name][id] = said, row
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
    ids = {
        name: {str(row.values.get(IDS[name])) for row in tables.get(name, ())} for name in ("teams", "users", "keys")
    }
    return LitellmExport(
        teams=teams,
        users=users,
        keys=keys,
        end_users=end_users,
        models=models,
        unread=frozenset({"teams", "users", "keys", "models", "customers"} - set(tables)),
        left=without_place.of(rows, tables) | dict(left),
        odd=list(odd),
        twice=twice,
        odd_ids={name: frozenset(found - rows[name].keys()) for name, found in ids.items()},
    )


def _refuse_keys_without_budgets(tables: Mapping[str, Rows]) -> None:
    """Of a key that does not say which budget it shares with others none would come over, and nobody would know."""
    for row in tables.get("keys", ()):
        if tables.get("budgets") and "budget_id" not in row.values and not row.values.get("litellm_budget_table"):
            raise row.wrong(
                "budget_id",
                "is not in this answer, so that nobody knows who has which of the budgets:"
                " give --database without this file, or what a newer LiteLLM answers",
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
        team=row.id("team_id"),
        user=row.id("user_id"),
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
