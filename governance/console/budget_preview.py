"""The preview beside a budget's form: what the typed policy would have done to the calls of the last 30 days."""

from __future__ import annotations

from typing import Any

from governance.console import display
from governance.queries.replays import PolicyPreview
from governance.rules.replay import ReplayOutcome


def context(found: PolicyPreview) -> dict[str, Any]:
    """What a typed policy would have done, beside what the present one does to the same calls."""
    firsts = [at for at in (found.then.first_refused_at, found.then.first_downgraded_at) if at]
    return {
        "looked_at": found.then.looked_at,
        "since": display.moment(found.since, "day"),
        "is_part": found.is_part,
        "sentence": _in_short(found.then),
        "first": display.moment(min(firsts), "day") if firsts else "",
        "rows": [
            (words, display.count(getattr(found.now, name)), display.count(getattr(found.then, name)))
            for words, name in (
                ("refused", "refused"),
                ("made to wait", "waited"),
                ("downgraded", "downgraded"),
                ("shortened", "clamped"),
                ("warned", "warned"),
            )
        ],
        "spent": (display.dollars(found.now.spent_nanos), display.dollars(found.then.spent_nanos)),
        "downgrades": [(asked, served, number) for (asked, served), number in found.then.downgrades.most_common(5)],
    }


def _in_short(outcome: ReplayOutcome) -> str:
    parts = [
        f"{number:,} {words}"
        for number, words in (
            (outcome.downgraded, "downgraded"),
            (outcome.refused, "refused"),
            (outcome.waited, "made to wait"),
            (outcome.clamped, "shortened"),
        )
        if number
    ]
    if not parts:
        return "No call would have been refused or changed"
    # "41 calls downgraded, 3 refused".
    parts[0] = parts[0].replace(" ", " call " if parts[0].startswith("1 ") else " calls ", 1)
    return ", ".join(parts)
