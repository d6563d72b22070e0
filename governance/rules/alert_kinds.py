"""What an alert's kind means to people: its title, its area, the page where one acts, and what to do there. Pure.

Each app says so of the kinds that it reports; `config` puts them together (`governance.ports`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from governance.rules.alerting import Area


@dataclass(frozen=True, slots=True)
class AlertKind:
    """`page` is the name of a page of the console, as Django's `reverse` takes it behind "admin:"; empty: the alert's
    own. `advice` is a sentence, and `button` what the link to the page says.
    """

    title: str
    area: Area
    page: str = ""
    advice: str = ""
    button: str = "Open in the console"


OWN: Mapping[str, AlertKind] = {
    "budget_threshold": AlertKind("A budget is being used up", Area.BUDGETS, button="See the budget, raise it"),
    "budget_stopped": AlertKind("A budget is used up", Area.BUDGETS, button="See the budget, raise it"),
    "budget_state": AlertKind("A budget's state changed", Area.BUDGETS, button="See the budget"),
    "budget_reset": AlertKind("A budget was reset", Area.BUDGETS, button="See the budget"),
    "budget_runs_out": AlertKind(
        "A budget will run out before its reset", Area.SPEND, button="See the forecast, raise it"
    ),
    "raise_asked": AlertKind(
        "Somebody asks for more",
        Area.BUDGETS,
        "governance_raiserequest_changelist",
        "Approve or decline it; whoever asked sees what you said.",
        "Decide",
    ),
    "velocity": AlertKind("Money is going fast", Area.SPEND, button="See who spends it, stop it"),
    "anomaly": AlertKind("Unusual spending", Area.SPEND, button="See what is unusual"),
    "overage": AlertKind(
        "Calls cost more than was held for them",
        Area.LEDGER,
        "governance_spendentry_changelist",
        "A cap may have been passed by that much. Look at the model's price and bounds.",
        "See the lines",
    ),
    "ledger_drift": AlertKind(
        "The ledger has drifted",
        Area.LEDGER,
        "governance_ledgercheck_changelist",
        "Run reconcile_ledger to see every figure, and with --repair to mend them.",
        "See the check",
    ),
    "report_needs_review": AlertKind(
        "Reports of spending wait for you",
        Area.LEDGER,
        "governance_pendingreport_changelist",
        "Accept or reject them; until then they count nowhere.",
        "Review the reports",
    ),
    "reservations_not_expired": AlertKind(
        "Reservations cannot be ended", Area.LEDGER, "governance_reservation_changelist", "Run reconcile_ledger."
    ),
    "settlement_stuck": AlertKind(
        "A call cannot be charged", Area.LEDGER, "governance_reservation_changelist", "It is tried again every minute."
    ),
    "holds_lost": AlertKind(
        "The database lost holds", Area.LEDGER, "governance_reservation_changelist", "Run reconcile_ledger."
    ),
    "provider_disagrees": AlertKind(
        "A provider's bill differs from the ledger", Area.LEDGER, "judgement", button="Compare the days"
    ),
    "provider_report_missing": AlertKind(
        "A provider did not report its costs", Area.LEDGER, "judgement", "Look at its admin key.", "See the reports"
    ),
    "model_overruns": AlertKind(
        "A model wrote or read more than permitted", Area.MODELS, "llm_model_changelist", button="See the model"
    ),
    "alerts_undelivered": AlertKind(
        "Alerts do not arrive",
        Area.OPERATIONS,
        "governance_alertchannel_changelist",
        "Mend the channel, send a test, then replay what was given up.",
        "See the channel",
    ),
    "job_late": AlertKind("A job did not run", Area.OPERATIONS, advice="Look whether a worker and one beat run."),
    "disk_full": AlertKind(
        "The disk is nearly full",
        Area.OPERATIONS,
        advice="Free some space, or run purge_spend; calls are refused when it is full.",
    ),
    "database_trouble": AlertKind("The database is in trouble", Area.OPERATIONS),
    "sign_in_from_new_place": AlertKind(
        "Somebody signed in from a new place",
        Area.SECURITY,
        "auth_user_changelist",
        "If that was not them: close the account, end its sessions, look at the audit trail.",
        "See the people",
    ),
    "test": AlertKind("A test", Area.OPERATIONS, "governance_alertchannel_changelist", button="See the channels"),
}


def named(kind: str, known: Mapping[str, AlertKind]) -> AlertKind:
    """What a kind means; of one that nobody described, its own words."""
    return known.get(kind) or AlertKind(kind.replace("_", " ").capitalize(), Area.OPERATIONS)
