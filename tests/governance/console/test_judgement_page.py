"""The console's page of the ledger's judges, and what the overview says of them."""

from __future__ import annotations

import pytest
from django.test import Client

from governance.models import LedgerJudgement
from tests import factories as make

pytestmark = pytest.mark.django_db


def test_the_console_shows_what_differs_and_what_nobody_can_judge(admin_client: Client) -> None:
    assert "Nobody has judged the ledger yet" in admin_client.get("/admin/judgement/").content.decode()
    make.judgement()
    html = admin_client.get("/admin/judgement/").content.decode()
    for shown in ("disagrees", "$1.00", "$-0.50", "unjudged: it publishes no costs", "usage_missing", "$0.25"):
        assert shown in html
    assert "anthropic: it refused to report" in html
    assert "<b>groq" not in html
    assert "What providers bill is not what the ledger says." in admin_client.get("/admin/").content.decode()
    listed = admin_client.get("/admin/governance/ledgerjudgement/").content.decode()
    assert "2026-03-09 up to 2026-03-11" in listed
    assert "$0.25 of $1.50" in listed


def test_the_overview_says_how_much_rests_on_the_ledger_s_own_word(admin_client: Client) -> None:
    make.judgement()
    LedgerJudgement.objects.update(disagreeing=0)
    assert "$0.25 of what was spent rests on the ledger&#x27;s own word" in admin_client.get("/admin/").content.decode()
    html = admin_client.get("/admin/judgement/").content.decode()
    assert "sg-tone-danger" not in html
