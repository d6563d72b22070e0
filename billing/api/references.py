"""/api/billing/references: what a payment link says to bind whoever pays to a tenant."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from billing.accounts import binding
from governance.actions import tenancy
from governance.api.fields import Name, Strict, Text
from governance.api.views import ControlView


class ReferenceBody(Strict):
    """A signed `client_reference_id`. It binds the first customer that pays with it, until it expires."""

    tenant = Name("tenant")
    payment_link = Text(max_length=2000, required=False, write_only=True, help_text="To be opened with the reference.")
    reference = serializers.CharField(read_only=True)
    expires_at = serializers.DateTimeField(read_only=True)
    url = serializers.CharField(read_only=True, allow_null=True, help_text="The payment link with the reference.")


class References(ControlView):
    acts_on = "billing.billingaccount"

    http_method_names = ["post", "options"]

    @extend_schema(operation_id="billing_references_create", request=ReferenceBody, responses={201: ReferenceBody})
    def post(self, request: Request) -> Response:
        """For one tenant and one payer; nothing is sent to Stripe."""
        asked = self.valid(ReferenceBody, request.data)
        tenant = tenancy.tenant_named(asked["tenant"])
        made, url = binding.refer(
            tenant=tenant, payment_link=asked.get("payment_link", ""), by=self.by.actor, now=self.now
        )
        answer = {"tenant": tenant.slug, "reference": made.text, "expires_at": made.expires_at, "url": url}
        return Response(ReferenceBody(answer).data, status=201)
