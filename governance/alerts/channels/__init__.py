"""How a message leaves: one module for each kind of channel, which sends one message to one target."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from governance.alerts.messages import Message


class NotSent(Exception):
    """Why a message did not leave, or was not taken; no secret is in it."""


class Away(NotSent):
    """No other message leaves there now either, nor anybody else's."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message goes. `secret`: what a webhook is signed with, or Apprise's URL.

    `private_allowed`: whether it may be in a network of our own.
    """

    kind: str
    address: str
    secret: str = field(default="", repr=False)
    private_allowed: bool = False


# Longer than any honest receiver takes to answer, and short enough for the next one in line. A mail server may read a
# message through before it says that it has it, and whoever does not wait for that sends it again.
DEADLINE_S, MAIL_DEADLINE_S = 20.0, 75.0


def send(target: Target, message: Message) -> None:
    """Send it, within a deadline. Raises NotSent; needs no database."""
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            _sender(target.kind)(target, message)
        except Exception as error:
            failed.append(error)

    # A receiver that answers a byte a minute keeps a thread of its own, and nobody else.
    thread = threading.Thread(target=attempt, daemon=True, name="alert")
    thread.start()
    deadline_s = MAIL_DEADLINE_S if target.kind == "email" else DEADLINE_S
    thread.join(deadline_s)
    if thread.is_alive():
        raise Away(f"It did not answer within {deadline_s:g} seconds.")
    if failed:
        raise failed[0] if isinstance(failed[0], NotSent) else NotSent(f"It failed: {type(failed[0]).__name__}.")


def _sender(kind: str):  # type: ignore[no-untyped-def]
    # Apprise takes a moment to load: where it sends, and in no other process.
    if kind == "email":
        from governance.alerts.channels import email as module
    elif kind == "webhook":
        from governance.alerts.channels import webhook as module  # type: ignore[no-redef]
    else:
        from governance.alerts.channels import apprise_url as module  # type: ignore[no-redef]
    return module.send
