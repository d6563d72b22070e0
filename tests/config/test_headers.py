"""What every page tells browsers of itself."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from django.test import Client

from tests import factories
from tests.product import Product

pytestmark = pytest.mark.django_db
PAGES = ("/admin/login/", "/admin/", "/admin/governance/budget/", "/api/docs", "/api/redoc", "/billing/topup/done")


@pytest.fixture
def client() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def policy_of(client: Client, path: str) -> dict[str, str]:
    header = client.get(path, follow=True)["Content-Security-Policy"]
    return {name: rest for name, _, rest in (part.strip().partition(" ") for part in header.split(";"))}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_no_script_that_stands_in_it(client: Client, path: str) -> None:
    policy = policy_of(client, path)
    assert "unsafe-inline" not in policy["script-src"]
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["form-action"] == policy["connect-src"] == "'self'"
    assert ("unsafe-eval" in policy["script-src"]) == path.startswith("/admin/")


def test_a_page_of_ours_names_its_styles_by_a_nonce(client: Client) -> None:
    page = client.get("/billing/topup/done")
    nonce = policy_of(client, "/billing/topup/done")["style-src"]
    assert nonce.startswith("'self' 'nonce-")
    assert b'<style nonce="' in page.content
    assert client.get("/billing/topup/done")["Content-Security-Policy"] != page["Content-Security-Policy"]


@pytest.mark.parametrize("path", [*PAGES, "/api/health", "/api/budgets"])
def test_nothing_is_framed_sniffed_or_lent(client: Client, path: str) -> None:
    answer = client.get(path, follow=True)
    assert answer["X-Frame-Options"] == "DENY"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Referrer-Policy"] == "same-origin"
    assert "camera=()" in answer["Permissions-Policy"]


@pytest.mark.parametrize("accept", ["application/json", "text/csv", "image/png"])
@pytest.mark.parametrize("path", ["/admin/", "/api/budgets", "/api/budgets/99", "/api/tenants"])
def test_no_browser_keeps_what_it_was_shown(client: Client, path: str, accept: str) -> None:
    assert "no-store" in client.get(path, headers={"accept": accept})["Cache-Control"]


def test_nor_what_the_gateway_said(product: Product) -> None:
    factories.budget("1")
    key = product.key()
    once = {"idempotency-key": "once"}
    answers = [product.get(path, key) for path in ("/v1/models", "/v1/budget", "/v1/nowhere")]
    answers.append(product.get("/v1/models", "sg_bad"))
    answers += [product.chat(key, headers=once) for _ in range(2)]
    assert answers[-1].headers["x-idempotent-replay"] == "true"
    for answer in answers:
        assert answer.headers.get_list("cache-control") == ["no-store"], answer.url
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"], answer.url
    stream = product.chat(key, stream=True)
    assert stream.headers.get_list("cache-control") == ["no-cache"]
    assert stream.headers.get_list("x-content-type-options") == ["nosniff"]


def test_the_documentation_is_drawn_by_files_of_this_host_alone(client: Client) -> None:
    for path in ("/api/docs", "/api/redoc"):
        page = client.get(path).content
        assert b"//fonts." not in page
        assert b"<script>" not in page
