"""What a charge keeps of the decision that let it through."""

from __future__ import annotations

from typing import Any

import pytest

from governance.rules import decision_notes
from governance.rules.decision import Action, Decision, Quote, WindowView
from governance.rules.policy import Policy
from governance.rules.visibility import STAFF, Audience
from tests.factories import NOON

TENANTS = Audience(is_tenants=True)


def view(scope: str = "tenant:acme") -> WindowView:
    kind, _, key = scope.partition(":")
    return WindowView(1, 2, scope, kind, key, "billing_cycle", NOON, None, 100, 80, 0, Policy())


def decided(action: Action, *, model: str = "large", **fields: Any) -> Decision:
    return Decision(action, model=model, quote=Quote(model, 10, max_tokens=512), **fields)


def told(decision: Decision, *, audience: Audience = STAFF) -> list[str]:
    return decision_notes.told(decision_notes.noted(decision, asked="large"), audience=audience)


def test_nothing_is_kept_of_a_call_that_went_as_it_was_asked_for() -> None:
    assert decision_notes.noted(decided(Action.ALLOW), asked="large") == {}
    assert told(decided(Action.ALLOW)) == []


@pytest.mark.parametrize(
    ("decision", "said"),
    [
        (
            decided(Action.DEGRADE, model="small", because=view()),
            ["Downgraded from large to small: tenant:acme per billing cycle was near its cap."],
        ),
        (
            decided(Action.WARN, because=view()),
            ["Let through and announced: tenant:acme per billing cycle was near its cap."],
        ),
        (
            decided(Action.DISABLE_TOOLS, because=view(), disabled_tools=("search", "shell")),
            [
                "Let through without some tools: tenant:acme per billing cycle was near its cap.",
                "Taken away: search, shell.",
            ],
        ),
        (decided(Action.ALLOW, model="medium"), ["medium answered in the place of large."]),
        (
            decided(Action.ALLOW, clamped=True),
            ["Its answer was kept to 512 tokens, which is what the money covered."],
        ),
        (decided(Action.DEGRADE, model="small"), ["Downgraded from large to small: a budget was near its cap."]),
    ],
)
def test_what_was_out_of_the_ordinary_is_told(decision: Decision, said: list[str]) -> None:
    assert told(decision) == said


def test_a_tenants_own_staff_learns_no_wider_budgets_name() -> None:
    wide = decided(Action.WARN, because=view("platform"))
    assert told(wide, audience=TENANTS) == [
        "Let through and announced: a limit of the platform per billing cycle was near its cap."
    ]


@pytest.mark.parametrize(
    ("metadata", "asked", "held_for", "is_one"),
    [
        ({"decision": {"action": "degrade"}}, "large", "small", True),
        # Another candidate answered, and nobody was short of money.
        ({"decision": {"action": "allow"}}, "large", "small", False),
        ({}, "large", "small", True),
        ({}, "large-latest", "large-latest", False),
        ({}, "large", "", False),
        ({}, "", "small", False),
        ({"decision": "odd"}, "large", "large", False),
    ],
)
def test_a_downgrade_is_what_a_budget_did(metadata: dict[str, Any], asked: str, held_for: str, is_one: bool) -> None:
    assert decision_notes.is_downgrade(metadata, asked=asked, held_for=held_for) is is_one


def test_what_is_no_note_says_nothing() -> None:
    assert decision_notes.told({"decision": "odd"}, audience=STAFF) == []
