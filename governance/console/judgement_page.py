"""The console's page of the ledger's judges: what providers report of its days, and what nobody can judge."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from governance.console.base import may
from governance.console.display import Card
from governance.console.pages import ConsolePage
from governance.queries import judgement
from governance.rules.judgement import SENTENCES, Ruling, Silence

TONES = {Ruling.AGREES: "ok", Ruling.DISAGREES: "bad"}


def context(request: HttpRequest, now: datetime) -> dict[str, Any]:
    """The latest judgement that was kept; nobody is asked while somebody waits for a page."""
    last = judgement.last()
    if last is None:
        return {"judged": None, "cards": [], "now": now}
    told = last.details
    return {
        "judged": last,
        "told": told,
        "period": (told["from"], told["to"]),
        "cards": _cards(told, last.disagreeing, last.silent),
        "rulings": [
            row | {"tone": TONES.get(row["ruling"], ""), "why": _why(row["reason"])} for row in told["providers"]
        ],
        "now": now,
    }


def _cards(told: dict[str, Any], disagreeing: int, silent: int) -> list[Card]:
    return [
        Card("On its own word", f"${told['own_word']}", f"of ${told['ledger']}", "visibility_off"),
        Card(
            "Days that differ",
            str(disagreeing),
            "from what their provider reports",
            "balance",
            "danger" if disagreeing else "",
            reverse("admin:governance_alert_changelist") if disagreeing else "",
        ),
        Card(
            "Silent providers",
            str(silent),
            "should have reported and did not",
            "voice_over_off",
            "warning" if silent else "",
        ),
    ]


def _why(silence: str) -> str:
    return SENTENCES[Silence(silence)] if silence else ""


PAGE = ConsolePage(
    title="Judgement",
    path="judgement/",
    name="judgement",
    template="console/judgement.html",
    context=context,
    permission=lambda request: may(request, "governance.view_ledgerjudgement"),
)
