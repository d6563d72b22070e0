"""What LiteLLM's rows are here, and what cannot be taken over, each with its reason. Pure.

A team is a customer, and so is a user who has keys outside of teams; a key is an agent with that key. Whoever came over
before keeps the names of that time, by LiteLLM's ids and the keys' digests: no name depends on the order of rows.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from config.litellm.export import CONSOLE_TEAM, LitellmExport, LitellmHolder, LitellmKey, LitellmLimits, LitellmModel
from governance.rules import money, names
from governance.rules.errors import FieldError
from governance.rules.windows import WindowKind

# LiteLLM's durations that say the same as a window here.
WINDOWS: Mapping[str, WindowKind] = {
    **dict.fromkeys(("1h", "60m", "3600s", "hourly"), WindowKind.HOUR),
    **dict.fromkeys(("24h", "1d", "daily"), WindowKind.DAY),
    **dict.fromkeys(("7d", "1w", "weekly"), WindowKind.WEEK),
    **dict.fromkeys(("30d", "1mo", "monthly"), WindowKind.MONTH),
    "": WindowKind.LIFETIME,
}
# A limit that lets nothing pass: a budget must be above 0.
LEAST_NANOS = 1
_SLUG_CHARACTERS = 50
_MARK_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class CustomerWanted:
    """`source` is whom it comes from: "team:<id>", "user:<id>"."""

    slug: str
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class KeyWanted:
    digest: str
    prefix: str
    tenant: str
    agent: str
    name: str
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class BudgetWanted:
    tenant: str
    scope_type: str
    scope_key: str
    window: str
    limit_nanos: int
    alert_thresholds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RateLimitWanted:
    """A ceiling of None is none."""

    tenant: str
    scope_type: str
    scope_key: str
    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(frozen=True, slots=True)
class AliasWanted:
    """`provider` and `model` name a model of the catalogue."""

    name: str
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class NotTakenOver:
    """Something that does not come over, or not as it was: why, and what; `count` where only their number is known."""

    why: str
    what: str = ""
    count: int = 1


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key that is here already. `prefix` is what its budgets go by."""

    tenant: str
    agent: str
    prefix: str
    works: bool
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A name that is called goes on to Mistral as it is, so that an alias of ours would mean nothing there."""

    provider: str
    model: str
    is_mistrals: bool = False


@dataclass(frozen=True, slots=True)
class KnownHere:
    """What is here already. `customers` came over before, by their sources; `tenants` are all, by their slugs."""

    customers: Mapping[str, str]
    tenants: frozenset[str]
    keys: Mapping[str, KnownKey]
    # The prefix that a key will have, by its digest.
    prefix_of: Callable[[str], str]
    # What a name means here; None where nothing.
    model_of: Callable[[str], KnownModel | None]


@dataclass(slots=True)
class LitellmMapping:
    customers: list[CustomerWanted] = field(default_factory=list)
    keys: list[KeyWanted] = field(default_factory=list)
    budgets: list[BudgetWanted] = field(default_factory=list)
    rate_limits: list[RateLimitWanted] = field(default_factory=list)
    aliases: list[AliasWanted] = field(default_factory=list)
    not_taken: list[NotTakenOver] = field(default_factory=list)

    def leave(self, why: str, what: str = "", count: int = 1) -> None:
        self.not_taken.append(NotTakenOver(why, what, count))


def of(export: LitellmExport, known: KnownHere, *, others_to: str, now: datetime) -> LitellmMapping:
    """`others_to` is the customer's slug for keys of no team and no user; empty: they are left out."""
    found = LitellmMapping()
    holders = _holders(export, found, others_to=others_to)
    owned = _owned(export.keys, holders, found, known, now=now)
    holders = {source: each for source, each in holders.items() if source.startswith("team:") or owned.get(source)}
    slugs = _slugs(holders, known, found, others_to=others_to)
    for source, holder in holders.items():
        name = _label(holder.alias) or slugs[source]
        found.customers.append(CustomerWanted(slugs[source], name, source))
        _limit(found, holder.limits, tenant=slugs[source], scope_type="tenant", scope_key=slugs[source])
        _add_keys(found, owned.get(source, ()), tenant=slugs[source], known=known)
    _add_end_users(found, export, sorted(slugs.values()))
    _add_aliases(found, export, known)
    idle = [user for user in export.users if f"user:{user.id}" not in holders and user.limits.max_nanos is not None]
    for user in idle:
        found.leave("a user's own budget, where no key is the user's own", user.alias or user.id)
    for sentence, count in export.left.items():
        found.leave(sentence, count=count)
    for table in sorted(export.unread):
        found.leave(f"{table} were not given: what they say is not known")
    return found


