"""`manage.py check_routing`"""

import json
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from governance.management.terminal import TerminalCommand
from llm.catalogue import snapshot
from llm.catalogue.snapshot import Catalogue
from llm.rules import routing_yaml
from llm.rules.pricing import Entry
from llm.rules.routing import PoolModel, Routing
from llm.rules.routing_yaml import RoutingError
from llm.state import routing

# Picodollars a token are millionths of a dollar a million tokens.
PICOS_PER_DOLLAR_A_MILLION = 1_000_000


class Command(TerminalCommand):
    help = (
        "Say what a routing file means: its models with their prices, its strategies and chains; or where it is wrong,"
        " and what would be right. Nothing is written. Exit status 1 where the file cannot be used."
    )

    # The file that is in force may be the very one that a new one is to replace.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file", nargs="?", type=Path, help="default: the one in force, ROUTER_CONFIG or the product's own"
        )
        parser.add_argument("--json", action="store_true", help="print {file, pool, strategies, chains}, or {error}")

    def handle(self, *, file: Path | None, **options: Any) -> None:
        path = file or routing.path()
        try:
            text = path.read_text(encoding="utf-8")
            found = routing_yaml.parse(text, path=str(path), known=routing.known_names())
        except RoutingError as error:
            if options["json"]:
                self.stdout.write(json.dumps({"error": _error(error)}))
                raise SystemExit(1) from error
            raise CommandError(str(error)) from error
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"{path} cannot be read: {error}") from error
        facts = _facts(found, snapshot.current())
        if options["json"]:
            self.stdout.write(json.dumps({"file": str(path), **facts}))
        else:
            self._say(path, facts)

    def _say(self, path: Path, facts: dict[str, Any]) -> None:
        self.stdout.write(f"{path}\n\nPool:")
        prices = {each["name"]: _price(each) for each in [*facts["pool"], *facts["others"]]}
        for each in facts["pool"]:
            able = " ".join(each["capabilities"])
            tags = f" [{', '.join(each['tags'])}]" if each["tags"] else ""
            self.stdout.write(f"  {each['name']}{tags}: tier {each['tier']}, {prices[each['name']]}; {able}")
        self.stdout.write("\nStrategies (x-strategy):")
        for name, each in facts["strategies"].items():
            narrowed = [f"models {', '.join(each['models'])}"] * bool(each["models"])
            narrowed += [f"tags {', '.join(each['tags'])}"] * bool(each["tags"])
            narrowed += [f"threshold {each['threshold']}"] * (each["kind"] == "judgment-based")
            self.stdout.write(f"  {name}: {each['kind']}, {'; '.join(narrowed) or 'the whole pool'}")
        self.stdout.write("\nChains:")
        for name, models in facts["chains"].items():
            self.stdout.write(f"  {name}: " + " -> ".join(f"{model} ({prices[model]})" for model in models))


def _facts(found: Routing, catalogue: Catalogue) -> dict[str, Any]:
    strategies = {name: found.strategy(name) for name in found.strategy_names}
    others = dict.fromkeys(name for chain in found.chains.values() for name in chain if name not in found.by_name)
    return {
        "pool": [_model(each, catalogue.resolve(each.name)) for each in found.pool],
        "others": [_model(PoolModel(name), catalogue.resolve(name)) for name in others],
        "strategies": {
            name: {
                "kind": each.kind.value,
                "models": list(each.models),
                "tags": sorted(each.tags),
                "threshold": each.threshold,
            }
            for name, each in strategies.items()
        },
        "chains": {name: list(chain) for name, chain in found.chains.items()},
    }


def _model(model: PoolModel, entry: Entry | None) -> dict[str, Any]:
    able = model.narrowed(entry) if entry else None
    rates = entry.rates if entry else None
    return {
        "name": model.name,
        "model": entry.id if entry else None,
        "provider": entry.provider if entry else None,
        "enabled": model.enabled,
        "served": entry is not None,
        "tier": model.tier,
        "tags": sorted(model.tags),
        "latency_hint_ms": model.latency_hint_ms,
        "capabilities": sorted(able.capabilities) if able else [],
        "context_tokens": able.context_tokens if able else None,
        "usd_per_million_input": _dollars(rates.input_picos) if rates and rates.by_token else None,
        "usd_per_million_output": _dollars(rates.output_picos) if rates and rates.by_token else None,
    }


def _price(model: dict[str, Any]) -> str:
    if not model["served"]:
        return "not served now"
    price = "no price, so never used"
    if model["usd_per_million_input"] is not None:
        price = f"${model['usd_per_million_input']}/${model['usd_per_million_output']} a million"
    return price if model["enabled"] else f"switched off, {price}"


def _dollars(picos: int) -> str:
    whole, rest = divmod(picos, PICOS_PER_DOLLAR_A_MILLION)
    return f"{whole}.{rest:06}".rstrip("0").rstrip(".")


def _error(error: RoutingError) -> dict[str, Any]:
    return {"file": error.path, "line": error.line, "column": error.column, "reason": error.reason}
