"""What LiteLLM's rows are here, and what cannot be taken over, each with its reason. Pure.

A team is a customer, and so is a user who has keys outside of teams; a key is an agent with that key. Whoever came over
before keeps the names of that time, by LiteLLM's ids and the keys' digests: no name depends on the order of rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from config.litellm import aliases, limits
from config.litellm.aliases import AliasWanted
from config.litellm.export import CONSOLE_TEAM, LitellmEndUser, LitellmExport, LitellmHolder, LitellmKey, LitellmLimits
from config.litellm.limits import LimitsWanted
from config.litellm.routes import ModelRoutes
from governance.rules import names
from governance.rules.errors import FieldError

_SLUG_CHARACTERS = 50
_MARK_CHARACTERS = 8


@dataclass(frozen=True, slots=True)
class KeyWanted:
    digest: str
    prefix: str
    agent: str
    name: str
    expires_at: datetime | None
    limits: LimitsWanted


@dataclass(frozen=True, slots=True)
class CustomerWanted:
    """`source` is whom it comes from: "team:<id>", "user:<id>". `limits` are its own, and those of its users."""

    slug: str
    name: str
    source: str
    limits: list[LimitsWanted] = field(default_factory=list)
    keys: list[KeyWanted] = field(default_factory=list)


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
class KnownHere:
    """What is here already. `customers` came over before, by their sources; `tenants` are all, by their slugs."""

    customers: Mapping[str, str]
    tenants: frozenset[str]
    # Those among the export's, by their digests; and the prefixes of others that came over before and work.
    keys: Mapping[str, KnownKey]
    other_keys: Sequence[str]
    # The agents of a customer, by its slug, each with whether a key that came over is its.
    agents_of: Callable[[str], Mapping[str, bool]]
    # The prefix that a key will have, by its digest: made with a secret, so nobody can name a team like another's mark.
    prefix_of: Callable[[str], str]
    model_of: aliases.Meaning
    owners_of: aliases.Owners

    def mark(self, of: str) -> str:
        """Tells apart those who would have one name."""
        return self.prefix_of(of)[-_MARK_CHARACTERS:]


@dataclass(slots=True)
class LitellmMapping:
    customers: list[CustomerWanted] = field(default_factory=list)
    aliases: list[AliasWanted] = field(default_factory=list)
    not_taken: list[NotTakenOver] = field(default_factory=list)

    def leave(self, why: str, what: str = "", count: int = 1) -> None:
        self.not_taken.append(NotTakenOver(why, what, count))


def of(
    export: LitellmExport, known: KnownHere, *, others_to: str, into: Collection[str] = (), now: datetime
) -> LitellmMapping:
    """`others_to` is the customer's slug for keys of no team and no user; empty: they are left out.

    `into` are the slugs of customers who are here already and may be joined. Raises FieldError.
    """
    found = LitellmMapping()
    if unknown := sorted(set(into) - known.tenants):
        raise FieldError("into", f"there is no tenant {unknown[0]!r}")
    for row in export.odd:
        found.leave("a row that cannot be read", names.printable(row))
    for place in export.twice:
        found.leave("a row that is there twice, and says two things: the last counts", names.printable(place))
    holders = _holders(export, found, others_to=others_to)
    owned = _owned(export, holders, found, known, now=now)
    holders = {source: each for source, each in holders.items() if source.startswith("team:") or owned.get(source)}
    slugs = _slugs(holders, known, found, others_to=others_to, into=into)
    for source, holder in holders.items():
        keys = owned.get(source, ())
        if (slug := slugs.get(source)) is None:
            for key in keys:
                found.leave("a key whose customer is left out", _told(key))
            continue
        own = limits.of(holder.limits, tenant=slug, scope_type="tenant", scope_key=slug, leave=found.leave)
        wanted = CustomerWanted(slug, _label(holder.alias) or slug, source, [own])
        wanted.keys.extend(_keys(found, keys, tenant=slug, known=known, joins=slug in into))
        found.customers.append(wanted)
    for slug in sorted(set(into) - set(slugs.values())):
        found.leave("--into without effect: nobody of that name alone comes over", slug)
    _add_end_users(found, export, several=len(holders) > 1)
    found.aliases = aliases.of(export.models, known.model_of, known.owners_of, leave=found.leave)
    _tell_users_limits(found, export, owned)
    _tell_who_is_gone(found, export, known)
    for sentence, count in export.left.items():
        found.leave(sentence, count=count)
    for table in sorted(export.unread):
        found.leave(f"{table} were not given: what they say is not known")
    return found


def _tell_users_limits(found: LitellmMapping, export: LitellmExport, owned: Mapping[str, Sequence[LitellmKey]]) -> None:
    """What users may spend and call, beyond the keys of their own: who calls with a team's key is the team's here."""
    with_a_teams = {key.user for keys in owned.values() for key in keys if key.team}
    for user in export.users:
        told, has_budget = names.printable(user.alias or user.id), user.limits.max_nanos is not None
        if has_budget and f"user:{user.id}" not in owned:
            found.leave("a user's own budget, where no key is the user's own", told)
        if user.id in with_a_teams and (has_budget or user.limits.has_rates):
            found.leave(
                "a user's limits, by which LiteLLM bounds that user's keys of teams too: give each of these its own",
                told,
            )


def _tell_who_is_gone(found: LitellmMapping, export: LitellmExport, known: KnownHere) -> None:
    """Who came over before and is not among those given."""
    if "keys" not in export.unread:
        odd = {known.prefix_of(digest) for digest in export.odd_ids["keys"] if digest.isascii()}
        for prefix in known.other_keys:
            if prefix not in odd:
                found.leave("a key that came over before and is not among those given: revoke it", prefix)
    if not export.unread & {"teams", "users"}:
        given = {f"team:{each.id}" for each in export.teams} | {f"user:{each.id}" for each in export.users}
        given |= {f"user:{key.user}" for key in export.keys} | {"nobody"} | export.odd_sources
        for source, slug in known.customers.items():
            if source not in given:
                found.leave("a customer that came over before and is not among those given: revoke its keys", slug)


def _holders(export: LitellmExport, found: LitellmMapping, *, others_to: str) -> dict[str, LitellmHolder]:
    """Who may be a customer, by their sources."""
    nothing = LitellmLimits(None, "", None, 0, None, None)
    holders = {f"team:{team.id}": team for team in export.teams}
    holders |= {f"user:{user.id}": user for user in export.users}
    known_users = {user.id for user in export.users} | export.odd_ids["users"]
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
    export: LitellmExport,
    holders: Mapping[str, LitellmHolder],
    found: LitellmMapping,
    known: KnownHere,
    *,
    now: datetime,
) -> dict[str, list[LitellmKey]]:
    """The keys that come over, by whose they are."""
    owned: dict[str, list[LitellmKey]] = defaultdict(list)
    stopped = {user.id for user in export.users if user.limits.lets_nothing_pass}
    for key in export.keys:
        source = f"team:{key.team}" if key.team else f"user:{key.user}" if key.user else "nobody"
        why = _why_left(key, source, holders, now)
        if not why and key.user in stopped:
            why = "a key of a user whose rate limit is 0: no call would pass"
        if why:
            found.leave(why, _told(key))
            here = known.keys.get(key.digest)
            # Of whom nothing can be read nobody knows that they are gone.
            if here is not None and here.works and key.team != CONSOLE_TEAM and source not in export.odd_sources:
                found.leave("a key that is left out now, but came over before and works here: revoke it", here.prefix)
            continue
        owned[source].append(key)
        if key.routes is not ModelRoutes.ALL:
            found.leave("routes that a key is held to: here it may call every route of models", _told(key))
        if key.project_is_blocked is None:
            found.leave("a key of a project that was not given: whether that is blocked is not known", _told(key))
    return owned


def _why_left(key: LitellmKey, source: str, holders: Mapping[str, LitellmHolder], now: datetime) -> str:
    """Why a key does not come over; empty where it does."""
    if key.team == CONSOLE_TEAM:
        return "a session of somebody at LiteLLM's own pages"
    if key.blocked:
        return "a key that is blocked"
    if key.project_is_blocked:
        return "a key of a project that is blocked"
    if key.expires_at is not None and key.expires_at <= now:
        return "a key that has expired"
    if key.routes is ModelRoutes.NONE:
        return "a key that may call no models, but administers LiteLLM"
    if key.routes is ModelRoutes.NO_CHATS:
        return "a key that is held to routes without chat completions, which every key may call here"
    if key.limits.lets_nothing_pass:
        return "a key whose rate limit is 0: no call would pass"
    if source == "nobody" and source not in holders:
        return "a key of no team and no user: name a customer for these with --others-to"
    if source not in holders:
        return "a key whose team or user is left out, or is not among those given"
    return ""


def _slugs(
    holders: Mapping[str, LitellmHolder],
    known: KnownHere,
    found: LitellmMapping,
    *,
    others_to: str,
    into: Collection[str],
) -> dict[str, str]:
    """A slug for each source that comes over: that of before, else its alias's, marked where others have the same."""
    # Of keys of nobody that one is whom the option names, today.
    named = [source for source in holders if source != "nobody"]
    before = {source: known.customers[source] for source in named if source in known.customers}
    wanted = {}
    for source in named:
        alias = holders[source].alias
        is_named = _label(alias) or not alias
        if not is_named and source not in before:
            found.leave("a name that is none here: it is named by its id", names.printable(alias))
        wanted[source] = _slug(alias or holders[source].id) if is_named else ""

    def marked(source: str) -> str:
        plain = wanted[source][: _SLUG_CHARACTERS - _MARK_CHARACTERS - 1].rstrip("-")
        return f"{plain or source.partition(':')[0]}-{known.mark(source)}"

    taken = set(known.customers.values())
    apart, slugs = _told_apart(wanted, before, taken=taken, marked=marked), dict(before)
    for source in [each for each in wanted if each not in before]:
        told = names.printable(f"{holders[source].alias or holders[source].id} ({source})")
        if source not in apart:
            found.leave("a name that would be another's here: give it another at LiteLLM", told)
        elif apart[source] in known.tenants and apart[source] not in into:
            found.leave("a customer of that name is here already: say --into and its slug to join it", apart[source])
        else:
            slugs[source] = apart[source]
    if "nobody" in holders:
        if others_to in apart.values() or (others_to in taken and known.customers.get("nobody") != others_to):
            raise FieldError("others-to", f"{others_to!r} is a team or user of LiteLLM's: name another customer.")
        slugs["nobody"] = others_to
    return slugs


