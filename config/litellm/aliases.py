"""Which of a LiteLLM proxy's names of models can be aliases here, and why another cannot. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from config.litellm.export import LitellmModel
from governance.rules import names


@dataclass(frozen=True, slots=True)
class AliasWanted:
    """`provider` and `model` name a model of the catalogue."""

    name: str
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A name that is called goes on to Mistral as it is, so that an alias of ours would mean nothing there."""

    provider: str
    model: str
    is_mistrals: bool = False


# What a name means here; None where nothing.
Meaning = Callable[[str], KnownModel | None]
# The providers that have a name, of which it is none without theirs before it as soon as there are two.
Owners = Callable[[str], Collection[str]]
# Told why something is left out, and what.
Leave = Callable[[str, str], None]
SEVERAL = "a name of several models: say in the routing file which follows which"
ANOTHERS = "a name that another model has without its provider before it: give it another at LiteLLM"


def of(models: Sequence[LitellmModel], model_of: Meaning, owners_of: Owners, *, leave: Leave) -> list[AliasWanted]:
    """What is no alias goes to `leave`: why, and which."""
    deployments = defaultdict(list)
    for each in models:
        deployments[each.name].append(each)
    found = {name: _alias(name, of_name, model_of, leave) for name, of_name in sorted(deployments.items())}
    wanted: dict[AliasWanted, None] = {}
    for name, alias in found.items():
        if alias is None:
            continue
        # By "openai/fast" the alias "fast" is called, so that "fast" alone may mean that model too, or nothing more;
        # but not where Mistral has it, whose it stays whoever else has it.
        bare, there = model_of(alias.name), found.get(alias.name, alias)
        others = {*owners_of(alias.name), *([bare.provider] if bare else [])} - {alias.provider}
        is_mistrals = bare is not None and bare.is_mistrals
        if model_of(name) is None and not is_mistrals and (there != alias or others):
            leave(ANOTHERS, names.printable(name))
        else:
            wanted[alias] = None
    return list(wanted)


def _alias(name: str, models: Sequence[LitellmModel], model_of: Meaning, leave: Leave) -> AliasWanted | None:
    here, told = model_of(name), names.printable(f"{name} ({models[0].stands_for})")
    if why := _why_not_the_providers(name, models):
        if models[0].stands_for or here is None:
            leave(why, names.printable(name))
        return None
    meant = {model_of(each.stands_for) for each in models}
    model = next(iter(meant))
    if len(meant) > 1:
        leave(SEVERAL, names.printable(name))
    elif model is None:
        leave("a model that is not in the catalogue: add it with its price", told)
    elif here is not None and here != model:
        leave(f"a model's name that means {here.model} here", names.printable(name))
    elif here is None and model.is_mistrals:
        why = "a name of one's own for a model of Mistral's, whose API knows no such name: agents name the model"
        leave(why, told)
    else:
        return AliasWanted(name.removeprefix(f"{model.provider}/"), model.provider, model.model)
    return None


def _why_not_the_providers(name: str, models: Sequence[LitellmModel]) -> str:
    """Why a name is not that of a provider's model as everybody has it; empty where it is."""
    settings = sorted({setting for each in models for setting in each.settings})
    reasons = {
        "a name of many models: callers name each by its own": "*" in name,
        "a team's own model: here a name is everybody's": any(each.is_a_teams for each in models),
        "a model whose meaning its database seals: give the answer of /model/info too": any(
            not each.stands_for for each in models
        ),
        "a model at an address of its own: add that under Providers, and the model with its price": any(
            each.has_address for each in models
        ),
        "a model with a price of its own: add it with that price": any(each.has_price for each in models),
        f"a model with settings of its own: {names.printable(', '.join(settings))}": bool(settings),
    }
    return next((why for why, applies in reasons.items() if applies), "")