def _holders(export: LitellmExport, found: LitellmMapping, *, others_to: str) -> dict[str, LitellmHolder]:
    """Who may be a customer, by their sources."""
    nothing = LitellmLimits(None, "", None, 0, None, None)
    holders = {f"team:{team.id}": team for team in export.teams}
    holders |= {f"user:{user.id}": user for user in export.users}
    known_users = {user.id for user in export.users}
    for key in export.keys:
        if not key.team and key.user and key.user not in known_users:
            known_users.add(key.user)
            holders[f"user:{key.user}"] = LitellmHolder(key.user, "", nothing)
            found.leave("a user who has keys, but is not among the users: no budget is known", key.user)
    if others_to:
        holders["nobody"] = LitellmHolder("nobody", others_to, nothing)
    for source, holder in list(holders.items()):
        if holder.blocked or holder.limits.lets_nothing_pass:
            del holders[source]
            told = names.printable(holder.alias or holder.id)
            found.leave("a team or user that is blocked, or whose rate limit is 0, with its keys", told)
    holders.pop(f"team:{CONSOLE_TEAM}", None)
    return holders


def _owned(
    keys: Sequence[LitellmKey],
    holders: Mapping[str, LitellmHolder],
    found: LitellmMapping,
    known: KnownHere,
    *,
    now: datetime,
) -> dict[str, list[LitellmKey]]:
    """The keys that come over, by whose they are."""
    owned: dict[str, list[LitellmKey]] = defaultdict(list)
    for key in keys:
        source = f"team:{key.team}" if key.team else f"user:{key.user}" if key.user else "nobody"
        if why := _why_left(key, source, holders, now):
            found.leave(why, _told(key))
            if (here := known.keys.get(key.digest)) is not None and here.works and key.team != CONSOLE_TEAM:
                found.leave("a key that is left out now, but came over before and works here: revoke it", here.prefix)
        else:
            owned[source].append(key)
    return owned


def _why_left(key: LitellmKey, source: str, holders: Mapping[str, LitellmHolder], now: datetime) -> str:
    """Why a key does not come over; empty where it does."""
    if key.team == CONSOLE_TEAM:
        return "a session of somebody at LiteLLM's own pages"
    if key.blocked:
        return "a key that is blocked"
    if key.expires_at is not None and key.expires_at <= now:
        return "a key that has expired"
    if not key.calls_models:
        return "a key that may call no models, but administers LiteLLM"
    if key.limits.lets_nothing_pass:
        return "a key whose rate limit is 0: no call would pass"
    if source == "nobody" and source not in holders:
        return "a key of no team and no user: name a customer for these with --others-to"
    if source not in holders:
        return "a key whose team or user is left out, or is not among those given"
    return ""


def _slugs(
    holders: Mapping[str, LitellmHolder], known: KnownHere, found: LitellmMapping, *, others_to: str
) -> dict[str, str]:
    """A slug for each source: that of before, else its alias's, marked with its id where others have the same."""
    before = {source: known.customers[source] for source in holders if source in known.customers}
    # That one is whom the option names, today.
    before.pop("nobody", None)
    wanted = {
        source: others_to if source == "nobody" else _slug(holder.alias or holder.id)
        for source, holder in holders.items()
        if source not in before
    }
    times, taken = Counter(wanted.values()), set(known.customers.values())
    slugs = dict(before)
    for source, slug in wanted.items():
        kind, mark = source.partition(":")[0], hashlib.sha256(source.encode()).hexdigest()[:_MARK_CHARACTERS]
        if source != "nobody":
            if holders[source].alias and not _label(holders[source].alias):
                found.leave("a name that is none here: it is named by its id", names.printable(holders[source].alias))
                slug = ""
            if not slug:
                slug = f"{kind}-{mark}"
            elif times[slug] > 1 or slug in taken:
                slug = f"{slug[: _SLUG_CHARACTERS - _MARK_CHARACTERS - 1].rstrip('-')}-{mark}"
            if slug in known.tenants:
                found.leave("a customer of that name is here already: it is taken for the same one", slug)
        slugs[source] = slug
    return slugs


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_CHARACTERS].rstrip("-")


