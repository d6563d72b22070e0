"""Browsers of console users."""

from __future__ import annotations

from typing import Any

from django.test import Client

from tests import factories


def signed_in(name: str, *roles: str, **fields: Any) -> Client:
    client = Client()
    client.force_login(factories.person(name, *roles, **fields))
    return client
