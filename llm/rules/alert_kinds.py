"""What the kinds of alerts that the model side reports mean to people. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from governance.rules.alert_kinds import AlertKind
from governance.rules.alerting import Area

_MODELS, _PROVIDERS = "llm_model_changelist", "llm_providerendpoint_changelist"


def _model(title: str, advice: str = "", button: str = "See the models") -> AlertKind:
    return AlertKind(title, Area.MODELS, _MODELS, advice, button)


def _provider(title: str, advice: str = "", button: str = "See the providers") -> AlertKind:
    return AlertKind(title, Area.MODELS, _PROVIDERS, advice, button)


KINDS: Mapping[str, AlertKind] = {
    "price_missing": _model("A model in use has no price", "Give it a price.", "Price the model"),
    "model_deprecated": _model("A model in use is deprecated", "Move its callers to another one."),
    "model_unlisted": _model("A model in use is gone from its provider's list"),
    "price_differs": AlertKind("Another source has another price", Area.MODELS, "offers", button="Compare the prices"),
    "model_sync_failed": _model("The list of models cannot be read", "It is tried again tomorrow."),
    "model_unknown": _model(
        "An answer names a model that has no price",
        "If it is the model that was asked for, as behind a deployment, make the name its alias; else price it.",
        "See the models",
    ),
    "usage_implausible": _model("A model's usage cannot be believed"),
    "told_above_hold": _model(
        "A call cost more than was held for it",
        "Its endpoint says so. Compare its price list with the price here, and its bill with the call.",
    ),
    "tier_unpriced": _model(
        "A dearer service tier has no price",
        "Switch it off at the provider, or give the model a price of that tier.",
        "Price the model",
    ),
    "routing_file": AlertKind(
        "The routing file cannot be used", Area.MODELS, "routing", "The last good one stays in force.", "See the pool"
    ),
    "provider_unusable": _provider("A provider cannot be called", button="Enter its key or address"),
    "model_failing": AlertKind(
        "A model does not answer",
        Area.MODELS,
        "routing",
        "Calls go to others of its chain where there are some.",
        "See the pool",
    ),
    "upstream_auth": _provider("A provider refuses our key", "Enter a key that it takes, then try it.", "Enter a key"),
    "provider_spend_limit": _provider("A provider wants to be paid", "Top up the account there, or raise its limit."),
}
