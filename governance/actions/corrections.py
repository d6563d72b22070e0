"""An operator's last word on an estimate: what it truly cost, or that it cost nothing. Said once for each entry.

The estimate stays as it is; the word is a new row that corrects it, zero dollars where the estimate was right.
"""

from __future__ import annotations

from datetime import datetime

import uuid_utils.compat as uuids
from django.db import IntegrityError, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from governance import audit, ledger
from governance.ledger.call_rules import LATE_SETTLE
from governance.ledger.operations import Adjust
from governance.ledger.results import AdjustResult
from governance.models import Reservation, SpendEntry
from governance.queries.sums import LongSum
from governance.rules import money
from governance.rules.errors import FieldError, NotOpen

CONFIRMED = "confirmed"
VOIDED = "voided"
LAST_WORDS = (CONFIRMED, VOIDED)


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
    if cost_nanos is not None and cost_nanos < 0:
        raise FieldError("cost", "must not be below 0 dollars.")
    money.refuse_beyond("cost", cost_nanos or 0, most=money.MAX_AMOUNT_NANOS)
    return _say(entry, CONFIRMED, cost_nanos, reason=reason, by=by, now=now)


def void(*, entry: SpendEntry, reason: str, by: audit.Actor, now: datetime) -> AdjustResult:
    """Say that an estimated call never was: what it is charged at now is taken back. Raises NotOpen, LedgerError."""
    return _say(entry, VOIDED, 0, reason=reason, by=by, now=now)


@ledger.run_again
def _say(
    entry: SpendEntry, word: str, cost_nanos: int | None, *, reason: str, by: audit.Actor, now: datetime
) -> AdjustResult:
    if not reason.strip():
        raise FieldError("reason", "say why.")
    try:
        with transaction.atomic():
            _lock(entry)
            if not is_open(entry):
                raise _not_open(entry)
            before_nanos = charged_nanos(entry)
            delta_nanos = 0 if cost_nanos is None else cost_nanos - before_nanos
            kind = SpendEntry.Kind.REVERSAL if word == VOIDED else SpendEntry.Kind.ADJUSTMENT
            correction = Adjust(uuids.uuid7(), entry.pk, delta_nanos, word, kind)
            result: AdjustResult = ledger.apply_within([correction], now=now)[0]
            audit.record(
                action=f"entry.{'void' if word == VOIDED else 'confirm'}",
                target=f"entry {entry.pk}",
                reason=reason,
                by=by,
                now=now,
                old={"cost_nanos": before_nanos},
                new={"cost_nanos": before_nanos + delta_nanos},
            )
    except IntegrityError as error:
        if is_open(entry):
            raise
        # Another operator had the last word although nothing here was waited for: the constraint settles it.
        raise _not_open(entry) from error
    return result


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


def _not_open(entry: SpendEntry) -> NotOpen:
    if entry.certainty != SpendEntry.Certainty.ESTIMATED or entry.kind != SpendEntry.Kind.CHARGE:
        return NotOpen("", "only an estimated charge can be confirmed or voided, and this is none.")
    words = SpendEntry.objects.filter(corrects=entry.pk).filter(Q(reason__in=LAST_WORDS) | _settled_late())
    word = words.values_list("reason", flat=True).first()
    return NotOpen("", "it was settled late." if word == LATE_SETTLE else f"it is {word} already.")
