"""Secrets in the database: read back under the SECRET_KEY in force, and under those before it."""

from __future__ import annotations

from typing import Any

import pytest

from governance import sealing

FIRST, SECOND = "first-" * 10, "second-" * 10


@pytest.fixture
def secret_keys(settings: Any) -> Any:
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = FIRST, []
    return settings


def test_what_is_sealed_can_be_read_and_is_not_there(secret_keys: Any) -> None:
    sealed = sealing.seal("sk-1")
    assert sealing.unseal(sealed) == "sk-1"
    assert "sk-1" not in sealed
    assert sealing.seal("sk-1") != sealed


def test_a_new_secret_key_reads_what_the_old_one_sealed(secret_keys: Any) -> None:
    sealed = sealing.seal("sk-1")
    secret_keys.SECRET_KEY, secret_keys.SECRET_KEY_FALLBACKS = SECOND, [FIRST]
    assert sealing.unseal(sealed) == "sk-1"
    renewed = sealing.seal("sk-1")
    secret_keys.SECRET_KEY_FALLBACKS = []
    assert sealing.unseal(renewed) == "sk-1"


def test_without_the_old_secret_key_it_is_unreadable(secret_keys: Any) -> None:
    sealed = sealing.seal("sk-1")
    secret_keys.SECRET_KEY = SECOND
    with pytest.raises(sealing.Unreadable):
        sealing.unseal(sealed)
    with pytest.raises(sealing.Unreadable):
        sealing.unseal("garbage")
