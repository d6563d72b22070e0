"""Where providers may be: rules for the addresses that operators type in, and for the variables that hold keys. Pure.

An address is called with a key and with prompts, from inside the network that the product runs in.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

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
# Of version 6 the internet has this part; the rest stands for addresses of version 4, or is a network's own.
_INTERNET_6 = ipaddress.IPv6Network("2000::/3")
# What networks without version 4 call its addresses by (NAT64).
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# Not the internet's, though Python's own list has them so or, in some of its versions, in part.
_NETWORKS_OWN = tuple(
    map(
        ipaddress.ip_network,
        (
            "192.0.0.0/24",  # protocols of the network itself; clouds answer with secrets there
            "192.88.99.0/24",  # the way into 6to4
            "168.63.129.16/32",  # a cloud's own service to its machines
            "2002::/16",  # 6to4: any address of version 4
            "3fff::/20",  # for documents
        ),
    )
)
_PRIVATE_NAMES = ("localhost", "local", "internal", "lan", "home.arpa")


def problem_with_base(url: str, *, private_allowed: bool) -> str:
    """What is wrong with a base URL, as a sentence; empty where nothing is."""
    try:
        parts = urlsplit(url)
        port_known = parts.port is None or parts.port > 0
    except ValueError:
        return "This is no URL."
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_known:
        return "It must be a URL that starts with https:// or http://."
    if "@" in parts.netloc or "?" in url or "#" in url:
        return "It must hold no user, password, query or fragment; the key has a field of its own."
    if " " in url or not url.isascii() or not url.isprintable():
        return "It must hold no blanks and plain characters only."
    if not private_allowed and _is_private(parts.hostname):
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


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's, also where it stands for another one."""
    ip = _meant(ipaddress.ip_address(address.partition("%")[0]))
    if ip.version == 6 and ip not in _INTERNET_6:
        return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in _NETWORKS_OWN)


def _meant(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address of version 4 that one of version 6 stands for on its way, else the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in _TRANSLATED:
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip


def _is_private(host: str) -> bool:
    """Whether a host is loopback or private by its name or number; what a name resolves to is seen at each call."""
    host = host.rstrip(".").lower()
    try:
        return not is_public(host)
    except ValueError:
        # Numbers in other spellings (2130706433, 0x7f.1) mean addresses too; no public API is called by one.
        numeric = re.fullmatch(r"[0-9.]+|0x[0-9a-f.x]+", host) is not None
        return numeric or host in _PRIVATE_NAMES or host.endswith(tuple(f".{name}" for name in _PRIVATE_NAMES))
