"""Which refusals lead to where more is asked for, and what may be asked."""

from __future__ import annotations

import pytest

from governance.rules import raises
from governance.rules.decision import Action, Decision, Reason
from governance.rules.errors import FieldError
from tests.factories import nanos
from tests.governance.rules.test_remedies import window


def refused(reason: Reason = Reason.BUDGET_EXHAUSTED, **changes: object) -> Decision:
    return Decision(Action.HARD_STOP, reason, because=window(**changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", [Reason.BUDGET_EXHAUSTED, Reason.DOWNGRADE_REFUSED])
def test_what_a_hard_cap_refuses_leads_there(reason: Reason) -> None:
    assert raises.window_to_raise(refused(reason, window_id=7)) == 7


@pytest.mark.parametrize(
    "decision",
    [
        refused(scope_type="platform", scope="platform"),
        refused(window_id=0),
        refused(Reason.BUDGET_IN_FLIGHT),
        Decision(Action.HARD_STOP, Reason.TENANT_SUSPENDED),
        Decision(Action.HARD_STOP, Reason.BUDGET_EXHAUSTED),
    ],
)
def test_nothing_else_does(decision: Decision) -> None:
    assert raises.window_to_raise(decision) is None


def test_words_are_kept_as_one_line_without_what_cannot_be_seen() -> None:
    wished = raises.wish(amount_nanos=nanos("5"), asker=" Ada\u202e  of\nAcme ", reason="a\tbatch\0")
    assert (wished.amount_nanos, wished.asker, wished.reason) == (nanos("5"), "Ada of Acme", "a batch")


def test_the_largest_of_all_is_asked_for_and_fits_the_reason_of_a_top_up() -> None:
    wished = raises.wish(
        amount_nanos=raises.MOST_NANOS, asker="a" * raises.LONGEST_ASKER, reason="r" * raises.LONGEST_REASON
    )
    assert len(f"{wished.asker}: {wished.reason}") <= 300


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"amount_nanos": 0}, "amount"),
        ({"amount_nanos": -1}, "amount"),
        ({"amount_nanos": raises.MOST_NANOS + 1}, "amount"),
        ({"asker": " \n"}, "asker"),
        ({"asker": "a" * (raises.LONGEST_ASKER + 1)}, "asker"),
        ({"reason": ""}, "reason"),
        ({"reason": "r" * (raises.LONGEST_REASON + 1)}, "reason"),
    ],
)
def test_what_may_not_be_asked_names_its_field(changes: dict[str, object], field: str) -> None:
    with pytest.raises(FieldError) as refused:
        raises.wish(**{"amount_nanos": 1, "asker": "Ada", "reason": "why", **changes})  # type: ignore[arg-type]
    assert refused.value.field == field
