"""How the product is, in sentences that say what to do. Each leads to the page where it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.urls import reverse
from django.utils.timesince import timesince

from config import health
from config.health import CLOCK_DIFFERS, DEGRADED, DOWN, DRIFTED, FAILING, LAGGING, LATE, NOT_RUN, OK, STALE
from governance.models import LedgerCheck
from governance.queries import jobs, judgement

# By a part and its state: a sentence, and where to look at or mend it (words, the page's name).
WORDS: Mapping[tuple[str, str], tuple[str, tuple[str, str] | None]] = {
    ("database", OK): ("The database answers.", None),
    ("database", DOWN): ("The database does not answer, so calls are refused: bring it back.", None),
    ("database", CLOCK_DIFFERS): ("This machine's clock is not the database's, which decides: set it by NTP.", None),
    ("budget", DOWN): ("The ledger's tables cannot be read: look at the migrations and the database.", None),
    ("mistral", "configured"): ("Mistral is called with your key.", ("Models", "llm_model_changelist")),
    ("mistral", "sandbox"): (
        "Mistral is simulated: answers are made up and cost nothing. Set MISTRAL_API_KEY for the real one.",
        ("Providers", "llm_providerendpoint_changelist"),
    ),
    ("mistral", "not_configured"): (
        "Mistral has no key: set MISTRAL_API_KEY, or add another provider.",
        ("Add a provider", "llm_providerendpoint_add"),
    ),
    ("mistral", FAILING): (
        "A model of Mistral fails of late and rests; others answer. See which.",
        ("Models", "llm_model_changelist"),
    ),
    ("mistral", DOWN): (
        "No model of Mistral has answered of late: look at its status page, and at your key.",
        ("Models", "llm_model_changelist"),
    ),
    ("stripe", "configured"): ("Stripe is connected and its events are handled.", ("Stripe", "stripe-health")),
    ("stripe", "not_configured"): ("Stripe is not connected: nobody is billed.", ("Connect", "stripe-health")),
    ("stripe", "webhook_secret_missing"): (
        "Stripe's webhooks are refused: set STRIPE_WEBHOOK_SECRET.",
        ("Connect", "stripe-health"),
    ),
    ("stripe", STALE): ("Stripe has not been read anew lately: is beat running?", ("What to do", "stripe-health")),
    ("stripe", FAILING): ("Events of Stripe failed or wait for too long.", ("What to do", "stripe-health")),
    ("stripe", DOWN): ("What Stripe said cannot be read from the database.", None),
    ("replica", OK): ("The replica is read for lists and pages.", None),
    ("replica", LAGGING): ("The replica is too far behind, so the primary is read in its place.", None),
    ("replica", DOWN): ("The replica does not answer, so the primary is read in its place.", None),
    ("broker", OK): ("Redis carries the tasks.", None),
    ("broker", "filesystem"): ("Tasks travel through this machine's folders.", None),
    ("broker", DOWN): ("Redis does not answer, so nothing is done in the background: bring it back.", None),
    ("jobs", OK): ("Every periodic job has run in time.", ("Jobs", "settings")),
    ("jobs", NOT_RUN): ("No periodic job has run yet: start a worker and beat.", None),
}
# What works, and is not as it is in production.
UNFINISHED = ("not_configured", "sandbox", "webhook_secret_missing", NOT_RUN)
OVERALL = {
    OK: ("success", "All is well"),
    DEGRADED: ("warning", "Calls go through, and something is wrong"),
    DOWN: ("danger", "Calls do not go through"),
}


@dataclass(frozen=True, slots=True)
class HealthLine:
    """`tone`: success, neutral, warning or danger, with `mark` for whoever does not see colours."""

    words: str
    tone: str
    link: str = ""
    link_words: str = ""

    @property
    def mark(self) -> str:
        return {"success": "check", "neutral": "remove", "warning": "warning", "danger": "error"}[self.tone]


def overall(services: Mapping[str, str]) -> tuple[str, str]:
    """(tone, words) of the whole."""
    return OVERALL[health.overall(dict(services))]


def lines(services: Mapping[str, str], *, check: LedgerCheck | None, now: datetime) -> list[HealthLine]:
    """What is wrong first, then what is left to be set up."""
    found = [_line(part, state) for part, state in services.items() if not _has_words_of_its_own(part, state)]
    if services.get("jobs") == LATE:
        found += [_late(job, now) for job in jobs.late(now=now)]
    found += [_ledger(check, services.get("budget", OK), now), *_judged()]
    order = ("danger", "warning", "neutral", "success")
    return sorted(found, key=lambda line: order.index(line.tone))


def _line(part: str, state: str) -> HealthLine:
    words, lead = WORDS.get((part, state), (f"{part.capitalize()}: {state.replace('_', ' ')}.", None))
    tone = "danger" if state == DOWN else "warning" if state in health.UNWELL else "success"
    if tone == "success" and state in UNFINISHED:
        tone = "neutral"
    return HealthLine(words, tone, reverse(f"admin:{lead[1]}") if lead else "", lead[0] if lead else "")


def _has_words_of_its_own(part: str, state: str) -> bool:
    return (part == "budget" and state != DOWN) or (part == "jobs" and state in (LATE, DOWN))


def _late(job: jobs.JobStatus, now: datetime) -> HealthLine:
    """What to look at first is said by how it is late: begun by nobody, or failing."""
    since = f"not succeeded for {timesince(job.succeeded_at, now)}" if job.succeeded_at else "never succeeded yet"
    do = f"its last run failed: {job.error}" if job.failures else "are a worker and beat running?"
    return HealthLine(f"The job {job.name} has {since}: {do}", "warning", reverse("admin:settings"), "Jobs")


def _ledger(check: LedgerCheck | None, state: str, now: datetime) -> HealthLine:
    checks = reverse("admin:governance_ledgercheck_changelist")
    if check is None:
        return HealthLine("The ledger was not proved yet: beat does it every hour.", "neutral", checks, "Ledger checks")
    ago = timesince(check.checked_at, now)
    if state == DRIFTED:
        words = f"The ledger has drifted, as was seen {ago} ago: run manage.py reconcile_ledger, then with --repair."
        return HealthLine(words, "danger", checks, "What drifted")
    return HealthLine(f"The ledger was proved {ago} ago.", "success", checks, "Ledger checks")


def _judged() -> list[HealthLine]:
    found = judgement.last()
    if found is None:
        return []
    page = reverse("admin:judgement")
    if found.disagreeing:
        return [HealthLine("What providers bill is not what the ledger says.", "warning", page, "Compare")]
    own = f"${found.details['own_word']} of what was spent rests on the ledger's own word."
    return [HealthLine(own, "success", page, "Providers' bills")]
