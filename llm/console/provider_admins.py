"""Providers that operators add, in the console: where they are, their keys, and whether they answer."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from governance import staff
from governance.console import confirm
from governance.console.base import ConsoleAdmin, actor
from llm.console import provider_list
from llm.models import ProviderEndpoint
from llm.providers import endpoints, registry, trial
from llm.rules import addresses


class ProviderEndpointForm(forms.ModelForm):  # type: ignore[type-arg]
    """A key goes in here; it never comes out again."""

    new_key = forms.CharField(
        label="Key",
        required=False,
        strip=True,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Kept encrypted and shown to nobody. Leave it empty to keep the key that is there.",
    )

    class Meta:
        model = ProviderEndpoint
        fields = ("name", "kind", "base_url", "key_env", "extra_fields", "enabled")

    def clean_base_url(self) -> str:
        return str(self.cleaned_data["base_url"]).rstrip("/")

    def clean_new_key(self) -> str:
        key = str(self.cleaned_data["new_key"] or "")
        if problem := addresses.problem_with_key(key):
            raise forms.ValidationError(problem)
        return key

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        new_key, key_env = self.cleaned_data.get("new_key") or "", self._said("key_env")
        if new_key and key_env:
            self.add_error("new_key", "Enter a key or name its variable, not both.")
        elif not self.errors:
            self._check_key(new_key)
        return cleaned

    def _said(self, name: str) -> str:
        """What a field is to hold; one that is not the user's to change stays."""
        return str(self.cleaned_data.get(name, getattr(self.instance, name)) or "")

    def _check_key(self, new_key: str) -> None:
        before = ProviderEndpoint.objects.filter(pk=self.instance.pk).first()
        row = ProviderEndpoint(**{name: self._said(name) for name in ("kind", "base_url", "key_env")})
        try:
            endpoints.check_key(row=row, before=before, new_key=new_key)
        except endpoints.KeyNeeded as error:
            self.add_error("new_key", str(error))


class ProviderEndpointAdmin(ConsoleAdmin):
    """Where models can be called besides the environment's providers."""

    form = ProviderEndpointForm
    change_list_template = "console/providers.html"
    list_display = ("name", "kind", "base_url", "key", "enabled")
    list_per_page = 200
    show_full_result_count = True
    fieldsets = (
        (None, {"fields": (("name", "kind"), "base_url", "enabled")}),
        ("Its key", {"fields": (("key_env", "new_key"),)}),
        ("Its own fields", {"fields": ("extra_fields",)}),
    )
    actions_list = ("try_all",)
    actions_detail = ("try_one",)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.try_environment)
        own = path("environment/<slug:name>/try/", view, name="llm_providerendpoint_try_environment")
        return [own, *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        answer = super().changelist_view(request, extra_context)
        if isinstance(answer, TemplateResponse) and answer.context_data and "cl" in answer.context_data:
            found = provider_list.rows(answer.context_data["cl"].result_list, now=timezone.now())
            answer.context_data |= {"providers": found, "may_test": self.has_operate_permission(request)}
        return answer

    def get_readonly_fields(self, request: HttpRequest, obj: ProviderEndpoint | None = None) -> tuple[str, ...]:
        # The catalogue's models and the ledger's entries go by the name.
        fixed = ("name",) if obj else ()
        if staff.access_of(request.user).is_owner:
            return fixed
        # What is in the process's environment is the owners': nobody else sends it to an address of their own.
        return (*fixed, "key_env", "base_url") if obj and obj.key_env else (*fixed, "key_env")

    def get_fieldsets(self, request: HttpRequest, obj: ProviderEndpoint | None = None) -> Any:
        if self.has_change_permission(request, obj):
            return super().get_fieldsets(request, obj)
        return ((None, {"fields": ("name", "kind", "base_url", "key", "extra_fields", "enabled")}),)

    def save_model(
        self, request: HttpRequest, obj: ProviderEndpoint, form: forms.ModelForm[ProviderEndpoint], change: bool
    ) -> None:
        endpoints.save(row=obj, new_key=form.cleaned_data["new_key"], by=actor(request), now=timezone.now())

    @display(description="key")
    def key(self, endpoint: ProviderEndpoint) -> str:
        return endpoint.key_env or ("set" if endpoint.sealed_key else "none")

    @action(description="Try all connections", url_path="try", permissions=["operate"], icon="network_check")
    def try_all(self, request: HttpRequest) -> HttpResponse:
        back = reverse("admin:llm_providerendpoint_changelist")
        if asked := self._ask(request, "Try all connections", back):
            return asked
        self._report(request, trial.try_out())
        return HttpResponseRedirect(back)

    @action(description="Try the connection", url_path="try", permissions=["operate"], icon="network_check")
    def try_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        endpoint = self.row(request, object_id)
        back = reverse("admin:llm_providerendpoint_change", args=(object_id,))
        if asked := self._ask(request, f"Try the connection to {endpoint.name}", back):
            return asked
        tried = trial.try_out(only=endpoint.name)
        self._report(request, tried)
        if not tried:
            messages.warning(request, f"{endpoint.name} is switched off, or its key cannot be had.")
        return HttpResponseRedirect(back)

    def try_environment(self, request: HttpRequest, name: str) -> HttpResponse:
        """As `try_one`, of a provider that has no row."""
        if not self.has_operate_permission(request):
            raise PermissionDenied
        if name not in {one.name for one in registry.ENVIRONMENTS}:
            raise Http404
        back = reverse("admin:llm_providerendpoint_changelist")
        if asked := self._ask(request, f"Try the connection to {name}", back):
            return asked
        tried = trial.try_out(only=name)
        self._report(request, tried)
        if not tried:
            messages.warning(request, f"{name} has no key: set its variable, and start anew.")
        return HttpResponseRedirect(back)

    def _ask(self, request: HttpRequest, title: str, back: str) -> HttpResponse | None:
        """The page that a link leads to. Nothing is changed by a trial, so that a row's own button needs none."""
        if request.method == "POST":
            return None
        explanation = (
            "Models are listed with the key; none is called, which costs nothing. It takes 15 seconds at most."
        )
        return confirm.page(request, model_admin=self, title=title, verb="Try", explanation=explanation, back=back)

    def _report(self, request: HttpRequest, tried: list[trial.ProviderTrial]) -> None:
        for one in tried:
            report = messages.success if one.works else messages.error
            report(request, f"{one.provider}: {one.message}")
