"""/api/spend/{id}/confirm, /void and /correct: an operator's word on what a call cost."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import corrections
from governance.api.fields import Act, Dollars
from governance.api.permissions import OPERATORS
from governance.api.views import ControlView
from governance.ledger.results import AdjustResult
from governance.models import SpendEntry
from governance.queries import spend


class ConfirmBody(Act):
    """What an estimated call truly cost; left out, the estimate is right."""

    cost = Dollars(required=False)


class SpendCorrectBody(Act):
    """What a call truly cost."""

    cost = Dollars()


class CorrectionBody(serializers.Serializer[Any]):
    """The line that was posted to correct `id`, which now costs `cost` in all."""

    id = serializers.UUIDField()
    correction = serializers.UUIDField()
    delta = Dollars()
    cost = Dollars()


class SpendConfirm(ControlView):
    acts_on = "governance.spendentry"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_confirm", request=ConfirmBody, responses=CorrectionBody)
    def post(self, request: Request, id: UUID) -> Response:
        """Say what an estimated call truly cost. The difference is posted as an adjustment, once."""
        entry = self.one(spend.entries(reader=self.by.reader), pk=id)
        asked = self.valid(ConfirmBody, request.data)
        done = corrections.confirm(
            entry=entry, cost_nanos=asked.get("cost"), reason=asked["reason"], by=self.by.actor, now=self.now
        )
        return _corrected(entry, done)


class SpendVoid(ControlView):
    acts_on = "governance.spendentry"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_void", request=Act, responses=CorrectionBody)
    def post(self, request: Request, id: UUID) -> Response:
        """Say that a call cost nothing. What it was charged at is reversed, once."""
        entry = self.one(spend.entries(reader=self.by.reader), pk=id)
        asked = self.valid(Act, request.data)
        done = corrections.void(entry=entry, reason=asked["reason"], by=self.by.actor, now=self.now)
        return _corrected(entry, done)


class SpendCorrect(ControlView):
    acts_on = "governance.spendentry"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="spend_correct", request=SpendCorrectBody, responses=CorrectionBody)
    def post(self, request: Request, id: UUID) -> Response:
        """Say that a call cost another amount than it is charged at now, whatever was said of it before."""
        entry = self.one(spend.entries(reader=self.by.reader), pk=id)
        asked = self.valid(SpendCorrectBody, request.data)
        done = corrections.correct(
            entry=entry, cost_nanos=asked["cost"], reason=asked["reason"], by=self.by.actor, now=self.now
        )
        return _corrected(entry, done)


def _corrected(entry: SpendEntry, done: AdjustResult) -> Response:
    answer = {
        "id": entry.pk,
        "correction": done.entry_id,
        "delta": done.delta_nanos,
        "cost": corrections.charged_nanos(entry),
    }
    return Response(CorrectionBody(answer).data)
