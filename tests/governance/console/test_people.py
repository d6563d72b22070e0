"""Who sees and does what in the console and by session under /api/: each role, each page, each act, two tenants."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.auth.models import Group, Permission, User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from config.console import menu
from config.management.commands.seed_demo import Kept, operator
from governance import ledger
from governance.actions import people, stops
from governance.actions.people import Grants
from governance.actions.refusal_log import NotedRefusal, RefusalLog
from governance.api.permissions import permission_of
from governance.api.views import ControlView
from governance.audit import Actor
from governance.models import AlertChannel, ApiKey, AuditEntry, RefusedCall, Tenant, TenantStaff
from governance.staff import StaffRole
from llm.models import ProviderEndpoint
from llm.providers import trial
from tests import factories
from tests.governance.api.test_roles import ROUTES, methods
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
CONFIRMED = {"_confirmed": "yes", "reason": "because"}


def with_permission(name: str, *codenames: str) -> Client:
    """Staff without a role, who was given single permissions."""
    user = factories.person(name)
    user.user_permissions.set(Permission.objects.filter(codename__in=codenames))
    client = Client()
    client.force_login(user)
    return client


def post(client: Client, path: str, body: dict[str, Any]) -> Any:
    return client.post(path, body, content_type="application/json")


@pytest.fixture
def two_tenants() -> dict[str, list[Any]]:
    """Rows of acme and globex of each kind that has a tenant."""
    now = timezone.now()
    for slug in ("acme", "globex"):
        tenant = factories.tenant(slug)
        factories.budget("1", tenant=tenant, scope_type="agent", scope_key=f"{slug}-bot")
        by = factories.caller(tenant, agent=f"{slug}-bot")
        ledger.record(factories.reporting("0.85", by=by), now=now)
        ledger.reserve(factories.reserving("0.05", by=by), now=now)
        factories.key(of=tenant, agent_slug=f"{slug}-bot")
        stops.stop(tenant=tenant, reason=f"for {slug}", by=Actor("max"), now=now)
    factories.budget("77", scope_type="platform")
    return {}


def guarded() -> list[tuple[str, Any]]:
    """The paths of /api/ that ask who comes; people cannot call a model, so that path asks nothing else of them."""
    kinds = [(route, view, getattr(view, "view_class", None)) for route, view in ROUTES.items()]
    return [
        (route, view)
        for route, view, kind in kinds
        if issubclass(kind or object, ControlView) and kind.permission_classes and "llm/route" not in route
    ]


def console_pages() -> list[str]:
    found = [reverse(f"admin:{page.name}") for page in menu.pages()]
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        found.append(reverse(f"{name}_changelist"))
        found += [reverse(f"{name}_change", args=[row.pk]) for row in model._default_manager.all()[:3]]
    return found


class TestWithoutARole:
    def test_staff_read_nothing(self, two_tenants: Any) -> None:
        client = signed_in("nora")
        index = client.get("/admin/").content.decode()
        assert "You have no role yet" in index
        assert "acme" not in index
        for page in console_pages():
            assert client.get(page).status_code == 403, page
        for route, view in guarded():
            if "get" in methods(route, view):
                path = re.sub("<uuid:[^>]+>", str(UUID(int=1)), route)
                assert client.get("/api/" + re.sub("<[^>]+>", "1", path)).status_code == 403, route

    def test_a_permission_lets_its_holder_do_that_and_no_more(self) -> None:
        client = with_permission("ben", "change_budget")
        for role in ("operator", "viewer"):
            assert post(client, "/api/keys", {"role": role}).status_code == 403
        assert client.get("/admin/governance/apikey/add/").status_code == 403
        assert client.get("/api/spend").status_code == 403
        assert not ApiKey.objects.exists()

    def test_the_permission_to_make_keys_makes_none_without_a_role(self) -> None:
        client = with_permission("kim", "add_apikey")
        refused = post(client, "/api/keys", {"role": "operator"})
        assert (refused.status_code, refused.json()["error"]["param"]) == (403, "role")
        assert client.post("/admin/governance/apikey/add/", {"role": "operator"}).status_code == 200
        assert not ApiKey.objects.exists()


# Who may POST what, by session under /api/.
ACTS = {
    "/api/budgets": {"owner", "operator"},
    "/api/keys": {"owner", "operator"},
    "/api/stops": {"owner", "operator"},
    "/api/prices": {"owner", "operator"},
    "/api/plans": {"owner", "billing"},
}
ROLES = ("owner", "operator", "billing", "viewer", "tenant staff")


@pytest.mark.parametrize("role", ROLES)
def test_each_role_does_by_session_what_it_is_for(role: str) -> None:
    client = signed_in("pat", role, of=factories.tenant() if role == "tenant staff" else None)
    for path, allowed in ACTS.items():
        assert (post(client, path, {}).status_code == 403) != (role in allowed), path
    assert client.get("/api/budgets").status_code == 200
    assert client.get("/api/billing/margin").status_code == (403 if role == "tenant staff" else 200)
    assert client.get("/admin/auth/user/").status_code == (200 if role == "owner" else 403)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_does_in_the_console_what_it_is_for(role: str, two_tenants: Any) -> None:
    client = signed_in("pat", role, of=factories.tenant() if role == "tenant staff" else None)
    acts = {
        "/admin/governance/budget/add/": {"owner", "operator"},
        "/admin/governance/apikey/add/": {"owner", "operator"},
        "/admin/governance/emergencystop/add/": {"owner", "operator"},
        "/admin/llm/price/add/": {"owner", "operator"},
        "/admin/billing/plan/add/": {"owner", "billing"},
        "/admin/auth/user/add/": {"owner"},
    }
    for path, allowed in acts.items():
        assert client.get(path).status_code == (200 if role in allowed else 403), path
    key = ApiKey.objects.filter(tenant__slug="acme").get()
    revoke = reverse("admin:governance_apikey_revoke_one", args=[key.pk])
    assert client.post(revoke, CONFIRMED).status_code == (302 if role in ("owner", "operator") else 403)


def test_every_view_says_what_its_methods_ask_of_people() -> None:
    for route, view in guarded():
        for method in methods(route, view):
            app, _, codename = permission_of(view.view_class(), method.upper()).partition(".")
            assert Permission.objects.filter(content_type__app_label=app, codename=codename).exists(), (route, method)


def acts_on_one() -> list[tuple[Any, str]]:
    """Each admin, with each name of a page on which it acts on one row."""
    found = []
    for model_admin in admin.site._registry.values():
        opts = model_admin.opts
        named = [*getattr(model_admin, "actions_detail", ()), *getattr(model_admin, "actions_row", ())]
        found += [(model_admin, f"admin:{opts.app_label}_{opts.model_name}_{name}") for name in named]
    return found


def test_an_act_on_one_row_finds_only_what_its_list_shows(two_tenants: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = signed_in("root", is_superuser=True)
    # Not every act is for each kind of them; which kind it is, is nobody's business who does not see it.
    AlertChannel.objects.create(name="owner", kind="email", target="owner@example.com")
    tried = set()
    for acts_on, name in acts_on_one():
        assert client.post(reverse(name, args=["abc"]), CONFIRMED).status_code == 404, name
        if row := acts_on.model._default_manager.first():
            with monkeypatch.context() as patched:
                patched.setattr(type(acts_on), "get_queryset", lambda self, request: self.model.objects.none())
                assert client.post(reverse(name, args=[row.pk]), CONFIRMED).status_code == 404, name
            tried.add(acts_on.model.__name__)
    assert tried >= {"Tenant", "Agent", "AlertChannel", "ApiKey", "Budget", "EmergencyStop", "SpendEntry", "User"}


def test_no_act_is_done_by_looking(two_tenants: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that somebody is led to, or that a browser reads ahead, does nothing but ask."""

    def never(**_: Any) -> None:
        raise AssertionError("done by a GET")

    monkeypatch.setattr(trial, "try_out", never)
    # Before whoever looks, so that the act on a user is on another one.
    factories.person("olga", "operator")
    client = signed_in("root", is_superuser=True)
    ProviderEndpoint.objects.create(name="groq", base_url="https://api.groq.com/openai/v1", updated_at=timezone.now())
    firsts = [(name, acts_on.model._default_manager.first()) for acts_on, name in acts_on_one()]
    urls = [reverse(name, args=[row.pk]) for name, row in firsts if row]
    for model_admin in admin.site._registry.values():
        opts = model_admin.opts
        named = getattr(model_admin, "actions_list", ())
        urls += [reverse(f"admin:{opts.app_label}_{opts.model_name}_{name}") for name in named]
    assert len(urls) > 15
    before = AuditEntry.objects.count()
    for url in urls:
        page = client.get(url)
        assert page.status_code == 200, url
        assert "csrfmiddlewaretoken" in page.content.decode(), url
    assert AuditEntry.objects.count() == before


