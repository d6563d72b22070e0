"""Idempotency-Key: a request that is sent again under its key is answered alike, and charged once.

Looked up before any limit is checked. A key belongs to a tenant and is kept for 24 hours; it may be used anew after
that. Whoever begins a request holds a `Claim` until it keeps the answer or forgets the request; one whose process died
is taken over once `ALIVE_FOR` has passed without a sign of life.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, QuerySet

from governance.models import KeptAnswer
from governance.rules import names
from governance.rules.errors import FieldError

HEADER = "idempotency-key"
# What marks an answer that was given before.
REPLAYED = ("x-idempotent-replay", "true")
KEPT_FOR = timedelta(hours=24)
# How long a run is believed to be alive without a sign of it.
ALIVE_FOR = timedelta(seconds=60)
# A longer answer is not kept.
MOST_BYTES = 8 * 1024 * 1024
# How long a repeat waits for the first to end, and how long between looks.
PATIENCE_S = 20.0
PAUSES_S = (0.02, 0.5)
# Refusals that did nothing and may be otherwise a moment later.
PASSING = frozenset({401, 402, 403, 408, 425, 429})
PURGE_BATCH = 1000

Headers = Sequence[tuple[str, str]]


class IdempotencyError(Exception):
    """A request that its Idempotency-Key does not let through."""


class KeyMalformed(IdempotencyError):
    """The key is none: too long, or with characters that no name has."""

    field = "Idempotency-Key"


class KeyReused(IdempotencyError):
    """The key named another request before."""


class StillRunning(IdempotencyError):
    """The first request under the key has not ended within our patience. `wait`: seconds until it is worth asking."""

    wait = 1


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run a request: `run` counts from 1, and is more where a dead one was taken over."""

    id: int
    run: int
    started_at: datetime

    @property
    def taken_over(self) -> bool:
        return self.run > 1


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    status: int
    headers: Headers
    body: bytes


def checked(key: str) -> str:
    """The key as it was sent, or KeyMalformed; empty where none was."""
    try:
        return names.checked("idempotency_key", key)
    except FieldError as error:
        raise KeyMalformed(f"it {error.message}") from error


def digest(*, method: str, path: str, agent: str, body: bytes) -> str:
    """What a key stands for. The agent that a key is bound to belongs to it: another's answer is not handed out."""
    head = "\n".join((method, path.rstrip("/"), agent, ""))
    return hashlib.sha256(head.encode() + body).hexdigest()


def begin(*, tenant_id: int, key: str, digest: str, now: datetime) -> Claim | StoredAnswer | None:
    """The right to run the request, its kept answer, or None while somebody else runs it. Raises KeyReused."""
    started = {"digest": digest, "started_at": now, "alive_until": now + ALIVE_FOR}
    row, created = KeptAnswer.objects.get_or_create(tenant_id=tenant_id, key=key, defaults=started)
    if created:
        return Claim(row.pk, row.runs, now)
    running = row.status == KeptAnswer.Status.RUNNING and row.alive_until > now
    if row.started_at <= now - KEPT_FOR and not running:
        # Its day is over, although the purge has not come round yet.
        KeptAnswer.objects.filter(pk=row.pk, runs=row.runs, started_at=row.started_at).delete()
        return None
    if row.digest != digest:
        raise KeyReused("the Idempotency-Key named another request before; use a new key for a new request.")
    if row.status == KeptAnswer.Status.DONE:
        headers = [(name, value) for name, value in row.response_headers]
        return StoredAnswer(row.response_status or 0, headers, bytes(row.response_body))
    return None if running else _take_over(row, now)


def pauses() -> Iterator[float]:
    """Seconds to wait between looks at a request that somebody else runs, until our patience ends."""
    pause_s, waited_s = PAUSES_S[0], 0.0
    while waited_s < PATIENCE_S:
        yield pause_s
        waited_s += pause_s
        pause_s = min(pause_s * 1.5, PAUSES_S[1])


def still_running() -> StillRunning:
    return StillRunning("the first request under this Idempotency-Key is still running; ask again.")


def keep(claim: Claim, answer: StoredAnswer) -> bool:
    """Keep the answer for repeats; False where it is not of the kind to keep, or the run was taken over meanwhile.

    A refusal that passes is forgotten, for it did nothing. After a failure of ours nobody knows what was done, so a
    repeat takes the run over and goes on under the same name.
    """
    if answer.status >= 500:
        let_go(claim)
        return False
    if answer.status in PASSING or len(answer.body) > MOST_BYTES:
        forget(claim)
        return False
    kept = _mine(claim).update(
        status=KeptAnswer.Status.DONE,
        response_status=answer.status,
        response_headers=[[name, value] for name, value in answer.headers],
        response_body=answer.body,
    )
    return kept == 1


def forget(claim: Claim) -> None:
    """Give the key back: a repeat, or another request under it, begins anew."""
    _mine(claim).delete()


def let_go(claim: Claim) -> None:
    """Stop running without an answer: a repeat takes over at once."""
    _mine(claim).update(alive_until=claim.started_at)


def stay_alive(claim: Claim, *, now: datetime) -> None:
    """Say that the run goes on."""
    _mine(claim).update(alive_until=now + ALIVE_FOR)


def purge(*, now: datetime) -> int:
    """Delete what is older than a day, in batches; how many."""
    total = 0
    while True:
        due = KeptAnswer.objects.filter(started_at__lte=now - KEPT_FOR, alive_until__lte=now)
        ids = list(due.order_by("started_at").values_list("pk", flat=True)[:PURGE_BATCH])
        total += KeptAnswer.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < PURGE_BATCH:
            return total


def _mine(claim: Claim) -> QuerySet[KeptAnswer]:
    return KeptAnswer.objects.filter(pk=claim.id, runs=claim.run, status=KeptAnswer.Status.RUNNING)


def _take_over(row: KeptAnswer, now: datetime) -> Claim | None:
    """Run a request whose runner is dead; None where somebody else was first."""
    taken = KeptAnswer.objects.filter(
        pk=row.pk, runs=row.runs, status=KeptAnswer.Status.RUNNING, alive_until=row.alive_until
    ).update(runs=F("runs") + 1, alive_until=now + ALIVE_FOR)
    return Claim(row.pk, row.runs + 1, row.started_at) if taken else None
