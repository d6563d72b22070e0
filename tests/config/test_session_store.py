from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from config.session_store import SessionStore


@pytest.mark.parametrize("key", ["\0" + "a" * 31, "a" * 7, "a" * 41, "A" * 32, "a" * 31 + "\n", "ä" * 32, ""])
def test_what_can_be_no_sessions_key_is_not_looked_up(key: str) -> None:
    assert SessionStore(key).session_key is None


@pytest.mark.django_db
def test_a_session_is_found_by_its_key(django_user_model: Any) -> None:
    client = Client()
    client.force_login(django_user_model.objects.create_superuser("ada"))
    assert SessionStore(client.session.session_key).load()["_auth_user_id"]