def _label(text: str) -> str:
    """A name for people; empty where it is none that is kept here."""
    try:
        return names.checked("label", text)
    except FieldError:
        return ""


def _add_keys(found: LitellmMapping, keys: Sequence[LitellmKey], *, tenant: str, known: KnownHere) -> None:
    agents = _agents(found, keys, known)
    for key in keys:
        here = known.keys.get(key.digest)
        prefix = known.prefix_of(key.digest) if here is None else here.prefix
        if here is not None and here.tenant != tenant:
            found.leave(f"a key that is here already, as {here.tenant or 'the platform'}'s: it stays so", here.prefix)
            continue
        if here is not None and not here.works:
            found.leave("a key that was revoked here, or has expired here: it stays so", here.prefix)
            continue
        if here is not None and here.expires_at != key.expires_at:
            found.leave("a key that ends at another time here: issue another, or rotate it", here.prefix)
        name = _label(key.alias or key.masked)
        wanted = KeyWanted(key.digest, prefix, tenant, agents[key.digest], name, key.expires_at)
        found.keys.append(wanted)
        if key.missing_budget:
            found.leave("a key's budget that is not among the budgets", _told(key))
        _limit(found, key.limits, tenant=tenant, scope_type="key", scope_key=prefix)


def _agents(found: LitellmMapping, keys: Sequence[LitellmKey], known: KnownHere) -> dict[str, str]:
    """An agent's name for each key of a customer: that of before, else its alias, marked where others have the same."""
    agents = {key.digest: known.keys[key.digest].agent for key in keys if key.digest in known.keys}
    wanted = {}
    for key in keys:
        if key.digest not in agents:
            try:
                wanted[key.digest] = names.of_call("agent", key.alias or key.masked)
            except FieldError:
                found.leave("a name that is none here: the agent is named by its key", _told(key))
                wanted[key.digest] = ""
    times, taken = Counter(wanted.values()), set(agents.values())
    for digest, name in wanted.items():
        mark = known.prefix_of(digest)[-_MARK_CHARACTERS:]
        if not name:
            name = f"key-{mark}"
        elif times[name] > 1 or name in taken:
            name = f"{name[: names.KINDS['agent'].most - _MARK_CHARACTERS - 1]}-{mark}"
        agents[digest] = name
    return agents


def _told(key: LitellmKey) -> str:
    return names.printable(key.alias or key.masked or key.digest[:8])


def _limit(found: LitellmMapping, limits: LitellmLimits, *, tenant: str, scope_type: str, scope_key: str) -> None:
    """The budgets and the rate limit of one scope."""
    told = tenant if scope_type == "tenant" else f"{tenant} {scope_type}:{scope_key}"
    lowest: dict[WindowKind, int] = {}
    thresholds: dict[WindowKind, tuple[str, ...]] = {}
    for window, nanos, duration in _budgets(limits):
        if window is None:
            amount = money.format_dollars(nanos)
            found.leave(f"a budget for {duration!r}, which is no window here", f"{told} (${amount})")
            continue
        lowest[window] = min(nanos, lowest.get(window, nanos))
    main = _window(limits.duration) if limits.max_nanos is not None else None
    if limits.soft_nanos:
        share_e4 = _soft_share(limits, main)
        if main is not None and 0 < share_e4 < 10_000:
            thresholds[main] = (f"{money.decimal(share_e4).scaleb(-4).normalize():f}", "1")
        else:
            found.leave("a soft budget that is no share of a budget here: set an alert threshold", told)
    if main is WindowKind.LIFETIME and lowest[main] == LEAST_NANOS:
        found.leave("a budget of which nothing is left: no call passes until its limit is raised", told)
    elif main is not None and main is not WindowKind.LIFETIME and limits.spent_nanos:
        amount = money.format_dollars(limits.spent_nanos)
        found.leave("what was spent in LiteLLM's current window: here it begins at zero", f"{told} (${amount})")
    for window, nanos in lowest.items():
        found.budgets.append(
            BudgetWanted(
                tenant, scope_type, scope_key, window.value, max(nanos, LEAST_NANOS), thresholds.get(window, ())
            )
        )
    if limits.requests_per_minute or limits.tokens_per_minute:
        found.rate_limits.append(
            RateLimitWanted(
                tenant, scope_type, scope_key, limits.requests_per_minute or None, limits.tokens_per_minute or None
            )
        )


