"""Personas of the control plane: operator, viewer, agent, tenant, and strangers of another tenant."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.test import Client

from governance import ports
from governance.models import ApiKey
from tests import factories
from tests.governance.api import prices


class Api:
    """A client that speaks JSON with one key, or with none."""

    def __init__(self, key: str | None = None, model: ApiKey | None = None) -> None:
        self.client = Client(headers={"authorization": f"Bearer {key}"} if key else {})
        self.key = model

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(path, query_params=query or None)

    def send(self, method: str, path: str, body: Any = None) -> Any:
        return getattr(self.client, method)(
            path, data=body if body is not None else {}, content_type="application/json"
        )

    def post(self, path: str, body: Any = None) -> Any:
        return self.send("post", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self.send("patch", path, body)

    def put(self, path: str, body: Any) -> Any:
        return self.send("put", path, body)

    def delete(self, path: str) -> Any:
        return self.client.delete(path)


def persona(role: str, **fields: Any) -> Api:
    return Api(*factories.key(role=role, **fields))


@pytest.fixture
def operator(db: None) -> Api:
    return persona("operator")


@pytest.fixture
def viewer(db: None) -> Api:
    return persona("viewer")


@pytest.fixture
def agent(db: None) -> Api:
    """The key of acme's agent invoices."""
    return persona("agent")


@pytest.fixture
def tenant(db: None) -> Api:
    """A key of acme."""
    return persona("tenant")


@pytest.fixture
def stranger(db: None) -> Api:
    """The key of an agent of another tenant, which bears the same name."""
    return persona("agent", of=factories.tenant("globex"))


@pytest.fixture
def nobody(db: None) -> Api:
    return Api()


@pytest.fixture
def everyone(operator: Api, viewer: Api, agent: Api, tenant: Api, stranger: Api, nobody: Api) -> dict[str, Api]:
    return {
        "operator": operator,
        "viewer": viewer,
        "agent": agent,
        "tenant": tenant,
        "stranger": stranger,
        "nobody": nobody,
    }


@pytest.fixture
def priced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prices that governance borrows: $1 a million tokens in, $2 out; `mystery` has none."""
    monkeypatch.setattr(ports, "wired", replace(ports.wired, quote=prices.quote, price=prices.cost_of))
