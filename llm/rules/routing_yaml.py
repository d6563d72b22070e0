"""A routing file's text becomes `routing.Routing`, or an error that says where it is wrong and what would be right.

Nodes are read, not values, because they know their line and column. Nothing in the file is executed or imported.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Never

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from llm.rules.capabilities import CAPABILITIES
from llm.rules.pricing import DEFAULT_PROVIDER
from llm.rules.routing import JUDGE, WORKHORSE, Kind, PoolModel, Routing, Strategy

MOST_CHARS = 1_000_000
TIERS = (1, 9)
LATENCIES_MS = (1, 600_000)
CONTEXTS = (1, 100_000_000)
THRESHOLDS = (0, 100)
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# YAML has further ways to write numbers, of which 010 (which is 8) is one.
_WHOLE = re.compile(r"0|[1-9][0-9_]{0,12}")
_STR, _INT, _BOOL, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "bool", "null"))
_KINDS = {MappingNode: "a mapping", SequenceNode: "a list", ScalarNode: "a single value"}


class RoutingError(ValueError):
    """The file cannot be used. `line` and `column` count from 1."""

    def __init__(self, path: str, line: int, column: int, reason: str) -> None:
        super().__init__(f"{path}:{line}:{column}: {reason}")
        self.path, self.line, self.column, self.reason = path, line, column, reason


def parse(text: str, *, path: str, known: Mapping[str, str] | None) -> Routing:
    """What the file says. Raises RoutingError.

    `known` maps each name of the catalogue to its model's id; without it names are not looked up.
    """
    return _File(path, known).routing(_root(text, path))


def _root(text: str, path: str) -> Node:
    if len(text) > MOST_CHARS:
        raise RoutingError(path, 1, 1, f"It has more than {MOST_CHARS} characters, which no routing file needs.")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        raise RoutingError(path, line, column, f"It is no YAML: {error.problem or error.context}.") from error
    except yaml.YAMLError as error:
        # A character that may not be in YAML: it is said at which place of the text.
        before = text[: getattr(error, "position", 0)]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        reason = getattr(error, "reason", "it cannot be read")
        raise RoutingError(path, line, column, f"It is no YAML: {reason}.") from error
    except RecursionError as error:
        raise RoutingError(path, 1, 1, "It is nested too deeply.") from error
    if root is None:
        raise RoutingError(path, 1, 1, "It is empty; it needs at least `pool`, a list of models.")
    return root


class _File:
    """Reads the nodes of one file."""

    def __init__(self, path: str, known: Mapping[str, str] | None) -> None:
        self.path = path
        self.known = known
        # The model's id -> the pool's name for it.
        self.pool: dict[str, PoolModel] = {}

    def routing(self, root: Node) -> Routing:
        top = self.fields(root, {"pool", "strategies", "chains"}, "the file", needed=("pool",))
        for node in self.items(top["pool"], "pool"):
            self.add_to_pool(node)
        if not self.pool:
            self.fail(top["pool"], "`pool` has no model; list at least one, such as `- id: mistral-small-latest`.")
        strategies = {}
        for name, node in self.named(top.get("strategies"), "strategies"):
            strategies[name] = self.strategy(name, node)
        return Routing(tuple(self.pool.values()), strategies, self.chains(top.get("chains")))

    def add_to_pool(self, node: Node) -> None:
        names = {"id", "provider", "enabled", "tier", "tags", "latency_hint_ms", "capabilities", "context_tokens"}
        found = self.fields(node, names, "a model of the pool", needed=("id",))
        name = self.text(found["id"], "id")
        if provider := self.optional(found, "provider", self.text):
            name = name if provider == DEFAULT_PROVIDER else f"{provider}/{name}"
        id = self.model_id(found["id"], name)
        if id in self.pool:
            self.fail(found["id"], f"{name!r} is in the pool already{self.alias_note(id, name)}; list each model once.")
        given: dict[str, Any] = {
            "enabled": self.optional(found, "enabled", self.boolean),
            "tier": self.optional(found, "tier", lambda node, name: self.integer(node, name, TIERS)),
            "tags": self.optional(found, "tags", self.tags),
            "latency_hint_ms": self.optional(
                found, "latency_hint_ms", lambda node, name: self.integer(node, name, LATENCIES_MS)
            ),
            "capabilities": self.optional(found, "capabilities", self.capabilities),
            "context_tokens": self.optional(
                found, "context_tokens", lambda node, name: self.integer(node, name, CONTEXTS)
            ),
        }
        self.pool[id] = PoolModel(name, **{key: value for key, value in given.items() if value is not None})

    def strategy(self, name: str, node: Node) -> Strategy:
        found = self.fields(node, {"kind", "models", "tags", "threshold"}, f"the strategy {name!r}", needed=("kind",))
        kind = Kind(self.one_of(found["kind"], "kind", [each.value for each in Kind]))
        models = self.models(found.get("models"), "models", in_pool=True)
        threshold = self.optional(found, "threshold", lambda node, name: self.integer(node, name, THRESHOLDS))
        if threshold is not None and kind is not Kind.JUDGMENT:
            self.fail(found["threshold"], f"`threshold` is for {Kind.JUDGMENT.value} alone; leave it out.")
        made = Strategy(name, kind, models, self.optional(found, "tags", self.tags) or frozenset())
        taken = [
            each
            for each in self.pool.values()
            if each.enabled and made.tags <= each.tags and (not models or each.name in models)
        ]
        if not taken:
            self.fail(
                node, f"The strategy {name!r} takes no enabled model of the pool; give it other `models` or `tags`."
            )
        if kind is Kind.JUDGMENT:
            for tag in (WORKHORSE, JUDGE):
                if not any(tag in each.tags for each in taken):
                    self.fail(
                        node, f"The strategy {name!r} needs a model with the tag {tag!r}; add it to one's `tags`."
                    )
        return made if threshold is None else Strategy(name, kind, models, made.tags, threshold)

    def chains(self, node: Node | None) -> dict[str, tuple[str, ...]]:
        chains: dict[str, tuple[str, ...]] = {}
        begun: dict[str, str] = {}
        for name, chain in self.named(node, "chains"):
            models = self.models(chain, f"chains.{name}")
            if len(models) < 2:
                self.fail(chain, f"The chain {name!r} leads nowhere; it needs two models or more.")
            first = self.id_of(models[0])
            if first in begun:
                self.fail(chain, f"The chain {begun[first]!r} begins with {models[0]!r} too; a model has one chain.")
            begun[first] = name
            chains[name] = models
        return chains

    def models(self, node: Node | None, name: str, *, in_pool: bool = False) -> tuple[str, ...]:
        """Names of models, each once; by the pool's name where it is in the pool."""
        found: dict[str, str] = {}
        for item in self.items(node, name) if node else ():
            model = self.text(item, name)
            id = self.model_id(item, model)
            if id in found:
                self.fail(item, f"`{name}` has {model!r} twice{self.alias_note(id, model)}, a cycle; list it once.")
            if in_pool and id not in self.pool:
                self.fail(item, f"{model!r} is not in the pool; add it there, or use {self.hint(self.pool_names())}.")
            found[id] = self.pool[id].name if id in self.pool else model
        return tuple(found.values())

    def model_id(self, node: Node, name: str) -> str:
        if self.known is not None and name not in self.known:
            near = difflib.get_close_matches(name, self.known, n=3)
            self.fail(
                node, f"The catalogue has no model {name!r}; {self.hint(near, 'did you mean') or 'add it there first'}."
            )
        return self.id_of(name)

    def id_of(self, name: str) -> str:
        return name if self.known is None else self.known.get(name, name)

    def alias_note(self, id: str, name: str) -> str:
        """Said where one model goes by two names."""
        other = self.pool[id].name if id in self.pool else id
        return "" if other == name else f" (as {other!r}, which is the same)"

    def pool_names(self) -> list[str]:
        return [each.name for each in self.pool.values()]

    def fields(self, node: Node, names: Collection[str], what: str, *, needed: Iterable[str]) -> dict[str, Node]:
        """A mapping's values by name; each name at most once and one of `names`."""
        found: dict[str, Node] = {}
        for key, value in self.pairs(node, what):
            name = self.text(key, "a key")
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1) or sorted(names)
                self.fail(key, f"{what} has no {name!r}; {self.hint(near, 'did you mean')}?")
            if name in found:
                self.fail(key, f"{what} has `{name}` twice; say it once.")
            found[name] = value
        for name in needed:
            if name not in found:
                self.fail(node, f"{what} lacks `{name}`.")
        return found

    def named(self, node: Node | None, what: str) -> Iterator[tuple[str, Node]]:
        """Pairs of a name of the operator's choice and its value."""
        seen = set()
        for key, value in self.pairs(node, f"`{what}`") if node else ():
            name = self.text(key, "a name")
            if not _WORD.fullmatch(name):
                self.fail(key, f"{name!r} must be small letters, digits and hyphens, 63 at most.")
            if name in seen:
                self.fail(key, f"`{what}` has {name!r} twice; say it once.")
            seen.add(name)
            yield name, value

    def pairs(self, node: Node, what: str) -> Iterable[tuple[Node, Node]]:
        if isinstance(node, ScalarNode) and node.tag == _NULL:
            return ()
        if not isinstance(node, MappingNode):
            self.fail(node, f"{what} must be a mapping of names to values, not {_shown(node)}.")
        return node.value  # type: ignore[no-any-return]

    def items(self, node: Node, name: str) -> Iterable[Node]:
        if not isinstance(node, SequenceNode):
            self.fail(node, f"`{name}` must be a list, not {_shown(node)}.")
        return node.value  # type: ignore[no-any-return]

    def optional(self, found: Mapping[str, Node], name: str, read: Callable[[Node, str], Any]) -> Any:
        """None where it is not said."""
        return read(found[name], name) if name in found else None

    def text(self, node: Node, name: str) -> str:
        if not isinstance(node, ScalarNode) or node.tag != _STR or not node.value.strip():
            quoted = isinstance(node, ScalarNode) and node.tag != _STR and node.value
            what = name if " " in name else f"`{name}`"
            self.fail(node, f"{what} must be text, not {_shown(node)}{'; put it in quotes' if quoted else ''}.")
        return str(node.value)

    def boolean(self, node: Node, name: str) -> bool:
        if not isinstance(node, ScalarNode) or node.tag != _BOOL:
            self.fail(node, f"`{name}` must be true or false, not {_shown(node)}.")
        return node.value.lower() in ("true", "yes", "on")

    def integer(self, node: Node, name: str, bounds: tuple[int, int]) -> int:
        least, most = bounds
        digits = node.value if isinstance(node, ScalarNode) and node.tag == _INT else ""
        if not _WHOLE.fullmatch(digits) or not least <= int(digits) <= most:
            self.fail(node, f"`{name}` must be a whole number from {least} to {most}, not {_shown(node)}.")
        return int(digits)

    def one_of(self, node: Node, name: str, choices: Collection[str]) -> str:
        if not isinstance(node, ScalarNode) or node.value not in choices:
            self.fail(node, f"`{name}` must be {self.hint(choices)}, not {_shown(node)}.")
        return str(node.value)

    def tags(self, node: Node, name: str) -> frozenset[str]:
        words = [(item, self.text(item, name)) for item in self.items(node, name)]
        for item, word in words:
            if not _WORD.fullmatch(word):
                self.fail(item, f"A tag must be small letters, digits and hyphens, not {word!r}.")
        return frozenset(word for _, word in words)

    def capabilities(self, node: Node, name: str) -> frozenset[str]:
        return frozenset(self.one_of(item, name, CAPABILITIES) for item in self.items(node, name))

    def hint(self, choices: Iterable[str], before: str = "one of") -> str:
        """ "one of a, b" or "did you mean a"; empty where there is nothing to choose."""
        listed = list(choices)
        if len(listed) == 1 and before == "one of":
            return listed[0]
        return f"{before} {', '.join(listed)}" if listed else ""

    def fail(self, node: Node, reason: str) -> Never:
        mark = node.start_mark
        raise RoutingError(self.path, mark.line + 1, mark.column + 1, reason[:1].upper() + reason[1:])


def _shown(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return repr(node.value[:80]) if node.tag != _NULL else "nothing"
    return _KINDS[type(node)]
