"""What the routing file may say, and how it is told that it says something else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.catalogue.seed import rows
from llm.rules import routing_yaml
from llm.rules.routing import Kind, PoolModel, Routing, Strategy
from llm.rules.routing_yaml import RoutingError

KNOWN = {
    "small": "small-2603",
    "small-2603": "small-2603",
    "medium": "medium-3",
    "large": "large-2512",
    "mistral-eu/small": "mistral-eu/small-2603",
    "openai/gpt": "openai/gpt",
}
WHOLE = """
pool:
  - {id: small, tier: 2, tags: [workhorse], latency_hint_ms: 300}
  - id: medium
    enabled: false
    capabilities: [chat, tools]
    context_tokens: 32_000
  - {id: large, tags: [judge]}
  - {id: small, provider: mistral-eu}
  - {id: gpt, provider: openai}
  - {id: small, provider: mistral-us}
strategies:
  best: {kind: quality, models: [large, small-2603]}
  careful: {kind: judgment-based, threshold: 20}
  house: {kind: cost-optimized, tags: [workhorse]}
chains:
  default: [medium, large, small]
"""


def parse(text: str, known: dict[str, str] | None = KNOWN) -> Routing:
    return routing_yaml.parse(text, path="routing.yaml", known=known)


def test_a_whole_file():
    found = parse(WHOLE.replace("  - {id: small, provider: mistral-us}\n", ""))
    assert found == Routing(
        pool=(
            PoolModel("small", tier=2, tags=frozenset({"workhorse"}), latency_hint_ms=300),
            PoolModel("medium", enabled=False, capabilities=frozenset({"chat", "tools"}), context_tokens=32_000),
            PoolModel("large", tags=frozenset({"judge"})),
            PoolModel("mistral-eu/small"),
            PoolModel("openai/gpt"),
        ),
        strategies={
            # The pool's name of the same model.
            "best": Strategy("best", Kind.QUALITY, models=("large", "small")),
            "careful": Strategy("careful", Kind.JUDGMENT, threshold=20),
            "house": Strategy("house", Kind.COST, tags=frozenset({"workhorse"})),
        },
        chains={"default": ("medium", "large", "small")},
    )


def test_the_default_provider_is_a_bare_name():
    assert parse("pool: [{id: small, provider: mistral}]").pool == (PoolModel("small"),)


def test_names_are_not_looked_up_where_there_is_no_catalogue():
    assert parse("pool: [{id: whatever}]", known=None).pool == (PoolModel("whatever"),)


def test_a_section_with_nothing_in_it_is_as_good_as_none():
    assert parse("pool: [{id: small}]\nstrategies:\nchains: ~\n") == Routing(pool=(PoolModel("small"),))


POOL = "pool: [{id: small}, {id: medium}, {id: large}]\n"


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        # What is no YAML.
        ("", 1, 1, "It is empty; it needs at least `pool`, a list of models."),
        ("# nothing\n", 1, 1, "It is empty"),
        ("pool: [", 1, 8, "It is no YAML: expected the node content, but found '<stream end>'."),
        ("pool:\n\t- id: small", 2, 1, "It is no YAML: found character '\\t' that cannot start any token."),
        ("pool: []\n---\npool: []", 2, 1, "It is no YAML: but found another document."),
        ("pool: [*a]", 1, 8, "It is no YAML: found undefined alias 'a'."),
        ("pool:\n- id: \x01", 2, 7, "It is no YAML: special characters are not allowed."),
        ("[" * 5_000, 1, 1, "It is nested too deeply."),
        ("#" * 1_000_001, 1, 1, "It has more than 1000000 characters"),
        # Shapes.
        ("pool", 1, 1, "The file must be a mapping of names to values, not 'pool'."),
        ("chains: {}", 1, 1, "The file lacks `pool`."),
        ("pool: small", 1, 7, "`pool` must be a list, not 'small'."),
        ("pool: []", 1, 7, "`pool` has no model; list at least one, such as `- id: mistral-small-latest`."),
        ("pool: [small]", 1, 8, "A model of the pool must be a mapping of names to values, not 'small'."),
        (POOL + "pools: []", 2, 1, "The file has no 'pools'; did you mean pool?"),
        (POOL + "pool: []", 2, 1, "The file has `pool` twice; say it once."),
        (POOL + "3: []", 2, 1, "A key must be text, not '3'; put it in quotes."),
        (POOL + "strategies: [a]", 2, 13, "`strategies` must be a mapping of names to values, not a list."),
        # Models.
        ("pool: [{tier: 3}]", 1, 8, "A model of the pool lacks `id`."),
        ("pool:\n- id: smal", 2, 7, "The catalogue has no model 'smal'; did you mean small"),
        ("pool:\n- {id: zzz}", 2, 8, "The catalogue has no model 'zzz'; add it there first."),
        ("pool:\n- {id: gpt, provider: mistral-eu}", 2, 8, "The catalogue has no model 'mistral-eu/gpt'"),
        ("pool:\n- id: small\n- id: small", 3, 7, "'small' is in the pool already; list each model once."),
        ("pool:\n- id: small\n- id: small-2603", 3, 7, "(as 'small', which is the same)"),
        ("pool:\n- {id: small, ter: 3}", 2, 15, "A model of the pool has no 'ter'; did you mean tier?"),
        ("pool:\n- {id: 3}", 2, 8, "`id` must be text, not '3'; put it in quotes."),
        ("pool:\n- {id: }", 2, 7, "`id` must be text, not nothing."),
        ("pool:\n- {id: small, tier: 10}", 2, 21, "`tier` must be a whole number from 1 to 9, not '10'."),
        ("pool:\n- {id: small, tier: 010}", 2, 21, "`tier` must be a whole number from 1 to 9, not '010'."),
        ("pool:\n- {id: small, tier: high}", 2, 21, "`tier` must be a whole number from 1 to 9, not 'high'."),
        ("pool:\n- {id: small, tier: 1.5}", 2, 21, "`tier` must be a whole number from 1 to 9, not '1.5'."),
        ("pool:\n- {id: small, enabled: 1}", 2, 24, "`enabled` must be true or false, not '1'."),
        ("pool:\n- {id: small, tags: fast}", 2, 21, "`tags` must be a list, not 'fast'."),
        ("pool:\n- {id: small, tags: [A b]}", 2, 22, "A tag must be small letters, digits and hyphens, not 'A b'."),
        ("pool:\n- {id: small, capabilities: [sing]}", 2, 30, "`capabilities` must be one of chat, fim"),
        ("pool:\n- {id: small, latency_hint_ms: 0}", 2, 32, "`latency_hint_ms` must be a whole number from 1"),
        ("pool:\n- {id: small, <<: {tier: 3}}", 2, 15, "A key must be text"),
        # Strategies.
        (POOL + "strategies: {a: {}}", 2, 17, "The strategy 'a' lacks `kind`."),
        (POOL + "strategies: {a: {kind: cheap}}", 2, 24, "`kind` must be one of cost-optimized, quality, lat"),
        (POOL + "strategies: {A: {kind: quality}}", 2, 14, "'A' must be small letters, digits and hyphens, 63"),
        (POOL + "strategies:\n  a: {kind: quality}\n  a: {kind: quality}", 4, 3, "`strategies` has 'a' twice"),
        (POOL + "strategies: {a: {kind: quality, models: [gpt]}}", 2, 42, "The catalogue has no model 'gpt'"),
        (
            "pool: [{id: small}]\nstrategies: {a: {kind: quality, models: [large]}}",
            2,
            42,
            "'large' is not in the pool; add it there, or use small.",
        ),
        (POOL + "strategies: {a: {kind: quality, threshold: 3}}", 2, 44, "`threshold` is for judgment-based alone"),
        (POOL + "strategies: {a: {kind: judgment-based}}", 2, 17, "The strategy 'a' needs a model with the tag 'work"),
        (POOL + "strategies: {a: {kind: quality, tags: [x]}}", 2, 17, "The strategy 'a' takes no enabled model"),
        # Chains.
        (POOL + "chains: {a: [medium, small, medium]}", 2, 29, "`chains.a` has 'medium' twice, a cycle; list it once."),
        (POOL + "chains: {a: [small, medium, small-2603]}", 2, 29, "(as 'small', which is the same), a cycle"),
        (POOL + "chains: {a: [medium]}", 2, 13, "The chain 'a' leads nowhere; it needs two models or more."),
        (POOL + "chains: {a: [medium, smal]}", 2, 22, "The catalogue has no model 'smal'; did you mean small"),
        (
            POOL + "chains:\n  a: [medium, small]\n  b: [medium, large]",
            4,
            6,
            "The chain 'a' begins with 'medium' too; a model has one chain.",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text, line, column, reason):
    with pytest.raises(RoutingError) as caught:
        parse(text)
    assert (caught.value.line, caught.value.column) == (line, column), str(caught.value)
    assert reason in caught.value.reason
    assert str(caught.value).startswith(f"routing.yaml:{line}:{column}: ")


def test_the_products_own_file_fits_the_catalogue_that_it_ships():
    from llm.state.routing import SHIPPED

    known = {name: row.model for row in rows() for name in (row.model, *row.aliases)}
    found = parse(SHIPPED.read_text(), known=known)
    assert found.chains["default"] == (
        "mistral-medium-latest",
        "mistral-large-2512",
        "mistral-small-latest",
        "ministral-8b-latest",
        "ministral-3b-latest",
    )
    assert found.chains["code"] == ("codestral-latest", "mistral-small-latest")
    assert set(Kind) < set(found.strategy_names)


def place(text: str) -> tuple[int, int]:
    """Of the error; the first place where there is none."""
    try:
        parse(text)
    except RoutingError as error:
        return error.line, error.column
    return 1, 1


@given(st.text(alphabet=st.sampled_from("pool: [{id}]\n-,ab*&!|'\"#\t?<0")) | st.text(max_size=200))
def test_any_text_is_a_routing_or_an_error_with_a_place(text):
    line, column = place(text)
    assert line >= 1
    assert column >= 1


@given(st.integers(0, len(WHOLE)), st.integers(0, 40), st.text(max_size=10))
def test_a_file_that_is_damaged_anywhere_is_a_routing_or_an_error_with_a_place(at, length, put):
    damaged = WHOLE[:at] + put + WHOLE[at + length :]
    line, _ = place(damaged)
    assert 1 <= line <= len(damaged.splitlines()) + 2


def refused(text: str, known: dict[str, str] | None = KNOWN) -> str:
    with pytest.raises(RoutingError) as caught:
        parse(text, known)
    return f"{caught.value.line}:{caught.value.column} {caught.value.reason}"


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [("tier", 1, 9), ("latency_hint_ms", 1, 600_000), ("context_tokens", 1, 100_000_000)],
)
def test_numbers_have_a_least_and_a_most(field, least, most):
    for value in (least, most):
        [model] = parse(f"pool: [{{id: small, {field}: {value}}}]").pool
        assert getattr(model, field) == value
    for value in (least - 1, most + 1, "010", "1.0", "0x1", "'1'", "[1]", "~", "true"):
        assert f"from {least} to {most}" in refused(f"pool: [{{id: small, {field}: {value}}}]")


def test_a_threshold_is_of_a_hundred():
    pool = "pool: [{id: small, tags: [workhorse, judge]}]\nstrategies: {a: {kind: judgment-based, threshold: %s}}"
    for value in (0, 100):
        assert parse(pool % value).strategies["a"].threshold == value
    for value in (-1, 101):
        assert "from 0 to 100" in refused(pool % value)


def test_a_file_of_just_so_many_characters_is_read():
    text = "pool: [{id: small}]\n#"
    assert parse(text + "x" * (routing_yaml.MOST_CHARS - len(text))).pool == (PoolModel("small"),)
    assert "characters" in refused(text + "x" * (routing_yaml.MOST_CHARS - len(text) + 1))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (POOL + "strategies: {a: {kind: quality, models: small}}", "`models`"),
        (POOL + "strategies: {a: {kind: quality, models: [3]}}", "`models`"),
        (POOL + "strategies: {a: {kind: quality, models: [small, small]}}", "`models` has 'small' twice, a cycle"),
        (POOL + "strategies: {a: {kind: quality, models: [openai/gpt]}}", "not in the pool"),
        (POOL + "strategies: {a: {kind: quality, tags: [x]}}", "takes no enabled model"),
        (POOL + "strategies: {a: {kind: cost-optimized, threshold: 3}}", "`threshold` is for judgment-based"),
        (POOL + "chains: small", "`chains`"),
        (POOL + "chains: {a: small}", "`chains.a`"),
        (POOL + "chains: {a: [3, small]}", "`chains.a`"),
        (POOL + "chains: {a: [small]}", "leads nowhere"),
        (POOL + "chains: {a: [small, medium], b: [small-2603, large]}", "'a' begins with 'small' too"),
        (POOL + "chains: {a: [small, small-2603]}", "'small-2603' twice (as 'small', which is the same)"),
        (POOL + "chains: {a: [openai/gpt, openai/gpt]}", "'openai/gpt' twice, a cycle"),
        (POOL + "chains: {A: [small, medium]}", "'A' must be small letters"),
        (POOL + f"chains: {{{'a' * 64}: [small, medium]}}", "63 at most"),
        (POOL + "chains: {a: [small, medium], a: [large, medium]}", "`chains` has 'a' twice"),
        ("pool: [{id: small, tags: [A]}]", "A tag must be"),
        ("pool: [{id: small, tags: small}]", "`tags`"),
        ("pool: [{id: small, tags: [3]}]", "`tags`"),
        ("pool: [{id: small, enabled: 1}]", "`enabled` must be true or false"),
        ("pool: [{id: small, capabilities: [fly]}]", "`capabilities` must be one of chat"),
        ("pool: [{id: small, capabilities: [[chat]]}]", "`capabilities`"),
        ("pool: [{id: ''}]", "`id` must be text"),
        ("pool: [{id: small, provider: 3}]", "`provider` must be text, not '3'; put it in quotes."),
        ("pool: [{id: smallest}]", "did you mean small"),
    ],
)
def test_what_is_wrong_names_what_it_is_about(text, says):
    assert says in refused(text)


def test_a_chain_may_name_models_that_are_in_no_pool():
    found = parse("pool: [{id: small}]\nchains: {a: [openai/gpt, small-2603], b: [medium, large]}")
    assert found.chains == {"a": ("openai/gpt", "small"), "b": ("medium", "large")}


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("yes", True), ("on", True), ("false", False), ("no", False)]
)
def test_a_model_is_enabled_or_not(text, value):
    assert parse(f"pool: [{{id: small, enabled: {text}}}]").pool == (PoolModel("small", enabled=value),)


def test_the_longest_name_has_sixty_three_letters():
    name = "a" * 63
    assert list(parse(POOL + f"chains: {{{name}: [small, medium]}}").chains) == [name]
