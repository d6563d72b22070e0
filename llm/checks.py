"""System checks: what stops `manage.py` commands, and so a deployment, before it serves anybody."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error

from llm.rules import routing_yaml
from llm.rules.routing_yaml import RoutingError


def routing_file(**kwargs: Any) -> list[CheckMessage]:
    """The operator's routing file can be read. Whether the catalogue has its models is looked up by the gateway as it
    starts, and by `check_routing`: here there may be no database yet."""
    if not settings.ROUTER_CONFIG:
        return []
    try:
        text = settings.ROUTER_CONFIG.read_text(encoding="utf-8")
        routing_yaml.parse(text, path=str(settings.ROUTER_CONFIG), known=None)
    except RoutingError as error:
        return [Error(str(error), hint="ROUTER_CONFIG names this file.", id="llm.E001")]
    except (OSError, UnicodeDecodeError) as error:
        return [Error(f"{settings.ROUTER_CONFIG}: {error}", hint="ROUTER_CONFIG names this file.", id="llm.E001")]
    return []