def _told_apart(
    wanted: Mapping[str, str], before: Mapping[str, str], *, taken: Collection[str], marked: Callable[[str], str]
) -> dict[str, str]:
    """A name for each who wants one: that of `before`, else its own, marked where it is empty, taken or several's.

    Names are counted of all, also of whoever has one already: broken off and run again it ends with the same names.
    Whoever would still have another's name has none: of two who chose their names one may want to be taken for the
    other.
    """
    times = Counter(wanted.values())
    final = {
        who: before.get(who) or (name if times[name] == 1 and name and name not in taken else marked(who))
        for who, name in wanted.items()
    }
    times = Counter(final.values())
    return {who: name for who, name in final.items() if who in before or (times[name] == 1 and name not in taken)}


def _slug(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:_SLUG_CHARACTERS].rstrip("-")


def _label(text: str) -> str:
    """A name for people; empty where it is none that is kept here."""
    try:
        return names.checked("label", text)
    except FieldError:
        return ""


def _keys(
    found: LitellmMapping, keys: Sequence[LitellmKey], *, tenant: str, known: KnownHere, joins: bool
) -> Iterator[KeyWanted]:
    agents = _agents(found, keys, tenant=tenant, known=known, joins=joins)
    for key in keys:
        here = known.keys.get(key.digest)
        prefix = known.prefix_of(key.digest) if here is None else here.prefix
        if here is not None and here.tenant != tenant:
            found.leave(f"a key that is here already, as {here.tenant or 'the platform'}'s: it stays so", here.prefix)
            continue
        if here is not None and not here.works:
            found.leave("a key that was revoked here, or has expired here: it stays so", here.prefix)
            continue
        if key.digest not in agents:
            found.leave("a key whose agent would have another's name here: give it another alias", _told(key))
            continue
        if here is not None and here.expires_at != key.expires_at:
            found.leave("a key that ends at another time here: issue another, or rotate it", here.prefix)
        if key.missing_budget:
            found.leave("a key's budget that is not among the budgets", _told(key))
        own = limits.of(key.limits, tenant=tenant, scope_type="key", scope_key=prefix, leave=found.leave)
        yield KeyWanted(key.digest, prefix, agents[key.digest], _label(key.alias or key.masked), key.expires_at, own)


