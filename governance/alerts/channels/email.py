"""E-mail, by the server that EMAIL_URL names."""

from __future__ import annotations

import smtplib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMultiAlternatives, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.core.validators import validate_email

from governance.alerts.channels import Away, NotSent, Target
from governance.alerts.messages import Message

MOST_ADDRESSES = 20
# A server may read a whole message through before it says that it has it; whoever does not wait sends it again.
READS_FOR_S = 60.0


def problem_with(address: str) -> str:
    """What is wrong with a list of addresses, as a sentence; empty where nothing is."""
    found = addresses(address)
    if not found or len(found) > MOST_ADDRESSES:
        return f"Name between 1 and {MOST_ADDRESSES} e-mail addresses, separated by commas."
    for one in found:
        try:
            validate_email(one)
        except ValidationError:
            return f"{one!r} is no e-mail address."
    return ""


def addresses(address: str) -> list[str]:
    return [part for raw in address.split(",") if (part := raw.strip())]


def send(target: Target, message: Message) -> None:
    mail = written(
        id=message.id,
        to=addresses(target.address),
        subject=message.title,
        text=message.text,
        headers={"References": f"<{message.incident}@{_host()}>"},
    )
    mail.attach_alternative(message.html, "text/html")
    post(mail)


def written(
    *, id: str, to: Sequence[str], subject: str, text: str, headers: Mapping[str, str]
) -> EmailMultiAlternatives:
    """A message of ours. `id` is the same at every try, so that mailboxes and people can tell a repeat."""
    own = {
        "Message-ID": f"<{id}@{_host()}>",
        # No out-of-office answers it.
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
    }
    return EmailMultiAlternatives(
        subject=subject, body=text, from_email=settings.DEFAULT_FROM_EMAIL, to=list(to), headers=own | dict(headers)
    )


def _host() -> str:
    return urlsplit(settings.APP_URL).hostname or "localhost"


def post(mail: EmailMultiAlternatives) -> None:
    """Hand it to the server that EMAIL_URL names. Raises NotSent, and Away where it takes nothing from anybody."""
    if not settings.EMAIL_URL:
        raise Away("EMAIL_URL is not set, so no e-mail can be sent.")
    try:
        _send(mail, get_connection(timeout=settings.EMAIL_TIMEOUT))
    except smtplib.SMTPRecipientsRefused as error:
        raise NotSent("The mail server refuses the addresses.") from error
    except smtplib.SMTPAuthenticationError as error:
        raise Away("The mail server refuses the user or password of EMAIL_URL.") from error
    except smtplib.SMTPDataError as error:
        # It may be about this message alone.
        raise NotSent(f"The mail server answers {error.smtp_code}.") from error
    except smtplib.SMTPResponseException as error:
        raise Away(f"The mail server answers {error.smtp_code}.") from error
    except (OSError, smtplib.SMTPException) as error:
        raise Away(f"The mail server cannot be reached ({type(error).__name__}).") from error
    except ValueError as error:
        # Such as a domain whose form in ASCII is too long.
        raise NotSent("No message can be written to this address.") from error


def _send(mail: EmailMultiAlternatives, backend: BaseEmailBackend) -> None:
    """A server that does not let us in is waited for as long as EMAIL_TIMEOUT says, and one that does for longer."""
    mail.connection = backend
    try:
        backend.open()
        server = getattr(backend, "connection", None)
        if server is not None:
            server.sock.settimeout(READS_FOR_S)
        mail.send()
        if server is not None:
            server.sock.settimeout(settings.EMAIL_TIMEOUT)
    except Exception:
        # What went wrong first is what is told.
        with suppress(OSError, smtplib.SMTPException):
            backend.close()
        raise
    # It has the message: how it says goodbye changes nothing.
    with suppress(OSError, smtplib.SMTPException):
        backend.close()