class TestTenantStaff:
    def test_see_their_tenant_alone_on_every_page_list_search_and_table(self, two_tenants: Any) -> None:
        client = signed_in("tess", "tenant staff", of=factories.tenant("acme"))
        paths = ["/admin/", *console_pages()]
        seen = 0
        for path in paths:
            for more in ("", "?q=glob", "?tenant__id__exact=2"):
                answer = client.get(path + more, follow=True)
                text = answer.content.decode()
                assert "globex" not in text, path + more
                assert "$77" not in text, path + more
                seen += "acme" in text
        assert seen > 20
        for path in ("budgets", "spend", "spend/summary?group_by=tenant", "spend/reviews"):
            for accept in ("application/json", "text/csv"):
                answer = client.get(f"/api/{path}", headers={"accept": accept})
                text = b"".join(answer.streaming_content) if answer.streaming else answer.content
                assert answer.status_code == 200
                assert b"globex" not in text, path
                # Ids have all digits in them; the platform's limit, and what is left of it, are amounts.
                for hidden in (b'"77"', b"77.00", b"75.2", b"75.3"):
                    assert hidden not in text, path
        for path in ("tenants", "agents", "keys", "billing/accounts", "plans", "stops", "rate-limits"):
            assert client.get(f"/api/{path}").status_code == 403, path

    def test_see_why_their_calls_were_refused_and_no_amount_of_a_wider_budget(self) -> None:
        log, now = RefusalLog(), timezone.now()
        factories.budget("77", scope_type="platform")
        for slug in ("globex", "acme"):
            tenant = factories.tenant(slug)
            factories.budget("2", tenant=tenant)
            caller = factories.caller(tenant, agent=f"{slug}-bot")
            ledger.record(factories.reporting("0.85", by=caller), now=now)
            decision = ledger.reserve(factories.reserving("500", by=caller), now=now)
            noted = NotedRefusal(f"r-{slug}", caller, "large", (), decision.reason.value, 402, now, decision=decision)
            log.note(noted)
        log.flush()
        assert {row.request_id for row in RefusedCall.objects.all()} == {"r-acme", "r-globex"}

        client = signed_in("tess", "tenant staff", of=factories.tenant("acme"))
        one = client.get("/api/refusals/r-acme").json()
        figures = {row["scope"]: (row["budget"] is None, row["limit"], row["spent"]) for row in one["budgets"]}
        assert figures["platform"] == (True, None, None)
        assert figures["tenant:acme"] == (False, "2.00", "0.85")
        for accept in ("application/json", "text/csv"):
            answer = client.get("/api/refusals", headers={"accept": accept})
            text = (b"".join(answer.streaming_content) if answer.streaming else answer.content).decode()
            assert "r-acme" in text
            for hidden in ("globex", "77.00", "$77", "75.3", "424."):
                assert hidden not in text, hidden
        assert client.get("/api/refusals/r-globex").status_code == 404

        rows = {row.request_id: row.pk for row in RefusedCall.objects.all()}
        # Nor is a figure to be read digit by digit, by asking for rows where it begins so.
        guesses = (
            "budgets__1__limit_nanos__startswith=77",
            "budgets__contains=77",
            "fits_max_tokens__gt=0",
            "more__gte=0",
        )
        for guess in guesses:
            assert client.get(f"/admin/governance/refusedcall/?{guess}").status_code == 400, guess
        pages = ["", "?q=r-acme", "?reason=budget_exhausted", f"{rows['r-acme']}/change/"]
        for path in pages:
            page = client.get(f"/admin/governance/refusedcall/{path}")
            text = page.content.decode()
            assert page.status_code == 200, path
            assert "acme-bot" in text, path
            for hidden in ("globex", "77.00", "$77", "75.3", "424."):
                assert hidden not in text, (path, hidden)
        standing = re.sub(r"<[^>]*>", "", text)
        assert "tenant:acme per day: $0.85 spent and $0.00 reserved of $2.00; resets " in standing
        assert "a limit of the platform per day" in text
        others = f"/admin/governance/refusedcall/{rows['r-globex']}/change/"
        assert others not in client.get("/admin/governance/refusedcall/?q=r-globex").content.decode()
        assert client.get(others).status_code == 302

    def test_see_their_tenants_amounts_whatever_its_keys_are_told(self, two_tenants: Any) -> None:
        tenant = factories.tenant("acme")
        Tenant.objects.update(show_amounts=False)
        budget = factories.budget("2.34", tenant=tenant, window="week")
        ledger.record(factories.reporting("0.56", by=factories.caller(tenant)), now=timezone.now())
        client = signed_in("tess", "tenant staff", of=tenant)
        [shown] = [row for row in client.get("/api/budgets").json()["results"] if row["id"] == budget.pk]
        assert shown["limit"] == "2.34"
        assert "$2.34" in client.get("/admin/governance/budget/").content.decode()
        key = Client(headers={"authorization": f"Bearer {factories.key(role='tenant', of=tenant)[0]}"})
        assert "2.34" not in key.get("/api/budgets").content.decode()

    def test_change_nothing_whatever_else_they_were_given(self, two_tenants: Any) -> None:
        user = factories.person("tom", "tenant staff", "operator", of=factories.tenant("acme"))
        client = Client()
        client.force_login(user)
        assert post(client, "/api/tenants", {"slug": "new"}).status_code == 403
        assert client.get("/admin/governance/budget/add/").status_code == 403
        assert "globex" not in client.get("/admin/governance/tenant/").content.decode()

    def test_see_nothing_while_no_tenant_is_named(self, two_tenants: Any) -> None:
        client = signed_in("tim", "tenant staff")
        assert client.get("/api/budgets").status_code == 403
        assert client.get("/admin/governance/budget/").status_code == 403
        assert "You have no role yet" in client.get("/admin/").content.decode()


