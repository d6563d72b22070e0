"""A budget's policy, what it does near its limit: the fields, how they are given, kept and read. Pure.

Budgets and plans keep a policy in columns, `COLUMNS`. `parse` makes their values of what code, JSON or a form gives,
`from_text` of what people type, `clean` checks them together; `of` makes of them the `Policy` that decisions go by.
So a new field is one line of `Policy` and one column of `models.policies.PolicyFields`; then whoever asks for it.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from governance.rules import money, names
from governance.rules.errors import FieldError, quoted

# What people type for "nothing".
NONE = "none"
MOST_TOKENS = 2**31 - 1
_ARROW = re.compile(r"\s*(?:->|→)\s*")
# What stands behind it: "c", or "c at 0.95".
_TARGET = re.compile(r"(?P<to>\S+)(?:\s+at\s+(?P<at>\S+))?")


@dataclass(frozen=True, slots=True)
class Rule:
    """From any of `sources` ("*" is any model) to `to`, from a share of the limit on.

    `at_e4` is that share in ten-thousandths; None: the soft cap, so never where there is none.
    """

    sources: frozenset[str]
    to: str
    at_e4: int | None = None

    def matches(self, names: Iterable[str]) -> bool:
        return "*" in self.sources or not self.sources.isdisjoint(names)


@dataclass(frozen=True, slots=True)
class ValueKind:
    """A kind of column: how its value is made and read.

    `parse(field, given)` is the value kept, `read(kept)` what a decision takes; `split(text)` is what `parse` takes of
    a text, `join(kept)` that text again.
    """

    parse: Callable[[str, Any], Any]
    read: Callable[[Any], Any]
    split: Callable[[str], Any] = str
    join: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    default: Any
    kind: ValueKind


def _ratio(field: str, value: Any) -> Decimal:
    """A share of the limit above 0 and at most 1, of four decimals."""
    try:
        ratio = money.decimal(str(value))
        money.ten_thousandths(ratio)
    except (ArithmeticError, ValueError) as error:
        raise FieldError(
            field, f"must be a number such as 0.8 with at most four decimals, not {quoted(value)}"
        ) from error
    if not 0 < ratio <= 1:
        raise FieldError(field, f"must be above 0 and at most 1, not {value}")
    return ratio


def _ratios(field: str, value: Any) -> list[str]:
    """Kept as decimal strings, because JSON's numbers are floats."""
    if not isinstance(value, list):
        raise FieldError(field, "must be a list such as [0.5, 0.9]")
    return [_plain(ratio) for ratio in sorted({_ratio(field, item) for item in value})]


def _rules(field: str, value: Any) -> list[dict[str, Any]]:
    shape = (
        'must be a list of rules such as {"from": ["mistral-large-latest"], "to": "mistral-small-latest"}, with an'
        ' "at" such as 0.9 where one does not count from the soft cap on'
    )
    if not isinstance(value, list):
        raise FieldError(field, shape)
    rules = []
    for rule in value:
        if isinstance(rule, str):
            raise FieldError(field, f'must be such as "a,b->c" or "a,b->c at 0.9", not {rule!r}')
        if not isinstance(rule, Mapping) or set(rule) - {"at"} != {"from", "to"}:
            raise FieldError(field, shape)
        sources = [rule["from"]] if isinstance(rule["from"], str) else rule["from"]
        if not isinstance(rule["to"], str) or not rule["to"] or not sources:
            raise FieldError(field, shape)
        kept = {"from": _names(field, sources), "to": names.checked("model", rule["to"], field=field)}
        if rule.get("at") is not None:
            kept["at"] = _plain(_ratio(field, rule["at"]))
        rules.append(kept)
    return rules


