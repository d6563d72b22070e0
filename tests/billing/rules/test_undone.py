"""What came back is as if it had never gone, and a call as if it had been settled when it began."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st

from billing.rules import balance
from billing.rules.balance import Ended, Limit, Part, Spell
from billing.rules.undone import Fall, Undone
from tests.billing.events import DAY, START

Acts = list[tuple[str, int]]
amounts = st.integers(1, 60)
acts = st.lists(st.tuples(st.sampled_from(["pay", "refund", "gift", "use"]), amounts), max_size=8)


@dataclass
class Life:
    """One part: paid for, refunded, given more of or less by an operator, and used."""

    paid: int = 50
    forgiven: int = 0
    gift: int = 0
    used: int = 0
    allowed: int = 50
    spell: Spell = field(default_factory=lambda: Spell(START, (), 0))
    limit: Limit | None = None

    def look(self, *ended: Ended) -> int:
        allows = max(0, self.paid + self.gift)
        part = Part(
            "a", START + 30 * DAY, allows, self.paid, max(0, self.paid + self.gift), forgiven_nanos=self.forgiven
        )
        went = self.limit.undone.get("a", Undone()).gone_nanos(is_given=False) if self.limit else 0
        lowered = {"a": self.allowed - allows} if self.forgiven == went else {}
        now = replace(self.spell, parts=(part,), used_nanos=self.used, lowered=lowered, ended=ended)
        self.limit, self.allowed = balance.limit(balance.Balance(), now, []), allows
        self.spell = replace(now, draws=self.limit.draws, undone=self.limit.undone)
        return self.limit.left_nanos

    def act(self, kind: str, nanos: int) -> None:
        if kind == "pay":
            self.paid += nanos
        elif kind == "refund":
            nanos = min(nanos, self.paid)
            self.paid, self.forgiven = self.paid - nanos, self.forgiven + nanos
        elif kind == "gift":
            self.gift = nanos - 30
        else:
            self.used += nanos
        self.look()


def lived(*all: Acts) -> Life:
    life = Life()
    life.look()
    for one in all:
        for kind, nanos in one:
            life.act(kind, nanos)
    return life


@given(first=acts, between=st.lists(st.tuples(st.sampled_from(["gift", "use"]), amounts), max_size=6), nanos=amounts)
def test_a_refund_that_fails_was_none(first: Acts, between: Acts, nanos: int) -> None:
    life, plain = lived(first), lived(first)
    nanos = min(nanos, life.paid)
    life.act("refund", nanos)
    for kind, dollars in between:
        dollars = min(dollars, life.look()) if kind == "use" else dollars
        for one in (life, plain):
            one.act(kind, dollars)
    life.paid, life.forgiven = life.paid + nanos, life.forgiven - nanos
    assert life.look() == plain.look()


@given(nanos=amounts, tries=st.lists(amounts, max_size=5))
def test_of_an_operators_limits_the_last_one_counts(nanos: int, tries: list[int]) -> None:
    life = lived([("gift", 60), ("use", nanos)], [("gift", one) for one in tries], [("gift", 30)])
    assert life.look() == max(0, 50 - nanos)


@given(first=acts, cost=amounts, fall=amounts, again=amounts, part=st.integers(0, 100))
def test_a_call_under_way_is_as_one_that_ended_before(first: Acts, cost: int, fall: int, again: int, part: int) -> None:
    before, after = lived(first), lived(first)
    cost = min(cost, after.look())
    before.act("use", cost)
    for one in (before, after):
        one.act("refund", fall)
    assert after.limit is not None
    under_way = after.limit.most_nanos, after.limit.falls
    for one in (before, after):
        one.act("pay", again)
    more = before.look() * part // 100
    for one in (before, after):
        one.act("use", more)
    after.used += cost
    most = under_way[0].get("a", 0)
    left = after.look(*([Ended(cost, *under_way)] if most else []))
    assert left <= before.look()
    # What others used since is in the way of what it could be drawn on.
    assert left == before.look() or after.used > most


def test_what_fell_before_they_began_is_no_matter_of_calls() -> None:
    falls = (Fall(50, 50, 50), Fall(30, 20, 20))
    assert Undone(falls).heard(60, [(1, 10)]).used_nanos == 10
    assert Undone(falls).heard(60, [(0, 10)]).used_nanos == 10
    assert Undone(falls).heard(60, [(2, 10)]) == Undone(falls)
    # Use that is voided is none of what went.
    assert Undone((Fall(50, 50, 90),)).heard(60).used_nanos == 10
