"""An operator's word on a charge: what it truly cost, or that it cost nothing.

An estimate is confirmed or voided, and a charge that was certain voided, once: the last word. After that, and of any
charge, an operator may still say another amount (`correct`), as often as it takes. The charge stays as it is; a word is
a new row that corrects it, zero dollars where the estimate was right.
"""

from __future__ import annotations

from datetime import datetime

import uuid_utils.compat as uuids
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from governance import audit, ledger
from governance.actions import reviews
from governance.ledger.call_rules import CONFIRMED, LATE_SETTLE, VOIDED
from governance.ledger.operations import Adjust
from governance.ledger.results import AdjustResult
from governance.models import Reservation, SpendEntry
from governance.queries.sums import LongSum
from governance.rules import money
from governance.rules.errors import FieldError, NotOpen

LAST_WORDS = (CONFIRMED, VOIDED)
CORRECTED = "corrected"


def open_estimates(entries: QuerySet[SpendEntry]) -> QuerySet[SpendEntry]:
    """Those of the entries that are estimates nobody has confirmed, voided or settled since."""
    words = SpendEntry.objects.filter(corrects=OuterRef("pk"))
    return entries.filter(
        ~Exists(words.filter(reason__in=LAST_WORDS)),
        ~Exists(words.filter(_settled_late())),
        kind=SpendEntry.Kind.CHARGE,
        certainty=SpendEntry.Certainty.ESTIMATED,
    )


def confirm(
    *, entry: SpendEntry, cost_nanos: int | None = None, reason: str, by: audit.Actor, now: datetime
) -> AdjustResult:
    """Say what an estimate truly cost, by default what it is charged at now; the difference is posted.

    Raises NotOpen, and LedgerError where a window's figures would fall below zero.
    """
    return _say(entry, CONFIRMED, cost_nanos, reason=reason, by=by, now=now)


def void(*, entry: SpendEntry, reason: str, by: audit.Actor, now: datetime) -> AdjustResult:
    """Say that a call never was: what it is charged at now is taken back. Raises NotOpen, LedgerError."""
    return _say(entry, VOIDED, 0, reason=reason, by=by, now=now)


def correct(*, entry: SpendEntry, cost_nanos: int, reason: str, by: audit.Actor, now: datetime) -> AdjustResult:
    """Say that a charge cost another amount than it is charged at now, whatever was said of it before.

    Of an open estimate that confirms it. Raises FieldError, NotOpen, LedgerError.
    """
    return _say(entry, CORRECTED, cost_nanos, reason=reason, by=by, now=now)


@ledger.run_again
def _say(
    entry: SpendEntry, asked: str, cost_nanos: int | None, *, reason: str, by: audit.Actor, now: datetime
) -> AdjustResult:
    if cost_nanos is not None and cost_nanos < 0:
        raise FieldError("cost", "must not be below 0 dollars.")
    money.refuse_beyond("cost", cost_nanos or 0, most=money.MAX_AMOUNT_NANOS)
    if not reason.strip():
        raise FieldError("reason", "say why.")
    try:
        with transaction.atomic():
            _lock(entry)
            word = _allowed(entry, asked)
            before_nanos = charged_nanos(entry)
            delta_nanos = 0 if cost_nanos is None else cost_nanos - before_nanos
            if word == CORRECTED and not delta_nanos:
                raise NotOpen("cost", "it costs just that already.")
            kind = SpendEntry.Kind.REVERSAL if word == VOIDED else SpendEntry.Kind.ADJUSTMENT
            correction = Adjust(uuids.uuid7(), entry.pk, delta_nanos, word, kind)
            result: AdjustResult = ledger.apply_within([correction], now=now)[0]
            audit.record(
                action=f"entry.{_ACTS[asked]}",
                target=f"entry {entry.pk}",
                reason=reason,
                by=by,
                now=now,
                old={"cost_nanos": before_nanos},
                new={"cost_nanos": before_nanos + delta_nanos},
            )
    except IntegrityError as error:
        said = _last_word(entry)
        if said is None:
            raise
        # Another operator had the last word although nothing here was waited for: the constraint settles it.
        raise _said_already(said) from error
    return result


# What an audit row calls each act.
_ACTS = {CONFIRMED: "confirm", VOIDED: "void", CORRECTED: "correct"}


def _allowed(entry: SpendEntry, word: str) -> str:
    """The word to say, where this one may be said; of an open estimate any amount is its confirmation."""
    if entry.kind != SpendEntry.Kind.CHARGE:
        raise NotOpen("", f"it corrects the charge {entry.corrects_id}: say it of that one.")
    if reviews.waits_for(entry.pk):
        raise NotOpen("", "a report of what it cost waits for review: accept or reject that first.")
    if is_open(entry):
        return CONFIRMED if word == CORRECTED else word
    if word == CORRECTED:
        return word
    if (said := _last_word(entry)) is not None:
        raise _said_already(said)
    if word == CONFIRMED:
        raise NotOpen("", "only an estimated charge can be confirmed, and this is none.")
    return word


def is_open(entry: SpendEntry) -> bool:
    return open_estimates(SpendEntry.objects.filter(pk=entry.pk)).exists()


def charged_nanos(entry: SpendEntry) -> int:
    """What the entry and all its corrections come to."""
    lines = SpendEntry.objects.filter(Q(pk=entry.pk) | Q(corrects=entry.pk))
    return int(lines.aggregate(sum=LongSum("cost_nanos"))["sum"])


def _lock(entry: SpendEntry) -> None:
    """Wait for others who correct the entry or settle its reservation late; locked before windows, as ever."""
    if entry.reservation_id is not None:
        there = bool(Reservation.objects.select_for_update().filter(pk=entry.reservation_id))
    else:
        there = bool(SpendEntry.objects.select_for_update().filter(pk=entry.pk))
    if not there:
        raise NotOpen("entry", "it was just deleted by retention")


def _settled_late() -> Q:
    """Its reservation was settled after it expired, with what the call truly cost."""
    return Q(reason=LATE_SETTLE, certainty=SpendEntry.Certainty.CONFIRMED)


def _last_word(entry: SpendEntry) -> str | None:
    words = SpendEntry.objects.filter(corrects=entry.pk)
    said = words.filter(reason__in=LAST_WORDS).values_list("reason", flat=True).first()
    if said is None and entry.certainty == SpendEntry.Certainty.ESTIMATED:
        said = words.filter(_settled_late()).values_list("reason", flat=True).first()
    return said


def _said_already(word: str) -> NotOpen:
    return NotOpen("", "it was settled late." if word == LATE_SETTLE else f"it is {word} already.")