class TestKeys:
    def test_a_key_may_do_nothing_that_its_maker_may_not(self) -> None:
        maker = signed_in("olga", "operator")
        made = post(maker, "/api/keys", {"role": "operator"})
        assert made.status_code == 201
        key = Client(headers={"authorization": f"Bearer {made.json()['key']}"})
        assert post(key, "/api/tenants", {"slug": "new"}).status_code == 201
        assert post(key, "/api/plans", {"name": "x", "limit": "1"}).status_code == 403

        child = post(key, "/api/keys", {"role": "operator"})
        assert child.status_code == 201
        User.objects.get(username="olga").groups.set(Group.objects.filter(name="viewer"))
        for text in (made.json()["key"], child.json()["key"]):
            held = Client(headers={"authorization": f"Bearer {text}"})
            assert held.get("/api/budgets").status_code == 200
            assert post(held, "/api/tenants", {"slug": "other"}).status_code == 403
        assert post(key, "/api/keys", {"role": "viewer"}).status_code == 403

    @pytest.mark.parametrize("role", ["viewer", "operator"])
    def test_a_key_of_the_platform_reads_nothing_once_its_maker_is_one_tenants_staff(
        self, two_tenants: Any, role: str
    ) -> None:
        made = post(signed_in("olga", "operator"), "/api/keys", {"role": role})
        key = Client(headers={"authorization": f"Bearer {made.json()['key']}"})
        assert key.get("/api/tenants").status_code == 200

        olga = User.objects.get(username="olga")
        olga.groups.set(Group.objects.filter(name="tenant staff"))
        TenantStaff.objects.create(user=olga, tenant=factories.tenant("acme"))

        for path in ("/api/tenants", "/api/budgets", "/api/spend", "/api/refusals", "/api/keys"):
            assert key.get(path).status_code == 403
        asked = {"tenant": "globex", "model": "mistral-small-latest", "estimated_cost": "1"}
        assert post(key, "/api/decisions", asked).status_code == 403

    def test_an_agents_key_goes_on_when_its_maker_leaves(self) -> None:
        agent = factories.agent()
        maker = signed_in("olga", "operator")
        made = post(maker, "/api/keys", {"role": "agent", "tenant": "acme", "agent": agent.slug})
        User.objects.update(is_active=False)
        key = Client(headers={"authorization": f"Bearer {made.json()['key']}"})
        assert key.get("/api/budgets").status_code == 200

    def test_the_form_offers_what_its_reader_may_give(self) -> None:
        form = signed_in("olga", "operator").get("/admin/governance/apikey/add/").content.decode()
        assert 'value="operator"' in form


