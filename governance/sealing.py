"""Secrets that must be read back, kept in the database encrypted under a key that SECRET_KEY leads to.

SECRET_KEY may be replaced: as long as the old one is in SECRET_KEY_FALLBACKS, what it sealed can be read.
"""

from __future__ import annotations

import base64
from contextlib import suppress
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings


class Unreadable(ValueError):
    """It was sealed under a SECRET_KEY that is neither the one in force nor among SECRET_KEY_FALLBACKS."""


def seal(secret: str) -> str:
    """The secret, encrypted under the SECRET_KEY in force."""
    return _box().encrypt(secret.encode()).decode()


def unseal(sealed: str) -> str:
    """What was sealed. Raises Unreadable."""
    try:
        return _box().decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise Unreadable("sealed under another SECRET_KEY") from error


def _box() -> MultiFernet:
    return _box_of((settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS, *settings.WEAK_KEYS))


@lru_cache(maxsize=4)
def _box_of(secret_keys: tuple[str, ...]) -> MultiFernet:
    return MultiFernet([Fernet(_derived(key)) for key in secret_keys])


def _derived(secret_key: str) -> bytes:
    """A key for this purpose alone, so that what else SECRET_KEY signs says nothing about it."""
    derivation = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"spend-governor provider keys")
    return base64.urlsafe_b64encode(derivation.derive(secret_key.encode()))


def fingerprint(secret_key: str) -> str:
    """What tells one SECRET_KEY from another, and leads to none."""
    derivation = HKDF(algorithm=SHA256(), length=8, salt=None, info=b"spend-governor fingerprint")
    return derivation.derive(secret_key.encode()).hex()


def sealed_under(sealed: str) -> str:
    """The fingerprint of the SECRET_KEY, of those there are, that something was sealed under. Raises Unreadable."""
    for key in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS, *settings.WEAK_KEYS):
        with suppress(InvalidToken):
            _box_of((key,)).decrypt(sealed.encode())
            return fingerprint(key)
    raise Unreadable("sealed under another SECRET_KEY")


def fingerprints() -> tuple[str, ...]:
    """Of the SECRET_KEY in force, and of those before it."""
    return tuple(map(fingerprint, (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS, *settings.WEAK_KEYS)))