def _names(field: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise FieldError(field, "must be a list of names")
    return list(dict.fromkeys(names.checked("tool", name, field=field) for name in value))


def _flag(field: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise FieldError(field, f"must be true or false, not {quoted(value)}")
    return value


def _tokens(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MOST_TOKENS:
        raise FieldError(field, f"must be a whole number from 0 to {MOST_TOKENS:,}, not {quoted(value)}")
    return value


def _split(text: str) -> list[str]:
    return [name for part in re.split(r"[,\n]", text) if (name := part.strip())]


def _split_rules(text: str) -> list[Any]:
    """One rule a line, `a, b -> c` or `a, b -> c at 0.95`; a line that is none stays as it is."""
    found: list[Any] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        sources, *targets = _ARROW.split(line)
        target = _TARGET.fullmatch(targets[0]) if len(targets) == 1 else None
        found.append({"from": _split(sources), **target.groupdict()} if target and _split(sources) else line)
    return found


def _join_rules(rules: Iterable[Mapping[str, Any]]) -> str:
    return "\n".join(f"{', '.join(rule['from'])} -> {rule['to']}{_join_share(rule.get('at'))}" for rule in rules)


def _join_share(at: str | None) -> str:
    return "" if at is None else f" at {at}"


def _read_rule(kept: Mapping[str, Any]) -> Rule:
    at = kept.get("at")
    return Rule(frozenset(kept["from"]), kept["to"], None if at is None else _e4(Decimal(at)))


def _plain(ratio: Decimal | float | str) -> str:
    return f"{Decimal(str(ratio)).normalize():f}"


def _e4(ratio: Decimal | float) -> int:
    # SQLite hands decimals of four places back as floats; the ten-thousandth nearest is the one that was stored.
    return round(ratio * 10_000)


def _or_none(kind: ValueKind) -> ValueKind:
    return ValueKind(
        parse=lambda field, value: None if value is None else kind.parse(field, value),
        read=lambda kept: None if kept is None else kind.read(kept),
        split=lambda text: None if text.strip() in ("", NONE) else text,
        join=lambda kept: "" if kept is None else kind.join(kept),
    )


RATIO = ValueKind(parse=_ratio, read=_e4, join=_plain)
RATIOS = ValueKind(
    parse=_ratios,
    read=lambda kept: tuple(sorted(_e4(Decimal(str(ratio))) for ratio in kept)),
    split=lambda text: [] if text.strip() == NONE else _split(text),
    join=", ".join,
)
RULES = ValueKind(
    parse=_rules,
    read=lambda kept: tuple(map(_read_rule, kept)),
    split=lambda text: [] if text.strip() == NONE else _split_rules(text),
    join=_join_rules,
)
NAMES = ValueKind(
    parse=_names, read=frozenset, split=lambda text: [] if text.strip() == NONE else _split(text), join=", ".join
)
FLAG = ValueKind(parse=_flag, read=bool)
TOKENS = ValueKind(parse=_tokens, read=int)


def _column(name: str, default: Any, kind: ValueKind) -> Any:
    """A field of `Policy` that is kept in the column `name`."""
    return dataclasses.field(default=kind.read(default), metadata={"column": Column(name, default, kind)})


@dataclass(frozen=True, slots=True)
class Policy:
    """What a budget does near its limit, as decisions read it: shares of the limit are integer ten-thousandths."""

    soft_e4: int | None = _column("soft_cap", Decimal("0.8"), _or_none(RATIO))
    hard_e4: int = _column("hard_cap", Decimal("1"), RATIO)
    warn_e4: int | None = _column("warn_at", None, _or_none(RATIO))
    thresholds_e4: tuple[int, ...] = _column("alert_thresholds", ["0.5", "0.75", "0.9", "1"], RATIOS)
    rules: tuple[Rule, ...] = _column("downgrade_rules", [], RULES)
    disabled_tools: frozenset[str] = _column("disabled_tools", [], NAMES)
    clamp: bool = _column("clamp", True, FLAG)
    clamp_min_tokens: int = _column("clamp_min_tokens", 256, TOKENS)


_FIELDS: dict[str, Column] = {field.name: field.metadata["column"] for field in dataclasses.fields(Policy)}
COLUMNS: dict[str, Column] = {column.name: column for column in _FIELDS.values()}


def default(name: str) -> Any:
    """What the column `name` holds where nobody says otherwise."""
    value = COLUMNS[name].default
    return list(value) if isinstance(value, list) else value


def parse(name: str, value: Any) -> Any:
    """What the column `name` keeps of a value of code, JSON or a form; FieldError where it can hold no such value."""
    return COLUMNS[name].kind.parse(name, value)


def from_text(name: str, text: str) -> Any:
    """What the column `name` keeps of what somebody typed: names with commas, a rule a line, "none". See `parse`."""
    return parse(name, COLUMNS[name].kind.split(text))


def to_text(name: str, value: Any) -> str:
    """The text that `from_text` reads as this value."""
    return COLUMNS[name].kind.join(value)


def columns_of(row: object) -> dict[str, Any]:
    """The policy of a budget or plan, by its columns."""
    return {name: getattr(row, name) for name in COLUMNS}


def clean(row: object) -> None:
    """Parse the policy of a budget or plan where it is; FieldError for the first thing that no policy can be."""
    for name, value in columns_of(row).items():
        setattr(row, name, parse(name, value))
    found = columns_of(row)
    hard, soft, warn = found["hard_cap"], found["soft_cap"], found["warn_at"]
    if soft is not None and soft >= hard:
        raise FieldError("soft_cap", f"must be below hard_cap ({hard:f})")
    if warn is not None and (soft is None or warn >= soft):
        raise FieldError("warn_at", "must be below soft_cap")


def of(columns: Mapping[str, Any]) -> Policy:
    """The policy that these columns hold."""
    return Policy(**{field: column.kind.read(columns[column.name]) for field, column in _FIELDS.items()})
