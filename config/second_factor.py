"""The console's second factor: one-time codes of an authenticator app, and codes to recover with.

The codes, their windows and the pauses between wrong tries are django-otp's.
"""

from __future__ import annotations

import io
from base64 import b32encode
from datetime import datetime

import segno
from django.contrib.auth.models import User
from django.db import transaction
from django.utils.safestring import SafeString
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice

from governance import audit

RECOVERY_CODES = 10
# An authenticator's code has so many digits; a recovery code has eight letters and digits.
DIGITS = 6


def device_of(user: User) -> TOTPDevice | None:
    return TOTPDevice.objects.filter(user=user, confirmed=True).first()


def is_set_up(user: User) -> bool:
    return device_of(user) is not None


def codes_left(user: User) -> int:
    return int(StaticToken.objects.filter(device__user=user).count())


def begun(user: User) -> TOTPDevice:
    """What is being set up: the same until it is confirmed, so that the page can be loaded again."""
    found = TOTPDevice.objects.filter(user=user, confirmed=False).order_by("pk").first()
    return found or TOTPDevice.objects.create(user=user, confirmed=False, name="Authenticator")


def forget_begun(user: User) -> None:
    TOTPDevice.objects.filter(user=user, confirmed=False).delete()


def secret_of(device: TOTPDevice) -> str:
    """As people type it into an app that cannot scan: groups of four."""
    text = b32encode(device.bin_key).decode()
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def qr_code(device: TOTPDevice) -> SafeString:
    """The app's picture as SVG; dark on light in either theme, as cameras want it."""
    drawn = io.BytesIO()
    segno.make(device.config_url, micro=False).save(
        drawn,
        kind="svg",
        xmldecl=False,
        svgns=True,
        omitsize=True,
        border=4,
        dark="#000",
        light="#fff",
        title="QR code",
    )
    return SafeString(drawn.getvalue().decode())


def verify(*, user: User, code: str) -> bool:
    """Whether a code is right, which uses it up. After a wrong one the next is looked at after a pause that grows."""
    text = "".join(code.split()).replace("-", "").lower()
    kind = TOTPDevice if len(text) == DIGITS and text.isdecimal() else StaticDevice
    with transaction.atomic():
        device = kind.objects.select_for_update().filter(user=user, confirmed=True).first()
        return device is not None and bool(device.verify_token(text))


@transaction.atomic
def confirm(*, user: User, code: str, by: audit.Actor, now: datetime) -> list[str] | None:
    """Finishes the setting up with the app's first code; the recovery codes, or None where the code is wrong."""
    device = TOTPDevice.objects.select_for_update().get(pk=begun(user).pk)
    if not device.verify_token("".join(code.split())):
        return None
    TOTPDevice.objects.filter(user=user, confirmed=True).delete()
    device.confirmed = True
    device.save(update_fields=["confirmed"])
    audit.record(action="second_factor.set_up", target=f"user {user.get_username()}", by=by, now=now)
    return _new_codes(user)


@transaction.atomic
def renew_codes(*, user: User, by: audit.Actor, now: datetime) -> list[str]:
    """New recovery codes; the old ones are worth nothing from now on."""
    audit.record(action="second_factor.renew_codes", target=f"user {user.get_username()}", by=by, now=now)
    return _new_codes(user)


@transaction.atomic
def remove(*, user: User, reason: str = "", by: audit.Actor, now: datetime) -> None:
    """From the next sign-in on the password is enough, unless REQUIRE_TOTP asks for another factor first."""
    TOTPDevice.objects.filter(user=user).delete()
    StaticDevice.objects.filter(user=user).delete()
    audit.record(action="second_factor.remove", target=f"user {user.get_username()}", by=by, now=now, reason=reason)


def _new_codes(user: User) -> list[str]:
    device = StaticDevice.objects.get_or_create(user=user, defaults={"name": "Recovery codes"})[0]
    device.token_set.all().delete()
    codes = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
    StaticToken.objects.bulk_create(StaticToken(device=device, token=code) for code in codes)
    return codes