def _window(duration: str) -> WindowKind | None:
    return WINDOWS.get(duration.strip().lower())


def _soft_share(limits: LitellmLimits, window: WindowKind | None) -> int:
    """The soft budget in ten-thousandths of the limit, rounded down: told a little early rather than late."""
    spent = limits.spent_nanos if window is WindowKind.LIFETIME else 0
    left = (limits.max_nanos or 0) - spent
    return ((limits.soft_nanos or 0) - spent) * 10_000 // left if left > 0 else 0


def _budgets(limits: LitellmLimits) -> Iterator[tuple[WindowKind | None, int, str]]:
    """(window, limit, LiteLLM's duration); of one for a lifetime what is left of it."""
    if limits.max_nanos is not None:
        window = _window(limits.duration)
        spent = limits.spent_nanos if window is WindowKind.LIFETIME else 0
        yield window, max(limits.max_nanos - spent, LEAST_NANOS), limits.duration
    for duration, nanos in limits.windows:
        yield (_window(duration) if duration else None), max(nanos, LEAST_NANOS), duration


def _add_end_users(found: LitellmMapping, export: LitellmExport, slugs: Sequence[str]) -> None:
    """Budgets of LiteLLM's customers, who are our customers' users. LiteLLM does not keep whose they are."""
    for user in export.end_users:
        told = names.printable(user.id)
        if user.blocked:
            found.leave("an end user who is blocked: refuse these calls where they are made", told)
        if not user.has_budget:
            continue
        try:
            name = names.of_call("user", user.id)
        except FieldError as error:
            found.leave(f"an end user whose name is none here, as it {error.message}", told)
            continue
        if user.missing_budget:
            found.leave("an end user's budget that is not among the budgets", told)
        elif len(slugs) != 1:
            found.leave("an end user's budget, as there are several customers whose user it may be", told)
        elif user.limits.lets_nothing_pass:
            found.leave("an end user whose rate limit is 0: refuse these calls where they are made", told)
        else:
            _limit(found, user.limits, tenant=slugs[0], scope_type="user", scope_key=name)


def _add_aliases(found: LitellmMapping, export: LitellmExport, known: KnownHere) -> None:
    for name, models in _deployments(export.models):
        told, here = names.printable(name), known.model_of(name)
        meant = {known.model_of(each.stands_for) if not each.api_base else None for each in models}
        model = next(iter(meant))
        if "*" in name:
            found.leave("a name of many models: callers name each by its own", told)
        elif any(not each.stands_for for each in models):
            if here is None:
                found.leave("a model whose meaning its database seals: give the answer of /model/info too", told)
        elif any(each.api_base for each in models):
            found.leave(
                "a model at an address of its own: add that under Providers, and the model with its price", told
            )
        elif len(meant) > 1:
            found.leave("a name of several models: say in the routing file which follows which", told)
        elif model is None:
            stands_for = names.printable(models[0].stands_for)
            found.leave("a model that is not in the catalogue: add it with its price", f"{told} ({stands_for})")
        elif here is not None and here != model:
            found.leave(f"a model's name that means {here.model} here", told)
        elif here is None and model.is_mistrals:
            why = "a name of one's own for a model of Mistral's, whose API knows no such name: agents name the model"
            found.leave(why, f"{told} ({names.printable(models[0].stands_for)})")
        else:
            found.aliases.append(AliasWanted(name, model.provider, model.model))


def _deployments(models: Sequence[LitellmModel]) -> list[tuple[str, list[LitellmModel]]]:
    """What each name stands for, by the names."""
    found = defaultdict(list)
    for each in models:
        found[each.name].append(each)
    return sorted(found.items())
