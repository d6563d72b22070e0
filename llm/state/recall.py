"""What settled calls taught, read back when a process starts; from then on it learns from its own calls."""

from __future__ import annotations

from django.db import DatabaseError

from governance.models import SpendEntry
from governance.rules.calls import Usage
from llm.catalogue import snapshot
from llm.rules.token_ratios import TokenRatios

RECALLED_CALLS = 4_000


def recalled() -> TokenRatios:
    """What the last settled calls teach, oldest first; nothing where the ledger cannot be read. One query."""
    ratios = TokenRatios()
    rows = (
        SpendEntry.objects.filter(kind="charge", certainty="confirmed", output_tokens__gt=0)
        .order_by("-pk")
        .values_list("provider", "model_served", "agent", "input_tokens", "output_tokens", "metadata")[:RECALLED_CALLS]
    )
    try:
        found = list(rows)
    except DatabaseError:
        return ratios
    catalogue = snapshot.current()
    for provider, served, agent, input_tokens, output_tokens, measured in reversed(found):
        entry = catalogue.used(Usage(provider=provider, model=served))
        model = served if entry is None else entry.id
        ratios.answered(model=model, agent=agent, output_tokens=output_tokens)
        if input_bytes := measured.get("input_bytes"):
            ratios.read(model=model, input_tokens=input_tokens, input_bytes=input_bytes)
        if output_bytes := measured.get("output_bytes"):
            ratios.wrote(model=model, output_tokens=output_tokens, output_bytes=output_bytes)
    return ratios
