"""/api/tenants/{slug}/page-links: links to a customer's own read-only page, made and taken back."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from governance.actions import page_links
from governance.api.fields import Name, OptionalAct, Query, Strict, Whole
from governance.api.permissions import OPERATORS
from governance.api.views import ControlView, ListView, columns_of, describe_list, presenter
from governance.models import PageLink, Tenant


class PageLinkBody(serializers.Serializer[PageLink]):
    """A link to a customer's read-only page, without the link itself."""

    id = serializers.IntegerField()
    tenant = serializers.CharField(source="tenant.slug")
    note = serializers.CharField()
    made_at = serializers.DateTimeField()
    made_by = serializers.CharField()
    ends_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True, help_text="When it was taken back.")
    ended_by = serializers.CharField()


class MadePageLinkBody(PageLinkBody):
    """A new link: `url` is shown here and never again. Whoever has it sees the page, without a sign-in."""

    url = serializers.URLField()


class MakePageLinkBody(Strict):
    days = Whole(
        required=False,
        min_value=1,
        max_value=page_links.MOST_DAYS,
        default=page_links.DEFAULT_DAYS,
        help_text="How long it is good.",
    )
    note = Name("label", required=False, allow_blank=True, default="", help_text="Whom it is for; not on the page.")


class EndedPageLinksBody(serializers.Serializer[Any]):
    ended = serializers.IntegerField()


class PageLinks(ListView):
    acts_on = "governance.pagelink"
    table_name = "page-links"

    @describe_list("tenants_page_links", PageLinkBody)
    def get(self, request: Request, slug: str) -> Any:
        tenant = self.one(Tenant.objects.all(), slug=slug)
        self.valid(Query, request.query_params.dict())
        rows = PageLink.objects.filter(tenant=tenant).select_related("tenant").order_by("-id")
        return self.listed(rows, presenter(PageLinkBody), columns=columns_of(PageLinkBody))

    @extend_schema(operation_id="tenants_page_links_make", request=MakePageLinkBody, responses={201: MadePageLinkBody})
    def post(self, request: Request, slug: str) -> Response:
        """Make a link to the page where the customer sees its own budgets, spend and refusals, and changes nothing."""
        tenant = self.one(Tenant.objects.all(), slug=slug)
        asked = self.valid(MakePageLinkBody, request.data)
        url, link = page_links.make(tenant=tenant, **asked, by=self.by.actor, now=self.now)
        return Response({**PageLinkBody(link).data, "url": url}, status=201)


class PageLinksEnd(ControlView):
    acts_on = "governance.pagelink"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="tenants_page_links_end", request=OptionalAct, responses=EndedPageLinksBody)
    def post(self, request: Request, slug: str) -> Response:
        """Take back all links of a customer, at once and for good."""
        tenant = self.one(Tenant.objects.all(), slug=slug)
        reason = self.valid(OptionalAct, request.data)["reason"]
        ended = page_links.end_all(tenant=tenant, reason=reason, by=self.by.actor, now=self.now)
        return Response({"ended": ended})


class PageLinkEnd(ControlView):
    acts_on = "governance.pagelink"
    roles = {"POST": OPERATORS}

    @extend_schema(operation_id="page_links_end", request=OptionalAct, responses=PageLinkBody)
    def post(self, request: Request, id: int) -> Response:
        """Take one link back, for good."""
        link = self.one(PageLink.objects.select_related("tenant"), pk=id)
        reason = self.valid(OptionalAct, request.data)["reason"]
        return Response(PageLinkBody(page_links.end(link=link, reason=reason, by=self.by.actor, now=self.now)).data)
