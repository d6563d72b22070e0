"""Idempotency-Key: a request that is sent again under its key is answered alike, and charged once.

Looked up before any limit is checked. A key belongs to a tenant and is kept for 24 hours; it may be used anew after
that. Whoever begins a request holds a `Claim` until it keeps the answer or forgets the request; one whose process died
is taken over once `ALIVE_FOR` has passed without a sign of life.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock

from django.conf import settings
from django.db import IntegrityError
from django.db.models import F, QuerySet, Sum
from django.db.models.functions import Length

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
# Answers up to here are kept however many bytes those of their API key have: they are bounded by their number.
SMALL_BYTES = 64 * 1024
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


class TooManyKept(IdempotencyError):
    """An API key has as many requests kept as there may be. `wait`: seconds until it is worth asking."""

    wait = 600


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


def digest(*, method: str, path: str, agent: str, body: bytes, whom: Sequence[str] = ()) -> str:
    """What a key stands for. The agent that a key is bound to, and `whom` it is for, belong to it.

    Another's answer is not handed out.
    """
    head = "\n".join((method, path.rstrip("/"), agent, *whom, ""))
    return hashlib.sha256(head.encode() + body).hexdigest()


class WaitingRepeats:
    """The repeats of one process that wait for a first run, so many for each API key: a wait takes a place and time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: Counter[int | None] = Counter()

    @property
    def count(self) -> int:
        """How many wait now."""
        return self._waiting.total()

    @contextmanager
    def place(self, api_key_id: int | None) -> Iterator[None]:
        """A place to wait in. Raises StillRunning where all are taken."""
        with self._lock:
            if self._waiting[api_key_id] >= settings.WAITING_REPEATS_PER_KEY:
                raise still_running(waiting=settings.WAITING_REPEATS_PER_KEY)
            self._waiting[api_key_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting[api_key_id] -= 1
                if not self._waiting[api_key_id]:
                    del self._waiting[api_key_id]


def begin(
    *, tenant_id: int | None, key: str, digest: str, now: datetime, api_key_id: int | None = None
) -> Claim | StoredAnswer | None:
    """The right to run the request, its kept answer, or None while somebody else runs it.

    `tenant_id`: None for what operators do to all tenants.

    Raises KeyReused, and TooManyKept for a new request.
    """
    kept = KeptAnswer.objects.filter(tenant=tenant_id)
    row = kept.filter(key=key).first()
    if row is None:
        _refuse_one_more(api_key_id)
        started = {"digest": digest, "started_at": now, "alive_until": now + ALIVE_FOR, "api_key_id": api_key_id}
        try:
            row, created = kept.get_or_create(key=key, defaults={"tenant_id": tenant_id, **started})
        except IntegrityError:
            # Another began first, and has forgotten it already: what it was refused is no answer to keep.
            return None
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


def still_running(*, waiting: int = 0) -> StillRunning:
    crowd = f", and {waiting} repeats of this API key wait already, which is the most" if waiting else ""
    return StillRunning(f"the first request under this Idempotency-Key is still running{crowd}; ask again.")


def keep(claim: Claim, answer: StoredAnswer) -> bool:
    """Keep the answer for repeats; False where it is not of the kind to keep, or the run was taken over meanwhile.

    A refusal that passes is forgotten, for it did nothing. After a failure of ours nobody knows what was done, so a
    repeat takes the run over and goes on under the same name.
    """
    if answer.status >= 500:
        let_go(claim)
        return False
    if answer.status in PASSING or len(answer.body) > MOST_BYTES or _is_beyond_bytes(claim, len(answer.body)):
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


def _refuse_one_more(api_key_id: int | None) -> None:
    most = settings.KEPT_ANSWERS_PER_KEY
    if api_key_id is None:
        return
    kept = KeptAnswer.objects.filter(api_key_id=api_key_id)
    if most == 0 or kept.values_list("pk")[most - 1 : most].exists():
        hours = KEPT_FOR.total_seconds() / 3600
        raise TooManyKept(
            f"this API key has {most:,} requests under Idempotency-Keys within {hours:g} hours, which is the most that"
            " are kept; leave the header out, or wait."
        )


def _is_beyond_bytes(claim: Claim, more_bytes: int) -> bool:
    """Whether a large answer is one too many of its API key's."""
    if more_bytes <= SMALL_BYTES:
        return False
    api_key_id = KeptAnswer.objects.values_list("api_key_id", flat=True).filter(pk=claim.id).first()
    if api_key_id is None:
        return False
    kept = KeptAnswer.objects.filter(api_key_id=api_key_id).aggregate(bytes=Sum(Length("response_body")))["bytes"] or 0
    return kept + more_bytes > settings.KEPT_MEGABYTES_PER_KEY * 1024 * 1024


def _mine(claim: Claim) -> QuerySet[KeptAnswer]:
    return KeptAnswer.objects.filter(pk=claim.id, runs=claim.run, status=KeptAnswer.Status.RUNNING)


def _take_over(row: KeptAnswer, now: datetime) -> Claim | None:
    """Run a request whose runner is dead; None where somebody else was first."""
    taken = KeptAnswer.objects.filter(
        pk=row.pk, runs=row.runs, status=KeptAnswer.Status.RUNNING, alive_until=row.alive_until
    ).update(runs=F("runs") + 1, alive_until=now + ALIVE_FOR)
    return Claim(row.pk, row.runs + 1, row.started_at) if taken else None
