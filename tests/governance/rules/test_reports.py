from __future__ import annotations

from uuid import UUID

import pytest

from governance.rules.decision import WindowView
from governance.rules.policy import Policy
from governance.rules.reports import ReportBound, ReportTrust, bound_of, is_budgeted, is_own
from tests.factories import NOON

TRUST = ReportTrust(1, 100)
BOUND_AGENT = ReportTrust(1, 100, agent_is_fixed=True)


def view(scope_type: str, room: int) -> WindowView:
    return WindowView(
        budget_id=1,
        window_id=1,
        scope=f"{scope_type}:x" if scope_type != "platform" else scope_type,
        scope_type=scope_type,
        scope_key="x",
        kind="day",
        starts_at=NOON,
        ends_at=None,
        limit_nanos=1_000,
        settled_nanos=1_000 - room,
        reserved_nanos=0,
        policy=Policy(),
    )


@pytest.mark.parametrize(
    ("scopes", "trust", "expected"),
    [
        ([], TRUST, False),
        (["platform"], TRUST, False),
        (["tenant"], TRUST, True),
        (["key", "platform"], TRUST, True),
        # A caller names these itself, so that there is a fresh one for each report.
        (["user", "session", "task", "agent"], TRUST, False),
        (["agent"], BOUND_AGENT, True),
        (["user", "session", "task"], BOUND_AGENT, False),
    ],
)
def test_only_budgets_whose_key_the_caller_cannot_choose_bound_its_reports(
    scopes: list[str], trust: ReportTrust, expected: bool
) -> None:
    assert is_budgeted([view(scope, 5) for scope in scopes], trust) is expected


def test_the_tenants_own_budgets_alone_bound_it_and_the_tightest_of_them() -> None:
    views = [view("user", 30), view("tenant", 50), view("platform", 1)]
    assert bound_of(views, unbudgeted_left_nanos=None) == ReportBound(30, "user:x", "day")


@pytest.mark.parametrize(
    ("views", "left", "expected"),
    [
        ([], 7, ReportBound(7)),
        ([("platform", 5)], 7, ReportBound(5, "platform", "day")),
        ([("platform", 9)], 7, ReportBound(7)),
        ([("platform", 9), ("user", -3)], 7, ReportBound(-3, "user:x", "day")),
        ([("platform", 9)], -1, ReportBound(-1)),
    ],
)
def test_without_such_a_budget_the_wider_ones_and_what_is_left_of_a_days_bound_it(
    views: list[tuple[str, int]], left: int, expected: ReportBound
) -> None:
    assert bound_of([view(*each) for each in views], unbudgeted_left_nanos=left) == expected


@pytest.mark.parametrize(
    ("id", "own"),
    [
        ("01a21b8a-8ad7-8029-a4ca-e76fe4b6afba", True),
        # Of the gateway's calls, and of any other version.
        ("01a21b8a-8ad7-7029-a4ca-e76fe4b6afba", False),
        ("01a21b8a-8ad8-4029-a4ca-e76fe4b6afba", False),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", False),
        ("00000000-0000-0000-0000-000000000000", False),
    ],
)
def test_the_holds_of_agents_own_calls_are_known_by_their_ids(id: str, own: bool) -> None:
    assert is_own(UUID(id)) is own
