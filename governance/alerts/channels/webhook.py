"""Webhooks, signed as https://www.standardwebhooks.com says (symmetric signatures, version 1)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import secrets
import socket
import ssl
import threading
from contextlib import suppress
from urllib.parse import SplitResult, unquote, urlsplit

from django.utils import timezone

from governance import proxies
from governance.alerts.channels import Away, NotSent, Target
from governance.alerts.messages import Message
from governance.rules import addresses

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with
TIMEOUT_S, WHOLE_S = 10.0, 15.0
AGENT = "Spend-Governor"


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def problem_with(url: str, *, private_allowed: bool) -> str:
    """What is wrong with an address, as a sentence; empty where nothing is."""
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        return "This is no URL."
    if not url.isascii() or not url.isprintable() or " " in url:
        return "It must hold no blanks and plain characters only."
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known:
        return "It must be a URL that starts with https:// or http://."
    if "@" in parts.netloc or "#" in url:
        return "It must hold no user, password or fragment; what is sent is signed."
    if not private_allowed and (parts.scheme != "https" or addresses.is_private(parts.hostname)):
        return "It must be https and lead to no private network; PRIVATE_ENDPOINTS=true allows operators' own both."
    return ""


def signature(secret: str, *, id: str, stamp: int, body: bytes) -> str:
    """The header `webhook-signature`: version 1 is HMAC-SHA256 of "id.timestamp.body"."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{id}.{stamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def send(target: Target, message: Message) -> None:
    if problem := problem_with(target.address, private_allowed=target.private_allowed):
        raise NotSent(f"Its address cannot be called. {problem}")
    parts = urlsplit(target.address)
    body = json.dumps(_payload(message), ensure_ascii=False, separators=(",", ":")).encode()
    stamp = int(timezone.now().timestamp())
    headers = {
        "content-type": "application/json",
        "user-agent": AGENT,
        "webhook-id": message.id,
        "webhook-timestamp": str(stamp),
        "webhook-signature": signature(target.secret, id=message.id, stamp=stamp, body=body),
    }
    try:
        status = _post(parts, body, headers, private_allowed=target.private_allowed)
    except (OSError, http.client.HTTPException) as error:
        raise Away(f"It cannot be reached ({type(error).__name__}).") from error
    # A redirect is not followed: it would lead anywhere, with what is signed.
    if not 200 <= status < 300:
        raise NotSent(f"It answers {status}.")


def _payload(message: Message) -> dict[str, object]:
    [first, *_] = message.data["alerts"]
    return {
        "type": f"alert.{first['what']}",
        "timestamp": first["occurred_at"],
        "data": first,
    }


def _post(parts: SplitResult, body: bytes, headers: dict[str, str], *, private_allowed: bool) -> int:
    """The status of the answer, of which nothing more is read. Raises OSError, HTTPException, NotSent."""
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    proxy = proxies.proxy_for(parts.geturl())
    opened = _through(proxy, host, port) if proxy else _connected(host, port, private_allowed=private_allowed)
    connection.sock = opened
    # A receiver that sends a byte now and then keeps every timeout; this one it does not.
    end = threading.Timer(WHOLE_S, _shut, [connection])
    end.start()
    try:
        if parts.scheme == "https":
            # From here on the connection is this one, and the other is none.
            connection.sock = opened = ssl.create_default_context().wrap_socket(
                opened, server_hostname=host, do_handshake_on_connect=False
            )
            opened.do_handshake()
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        end.cancel()
        connection.close()
        opened.close()


def _connected(host: str, port: int, *, private_allowed: bool) -> socket.socket:
    """A connection to the very address that was looked at: whoever owns a name may change what it means any time."""
    found = [info[4][0] for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    usable = [str(one) for one in found if private_allowed or addresses.is_public(str(one))]
    if not usable:
        raise NotSent("Its name leads into a private network.")
    return socket.create_connection((usable[0], port), timeout=TIMEOUT_S)


def _through(proxy: str, host: str, port: int) -> socket.socket:
    """A tunnel through the proxy, which looks the name up and has rules of its own."""
    parts = urlsplit(proxy)
    tunnel = http.client.HTTPConnection(parts.hostname or "", parts.port or 3128, timeout=TIMEOUT_S)
    who = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}".encode()
    headers = {"proxy-authorization": f"Basic {base64.b64encode(who).decode()}"} if parts.username else {}
    tunnel.set_tunnel(host, port, headers)
    tunnel.connect()
    return tunnel.sock


def _shut(connection: http.client.HTTPConnection) -> None:
    opened = connection.sock
    if opened is not None:
        with suppress(OSError):
            # Not TLS's own, which takes from whoever reads what is read with.
            socket.socket.shutdown(opened, socket.SHUT_RDWR)