class TestGrants:
    def form(self, user: User, *roles: str, **more: Any) -> dict[str, Any]:
        groups = [group.pk for group in Group.objects.filter(name__in=roles)]
        flags = {"is_active": "on", "is_staff": "on"}
        form = {"username": user.username, "groups": groups, "tenant": "", **flags, **more}
        return {name: value for name, value in form.items() if value is not None}

    def path(self, user: User) -> str:
        return reverse("admin:auth_user_change", args=[user.pk])

    def test_a_grant_and_its_removal_are_kept_with_actor_old_and_new(self) -> None:
        owner, user = signed_in("ona", "owner"), factories.person("ned")
        assert owner.post(self.path(user), self.form(user, "operator", "billing")).status_code == 302
        assert owner.post(self.path(user), self.form(user, is_staff=None)).status_code == 302
        rows = AuditEntry.objects.filter(action="user.grant").order_by("id")
        assert [(row.actor, row.target, row.old, row.new) for row in rows] == [
            ("ona", "user ned", {"roles": []}, {"roles": ["billing", "operator"]}),
            ("ona", "user ned", {"staff": True, "roles": ["billing", "operator"]}, {"staff": False, "roles": []}),
        ]
        assert owner.post(self.path(user), self.form(user, is_staff=None)).status_code == 302
        assert rows.count() == 2

    def test_another_name_is_kept_with_actor_old_and_new(self) -> None:
        owner, user = signed_in("ona", "owner"), factories.person("ned")
        for _ in range(2):
            form = self.form(user, username="alice", email="alice@example.test")
            assert owner.post(self.path(user), form).status_code == 302
        row = AuditEntry.objects.get(action__startswith="user.")
        assert (row.action, row.actor, row.target) == ("user.rename", "ona", "user ned")
        assert row.old == {"username": "ned", "email": ""}
        assert row.new == {"username": "alice", "email": "alice@example.test"}

    def test_ones_own_other_name_stands_under_the_old_one(self) -> None:
        owner = signed_in("ona", "owner")
        user = User.objects.get(username="ona")
        assert owner.post(self.path(user), self.form(user, "owner", username="viewer_")).status_code == 302
        row = AuditEntry.objects.get()
        assert (row.action, row.actor, row.target) == ("user.rename", "ona", "user ona")

    def test_only_superusers_make_and_change_superusers(self) -> None:
        owner, user = signed_in("ona", "owner"), factories.person("ned")
        root = factories.person("root", is_superuser=True)
        assert owner.post(self.path(user), self.form(user, is_superuser="on")).status_code == 302
        user.refresh_from_db()
        assert not user.is_superuser
        assert owner.post(self.path(root), self.form(root)).status_code == 403
        password = reverse("admin:auth_user_password_change", args=[root.pk])
        assert owner.post(password, {"password1": "x" * 9 + "yz-17", "password2": "x" * 9 + "yz-17"}).status_code == 403
        client = Client()
        client.force_login(root)
        assert client.post(self.path(user), self.form(user, is_superuser="on")).status_code == 302
        assert AuditEntry.objects.get(action="user.grant").new == {"superuser": True}

    def test_who_is_no_owner_gives_nothing_even_with_the_permission(self) -> None:
        user = factories.person("ned")
        client = with_permission("eve", "change_user", "view_user", "add_user", "change_group")
        for path in (self.path(user), "/admin/auth/user/add/", "/admin/auth/group/"):
            assert client.get(path).status_code == 403
        assert client.post(self.path(user), self.form(user, "owner")).status_code == 403
        assert not user.groups.exists()

    @pytest.mark.parametrize(
        ("roles", "more", "field"),
        [
            (["tenant staff"], {}, "tenant"),
            (["viewer"], {"tenant": "acme"}, "tenant"),
            (["tenant staff", "operator"], {"tenant": "acme"}, "groups"),
        ],
    )
    def test_what_does_not_go_together_is_shown_at_its_field(
        self, roles: list[str], more: dict[str, str], field: str
    ) -> None:
        owner, user = signed_in("ona", "owner"), factories.person("ned")
        tenant = factories.tenant()
        given = dict.fromkeys(more, tenant.pk)
        answer = owner.post(self.path(user), self.form(user, *roles, **given))
        assert field in answer.context["adminform"].form.errors
        assert not AuditEntry.objects.exists()

    def test_an_owner_cannot_lock_themselves_out(self) -> None:
        me = factories.person("ona", "owner")
        client = Client()
        client.force_login(me)
        assert client.post(self.path(me), self.form(me, "viewer")).status_code == 200
        assert set(me.groups.values_list("name", flat=True)) == {"owner"}

    def test_a_new_user_begins_without_a_role_and_a_password_given_is_noted(self) -> None:
        owner = signed_in("ona", "owner")
        password = {"password1": "seventeen-llamas", "password2": "seventeen-llamas", "usable_password": "true"}
        assert owner.post("/admin/auth/user/add/", {"username": "new", **password}).status_code == 302
        user = User.objects.get(username="new")
        change = reverse("admin:auth_user_password_change", args=[user.pk])
        other = {name: value.replace("seventeen", "eighteen") for name, value in password.items()}
        assert owner.post(change, other).status_code == 302
        actions = list(AuditEntry.objects.order_by("id").values_list("action", "actor"))
        assert actions == [("user.create", "ona"), ("user.password", "ona")]
        assert "llamas" not in json.dumps(list(AuditEntry.objects.values("old", "new", "reason")))

    def test_a_new_user_is_given_a_role_in_the_form_that_makes_them(self) -> None:
        owner = signed_in("ona", "owner")
        password = {"password1": "seventeen-llamas", "password2": "seventeen-llamas", "usable_password": "true"}
        viewer, bound = (Group.objects.get(name=name).pk for name in ("viewer", "tenant staff"))
        page = owner.get("/admin/auth/user/add/").content.decode()
        assert "viewer: reads everything, changes nothing" in page
        unbound = {"username": "bob", "groups": [bound], **password}
        assert "Name the tenant" in owner.post("/admin/auth/user/add/", unbound).content.decode()
        assert (
            owner.post("/admin/auth/user/add/", {"username": "eve", "groups": [viewer], **password}).status_code == 302
        )
        assert people.grants_of(User.objects.get(username="eve")) == Grants(roles=frozenset({StaffRole.VIEWER}))
        [row] = AuditEntry.objects.all()
        assert (row.action, row.new["roles"]) == ("user.create", ["viewer"])

    def test_a_short_password_is_refused(self) -> None:
        owner = signed_in("ona", "owner")
        password = {"password1": "l1amas-17xy", "password2": "l1amas-17xy", "usable_password": "true"}
        answer = owner.post("/admin/auth/user/add/", {"username": "new", **password})
        assert "at least 12 characters" in answer.content.decode()

    def test_roles_are_read_here_and_changed_by_nobody(self) -> None:
        owner = signed_in("root", is_superuser=True)
        group = Group.objects.get(name="viewer")
        page = reverse("admin:auth_group_change", args=[group.pk])
        assert owner.get(page).status_code == 200
        assert owner.post(page, {"name": "viewer", "permissions": []}).status_code == 403

    def test_nobody_reads_a_second_factors_secret(self) -> None:
        owner = signed_in("root", is_superuser=True)
        assert [model for model in admin.site._registry if model._meta.app_label.startswith("otp_")] == []
        assert owner.get("/admin/otp_totp/totpdevice/").status_code == 404

    @pytest.mark.parametrize("command", ["createsuperuser", "seed_demo"])
    def test_a_superuser_of_the_command_line_is_kept_too(
        self, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "seventeen-llamas")
        if command == "createsuperuser":
            call_command(command, "--noinput", username="root", email="root@example.test")
        else:
            operator(Kept(tmp_path / "demo.json"))
        row = AuditEntry.objects.get(action="user.create")
        assert row.new is not None
        assert row.new["superuser"] is True
        assert User.objects.get().is_superuser
