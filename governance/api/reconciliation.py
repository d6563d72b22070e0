"""/api/reconciliation: what is known of the ledger's truth, as it was last looked for. Asks nobody outside."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.api.permissions import READERS
from governance.api.views import ControlView
from governance.models import LedgerCheck
from governance.queries import judgement
from governance.rules.judgement import Ruling


class DayRulingBody(serializers.Serializer[Any]):
    """A day (UTC) of an account; `reported` is null where its provider says nothing, `reason` says why."""

    account = serializers.CharField()
    day = serializers.DateField()
    ledger = serializers.CharField()
    reported = serializers.CharField(allow_null=True)
    difference = serializers.CharField(allow_null=True, help_text="Below zero where the ledger charged too little.")
    ruling = serializers.ChoiceField(choices=[ruling.value for ruling in Ruling])
    reason = serializers.CharField()


class OwnWordBody(serializers.Serializer[Any]):
    """Lines of the ledger that no answer of a model proves."""

    provider = serializers.CharField()
    kind = serializers.ChoiceField(choices=["estimated", "reported", "overage"])
    reason = serializers.CharField()
    lines = serializers.IntegerField()
    amount = serializers.CharField()


class JudgementBody(serializers.Serializer[Any]):
    """Days in [from, to), beside what providers reported of them."""

    judged_at = serializers.DateTimeField()
    to = serializers.DateField()
    ledger = serializers.CharField()
    own_word = serializers.CharField(help_text="Of `ledger`, what is estimated or an agent's word.")
    providers = DayRulingBody(many=True)
    unproven = OwnWordBody(many=True)
    silent = serializers.DictField(
        child=serializers.CharField(), help_text="Accounts that should have reported and did not, and why."
    )

    def get_fields(self) -> dict[str, Any]:
        return {"from": serializers.DateField(), **super().get_fields()}


class DriftBody(serializers.Serializer[LedgerCheck]):
    """The last proof that the ledger agrees with itself."""

    checked_at = serializers.DateTimeField()
    since = serializers.DateTimeField(allow_null=True, help_text="What it looked at came about since; null: all.")
    drifts = serializers.IntegerField()
    repaired = serializers.IntegerField()


class ReconciliationBody(serializers.Serializer[Any]):
    ledger_check = DriftBody(allow_null=True)
    judgement = JudgementBody(allow_null=True)


class Reconciliation(ControlView):
    acts_on = "governance.ledgercheck"
    roles = {"GET": READERS}

    @extend_schema(operation_id="reconciliation", responses=ReconciliationBody)
    def get(self, request: Request) -> Response:
        """The ledger beside itself (hourly) and beside its providers (every six hours); null before the first look."""
        check, judged = LedgerCheck.objects.order_by("-id").first(), judgement.last()
        found = {
            "ledger_check": check,
            "judgement": None if judged is None else {"judged_at": judged.judged_at, **judged.details},
        }
        return Response(ReconciliationBody(found).data)