def _agents(
    found: LitellmMapping, keys: Sequence[LitellmKey], *, tenant: str, known: KnownHere, joins: bool
) -> dict[str, str]:
    """An agent's name for each key of a customer: that of before, else its alias, marked where others have the same."""
    here = [key for key in keys if key.digest in known.keys and known.keys[key.digest].tenant == tenant]
    before = {key.digest: known.keys[key.digest].agent for key in here}
    wanted = {}
    for key in keys:
        try:
            wanted[key.digest] = names.of_call("agent", key.alias or key.masked)
        except FieldError:
            if key.digest not in before:
                found.leave("a name that is none here: the agent is named by its key", _told(key))
            wanted[key.digest] = ""

    def marked(digest: str) -> str:
        plain = wanted[digest][: names.KINDS["agent"].most - _MARK_CHARACTERS - 1]
        return f"{plain or 'key'}-{known.mark(digest)}"

    # One that is here is joined where its customer is, but never one whom another key names.
    agents = known.agents_of(tenant) if tenant in known.tenants else {}
    taken = {name for name, is_a_keys in agents.items() if is_a_keys or not joins}
    return _told_apart(wanted, before, taken=taken, marked=marked)


def _told(key: LitellmKey) -> str:
    return names.printable(key.alias or key.masked or key.digest[:8])


def _add_end_users(found: LitellmMapping, export: LitellmExport, *, several: bool) -> None:
    """Budgets of LiteLLM's customers, who are our customers' users. LiteLLM does not keep whose they are."""
    by_name: dict[str, list[LitellmEndUser]] = defaultdict(list)
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
        elif several or not found.customers:
            found.leave("an end user's budget, as there are several customers whose user it may be", told)
        elif user.limits.lets_nothing_pass:
            found.leave("an end user whose rate limit is 0: refuse these calls where they are made", told)
        else:
            by_name[name].append(user)
    for name, users in by_name.items():
        [customer] = found.customers
        scope = {"tenant": customer.slug, "scope_type": "user", "scope_key": name}
        customer.limits.append(limits.lowest([limits.of(each.limits, **scope, leave=found.leave) for each in users]))
        if len(users) > 1:
            told = ", ".join(names.printable(repr(each.id)) for each in users)
            found.leave("end users whose names are one here: the lowest of their limits is for all of them", told)
