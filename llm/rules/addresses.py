"""Where providers may be: rules for the addresses that operators type in, and for the variables that hold keys. Pure.

An address is called with a key and with prompts, from inside the network that the product runs in.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from governance.rules.addresses import is_private

# Providers that the environment alone configures.
RESERVED_NAMES = ("mistral", "mistral-eu", "mistral-us")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# A free choice of variable would let an operator send any of the process's secrets anywhere.
KEY_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*_API_KEY")
_TAKEN_VARIABLES = (
    "MISTRAL_API_KEY",
    "MISTRAL_EU_API_KEY",
    "MISTRAL_US_API_KEY",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
)


def problem_with_base(url: str, *, private_allowed: bool) -> str:
    """What is wrong with a base URL, as a sentence; empty where nothing is."""
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        return "This is no URL."
    if "[v" in parts.netloc.lower():
        # RFC 3986 keeps such a place for addresses to come; whatever calls one fails.
        return "It must name a host, or an IPv4 or IPv6 address."
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known:
        return "It must be a URL that starts with https:// or http://."
    if "@" in parts.netloc or "?" in url or "#" in url:
        return "It must hold no user, password, query or fragment; the key has a field of its own."
    if " " in url or not url.isascii() or not url.isprintable():
        return "It must hold no blanks and plain characters only."
    if not private_allowed and is_private(parts.hostname):
        return "It leads into a private network; set PRIVATE_ENDPOINTS=true to allow that."
    return ""


def problem_with_variable(name: str) -> str:
    """What is wrong with the name of a variable that holds a key; empty where nothing is."""
    if not KEY_VARIABLE.fullmatch(name):
        return "It must be the name of a variable that ends in _API_KEY, such as GROQ_API_KEY."
    if name in _TAKEN_VARIABLES:
        return f"{name} is for its own provider alone."
    return ""


def problem_with_key(key: str) -> str:
    """What is wrong with a key; empty where nothing is. The key is not in the sentence."""
    if not key.isascii() or not key.isprintable() or " " in key:
        return "It must be the key alone, without blanks or line breaks."
    return ""
