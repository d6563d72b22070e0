"""Who a call is for, and what it used."""

from __future__ import annotations

from dataclasses import dataclass

# Tools and searches that agents run themselves are priced by the call, in the place of a provider's models.
TOOL_PROVIDER = "tool"
CALL_UNIT = "call"
# As long as the catalogue's names are.
LONGEST_TOOL = 100
# A million dollars, in nanodollars: a column of the database holds its picodollars.
DEAREST_CALL_NANOS = 10**15


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a call is for. The tenant, and the agent of a bound key, come from the API key alone."""

    tenant_id: int
    tenant: str
    agent: str = ""
    key_id: int | None = None
    # What budgets of a key know it by: of a rotated one the first key's.
    key_prefix: str = ""
    user: str = ""
    session: str = ""
    task: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, as the provider counted it. `input_tokens` include the cached ones."""

    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    unit: str = "token"
    units: int = 0


def tool_usage(tool: str, *, calls: int) -> Usage:
    """So many calls of a tool."""
    return Usage(provider=TOOL_PROVIDER, model=tool, unit=CALL_UNIT, units=calls)
