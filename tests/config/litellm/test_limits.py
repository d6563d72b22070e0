"""Limits that differ here, are off, go beyond ours, or stand beside the platform's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from config.litellm.limits import BEYOND
from governance.actions import budgets, rate_limits
from governance.audit import Actor
from governance.models import ApiKey, Budget, RateLimit
from governance.rules import money
from tests import factories as make
from tests.config.litellm.answers import folder, import_litellm, key, left, report, team

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("at_noon")]

BY = Actor("ada")


def test_a_limit_that_is_off_here_is_another_and_is_turned_on_where_that_is_said(tmp_path: Path) -> None:
    answers = folder(tmp_path, teams=[team(max_budget=5, budget_duration="1d", rpm_limit=4)], keys=[key()])
    import_litellm(answers, "--yes")
    Budget.objects.update(enabled=False)
    rate_limits.change(limit=RateLimit.objects.get(), changes={"enabled": False}, by=BY, now=timezone.now())
    found = left(report(answers, "--yes"))

    assert found["a limit that is another here: it stays, unless --overwrite is said"] == [
        "budget acme per day (enabled False, at LiteLLM True)",
        "rate limit acme (enabled False, at LiteLLM True)",
    ]
    assert not Budget.objects.get().enabled
    import_litellm(answers, "--yes", "--overwrite")
    assert Budget.objects.get().enabled
    assert RateLimit.objects.get().enabled
    assert import_litellm(answers).endswith("Nothing differs.\n")


@pytest.mark.parametrize(
    ("fields", "bounded"),
    [
        ({"rpm_limit": 2**63 - 1}, (None, money.MAX_UNITS, None)),
        ({"tpm_limit": 10**30}, (None, None, money.MAX_UNITS)),
        ({"max_budget": 5e9, "budget_duration": "1d"}, (money.MAX_LIMIT_NANOS, None, None)),
        ({"max_budget": 1e30}, (money.MAX_LIMIT_NANOS, None, None)),
        ({"budget_limits": [{"budget_duration": "7d", "max_budget": 1e12}]}, (money.MAX_LIMIT_NANOS, None, None)),
    ],
)
def test_a_key_whose_limit_is_beyond_ours_comes_over_with_the_most_that_can_be(
    tmp_path: Path, fields: dict[str, Any], bounded: tuple[int | None, ...]
) -> None:
    answers = folder(tmp_path, teams=[team()], keys=[key(**fields)])
    found = left(report(answers, "--yes"))

    assert found == {BEYOND: [f"acme key:{ApiKey.objects.get().prefix}"]}
    budget, rates = Budget.objects.first(), RateLimit.objects.first()
    made = (
        budget and budget.limit_nanos,
        rates and rates.requests_per_minute,
        rates and rates.tokens_per_minute,
    )
    assert made == bounded
    assert import_litellm(answers).endswith("Nothing differs.\n")


def test_a_ceiling_that_is_gone_there_beside_one_that_stays_is_told(tmp_path: Path) -> None:
    import_litellm(folder(tmp_path, teams=[team(rpm_limit=4, tpm_limit=10)]), "--yes")
    found = left(report(folder(tmp_path, teams=[team(rpm_limit=4)]), "--yes"))

    assert found == {"a ceiling that is none at LiteLLM: take it away": ["rate limit acme (tokens_per_minute)"]}


def test_customers_whom_the_platforms_budget_bounds_are_told(tmp_path: Path) -> None:
    budgets.sync_default(now=timezone.now())
    teams = [team(), team("t2", "Globex", max_budget=5, budget_duration="30d"), team("t3", "Initech")]
    answers = folder(tmp_path, teams=teams)
    make.budget("3", tenant=make.tenant("initech"), window="week")
    why = "a customer without a budget of its own: the platform's bounds it, $10.00 per day"

    assert left(report(answers, "--into", "initech", "--yes")) == {why: ["acme"]}
    assert left(report(answers, "--into", "initech", "--yes")) == {why: ["acme"]}


def test_a_limit_of_a_long_name_is_known_again_by_what_the_audit_trail_keeps_of_it(tmp_path: Path) -> None:
    budget = {"budget_id": "b", "max_budget": 1, "budget_duration": "1d"}
    customers = [{"user_id": "u" * 200, "litellm_budget_table": budget}]
    answers = folder(tmp_path, teams=[team()], customers=customers)
    import_litellm(answers, "--yes")
    Budget.objects.all().delete()

    [told] = left(report(answers, "--yes"))["a limit that was deleted here: it stays so, unless --overwrite is said"]
    assert told == f"budget acme user:{'u' * 200} per day"
