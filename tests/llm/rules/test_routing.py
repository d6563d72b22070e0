"""Which models a call may be tried at, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules import bounds, routing
from llm.rules.estimates import Estimate
from llm.rules.pricing import Entry, Rates
from llm.rules.routing import Candidate, Kind, NoneFits, PoolModel, Routing, Strategy, UnknownStrategy

DEFAULT = ("medium", "large", "small", "tiny")
CODE = ("medium", "coder", "small")


def entry(
    id: str,
    *,
    price: int | None = 100,
    provider: str = "mistral",
    kinds: tuple[str, ...] = ("chat",),
    capabilities: str = "chat tools json vision",
    context: int | None = 128_000,
    alias: str = "",
) -> Entry:
    """`price` picodollars an input token, three times as much an output token; None: without a price."""
    return Entry(
        id=id,
        names=frozenset({id, alias} - {""}),
        provider=provider,
        kinds=frozenset(kinds),
        capabilities=frozenset(capabilities.split()),
        context_tokens=context,
        rates=None if price is None else Rates(input_picos=price, cached_picos=price, output_picos=3 * price),
    )


@dataclass
class Shop:
    """A catalogue."""

    by_name: dict[str, Entry]

    def resolve(self, name: str) -> Entry | None:
        return self.by_name.get(name)


def shop(*entries: Entry) -> Shop:
    return Shop({name: each for each in entries for name in each.names})


MODELS = (
    entry("medium", price=1500, capabilities="chat tools json vision reasoning", alias="medium-latest"),
    entry("large", price=500),
    entry("small", price=150, capabilities="chat tools json vision reasoning"),
    entry("tiny", price=100, capabilities="chat", context=8_000),
    entry("coder", price=300, kinds=("chat", "fim"), capabilities="chat fim tools json"),
    entry("embedder", kinds=("embedding",), capabilities="embedding"),
)
CATALOGUE = shop(*MODELS)
POOL = (
    PoolModel("tiny", tier=1, tags=frozenset({"workhorse"}), latency_hint_ms=100),
    PoolModel("small", tier=3, tags=frozenset({"workhorse"}), latency_hint_ms=200),
    PoolModel("coder", tier=4, tags=frozenset({"code"}), latency_hint_ms=300),
    PoolModel("large", tier=7, tags=frozenset({"judge"}), latency_hint_ms=600),
    PoolModel("medium", tier=8, tags=frozenset({"judge"}), latency_hint_ms=500),
)
ROUTING = Routing(pool=POOL, chains={"default": DEFAULT, "code": CODE})


def chat(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 100, **fields}


def candidates(
    model: str = "medium",
    strategy: str = "",
    *,
    payload: Mapping[str, Any] | None = None,
    of: Routing = ROUTING,
    catalogue: Shop = CATALOGUE,
    estimate: Estimate | None = None,
    **options: Any,
) -> tuple[str, ...]:
    payload = payload or chat()
    found = routing.candidates(
        routing.Options(of, catalogue),
        asked=Candidate(model, catalogue.resolve(model)),
        strategy=strategy,
        estimate=estimate or bounds.chat(payload),
        payload=payload,
        **options,
    )
    return tuple(each.name for each in found)


def with_strategy(strategy: Strategy) -> Routing:
    return replace(ROUTING, strategies={strategy.name: strategy})


TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
PICTURE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}]}]


class TestWithoutAStrategy:
    def test_the_model_asked_for_comes_first_and_then_its_chain(self):
        assert candidates("medium") == DEFAULT
        assert candidates("small") == ("small", "tiny")
        assert candidates("tiny") == ("tiny",)

    def test_a_chain_that_begins_with_the_model_counts_before_one_that_only_has_it(self):
        of = replace(ROUTING, chains={"default": DEFAULT, "up": ("tiny", "small")})
        assert candidates("tiny", of=of) == ("tiny", "small")

    def test_a_model_of_one_chain_goes_on_along_that_one(self):
        assert candidates("coder") == ("coder", "small")

    def test_a_model_of_no_chain_stands_alone(self):
        assert candidates("embedder") == ("embedder",)

    def test_an_alias_is_the_model_it_stands_for(self):
        assert candidates("medium-latest") == ("medium-latest", "large", "small", "tiny")

    def test_what_cannot_do_the_job_is_left_out(self):
        assert candidates("medium", payload=chat(tools=TOOLS)) == ("medium", "large", "small")
        assert candidates("medium", payload=chat("x" * 9_000)) == ("medium", "large", "small")
        assert candidates("medium", payload=chat(reasoning_effort="high")) == ("medium", "small")

    def test_what_has_no_price_is_left_out(self):
        catalogue = shop(*MODELS[:2], entry("small", price=None), MODELS[3])
        assert candidates("medium", catalogue=catalogue) == ("medium", "large", "tiny")

    def test_what_the_catalogue_does_not_have_is_left_out(self):
        assert candidates("medium", catalogue=shop(MODELS[0], MODELS[3])) == ("medium", "tiny")

    def test_what_the_pool_has_switched_off_stands_in_for_nothing_and_may_be_asked_for(self):
        of = replace(ROUTING, pool=(*POOL[1:], replace(POOL[0], enabled=False)))
        assert candidates("small", of=of) == ("small",)
        assert candidates("tiny", of=of) == ("tiny",)

    def test_an_unknown_or_unpriced_model_is_passed_on_for_the_decision_to_refuse(self):
        assert candidates("gpt-9") == ("gpt-9",)
        assert candidates("small", catalogue=shop(entry("small", price=None)))[0] == "small"

    def test_a_caller_who_wants_no_other_model_gets_none(self):
        assert candidates("medium", allow_downgrade=False) == ("medium",)

    def test_only_chats_are_moved_to_another_model(self):
        fim = bounds.fim({"prompt": "def a(", "max_tokens": 10})
        assert candidates("coder", estimate=fim) == ("coder",)
        assert candidates("embedder", estimate=bounds.embeddings({"input": "a"})) == ("embedder",)

    def test_not_even_along_a_chain_of_models_that_could(self):
        catalogue = shop(*MODELS, entry("coder-2", kinds=("fim",), capabilities="fim"))
        of = replace(ROUTING, chains={"code": ("coder", "coder-2")})
        fim = bounds.fim({"prompt": "def a(", "max_tokens": 10})
        assert candidates("coder", estimate=fim, catalogue=catalogue, of=of) == ("coder",)


class TestSeveralProviders:
    EU = tuple(
        replace(each, id=f"mistral-eu/{each.id}", provider="mistral-eu", names=frozenset({f"mistral-eu/{each.id}"}))
        for each in MODELS[:3]
    )
    CATALOGUE = shop(*MODELS, *EU)
    POOL = (*POOL, PoolModel("mistral-eu/medium"), PoolModel("mistral-eu/large"))

    def ask(self, model: str, **options: Any) -> tuple[str, ...]:
        of = options.pop("of", replace(ROUTING, pool=self.POOL))
        return candidates(model, catalogue=self.CATALOGUE, of=of, **options)

    def test_a_bare_name_may_be_served_elsewhere_where_the_pool_says_so(self):
        assert self.ask("medium") == ("medium", "mistral-eu/medium", "large", "small", "tiny")
        assert self.ask("small") == ("small", "tiny")

    def test_that_is_the_same_model_so_a_caller_who_wants_no_other_gets_it(self):
        assert self.ask("medium", allow_downgrade=False) == ("medium", "mistral-eu/medium")

    def test_what_has_no_chain_may_be_served_elsewhere_too(self):
        fim = bounds.fim({"prompt": "a", "max_tokens": 10})
        catalogue = shop(*MODELS, entry("openrouter/coder", provider="openrouter", kinds=("fim",), capabilities="fim"))
        of = replace(ROUTING, pool=(*POOL, PoolModel("openrouter/coder")))
        assert candidates("coder", estimate=fim, catalogue=catalogue, of=of) == ("coder", "openrouter/coder")

    def test_a_call_that_names_a_provider_stays_there(self):
        assert self.ask("mistral-eu/medium") == ("mistral-eu/medium", "mistral-eu/large", "mistral-eu/small")

    def test_unless_a_chain_of_the_file_leads_away(self):
        of = replace(ROUTING, pool=self.POOL, chains={"home": ("mistral-eu/medium", "mistral-eu/large", "medium")})
        assert self.ask("mistral-eu/medium", of=of) == ("mistral-eu/medium", "mistral-eu/large", "medium")


class TestStrategies:
    def test_cost_goes_from_the_cheapest_to_the_dearest(self):
        assert candidates(strategy="cost-optimized") == ("tiny", "small", "coder", "large", "medium")

    def test_cost_is_that_of_this_very_call(self):
        """A model that reads cheaply and writes dearly is cheap for long inputs alone."""
        reader = replace(MODELS[2], rates=Rates(input_picos=1, cached_picos=1, output_picos=100_000))
        catalogue = shop(MODELS[1], reader)
        long = chat("x" * 50_000, max_tokens=10)
        assert candidates(strategy="cost-optimized", catalogue=catalogue, payload=long) == ("small", "large")
        short = chat("x", max_tokens=1_000)
        assert candidates(strategy="cost-optimized", catalogue=catalogue, payload=short) == ("large", "small")

    def test_cost_takes_none_that_cannot_do_the_job(self):
        payload = {"messages": PICTURE, "max_tokens": 10}
        assert candidates(strategy="cost-optimized", payload=payload) == ("small", "large", "medium")

    def test_quality_is_pinned(self):
        of = with_strategy(Strategy("best", Kind.QUALITY, models=("large", "medium", "tiny")))
        assert candidates(strategy="best", of=of) == ("large", "medium", "tiny")
        assert candidates(strategy="best", of=of, payload=chat(tools=TOOLS)) == ("large", "medium")

    def test_quality_without_a_list_takes_the_highest_tier(self):
        assert candidates(strategy="quality") == ("medium", "large", "coder", "small", "tiny")

    def test_latency_goes_by_what_was_observed_and_by_the_hint_until_then(self):
        assert candidates(strategy="latency-optimized") == ("tiny", "small", "coder", "medium", "large")
        observed = {"mistral/tiny": 900.0, "mistral/medium": 50.0}.get
        found = candidates(strategy="latency-optimized", observed=observed)
        assert found == ("medium", "small", "coder", "large", "tiny")

    def test_capability_takes_the_lowest_tier_that_has_what_is_needed(self):
        assert candidates(strategy="capability-based")[0] == "tiny"
        assert candidates(strategy="capability-based", payload=chat(tools=TOOLS))[0] == "small"
        of = replace(
            ROUTING, pool=tuple(replace(each, capabilities=frozenset({"chat"})) for each in POOL[:2]) + POOL[2:]
        )
        assert candidates(strategy="capability-based", payload=chat(tools=TOOLS), of=of)[0] == "coder"

    def test_judgment_sends_simple_calls_to_workhorses_and_complex_ones_to_judges(self):
        assert candidates(strategy="judgment-based") == ("tiny", "small", "medium", "large")
        hard = chat("Compare both designs step by step and prove which one is optimal.", tools=TOOLS)
        assert candidates(strategy="judgment-based", payload=hard) == ("medium", "large", "small")

    def test_the_threshold_is_the_strategys(self):
        of = with_strategy(Strategy("careful", Kind.JUDGMENT, threshold=0))
        assert candidates(strategy="careful", of=of)[0] == "medium"

    def test_tags_narrow_the_pool(self):
        of = with_strategy(Strategy("cheap-judge", Kind.COST, tags=frozenset({"judge"})))
        assert candidates(strategy="cheap-judge", of=of) == ("large", "medium")

    def test_the_file_may_make_another_strategy_of_a_kinds_name(self):
        of = with_strategy(Strategy("cost-optimized", Kind.COST, models=("medium", "large")))
        assert candidates(strategy="cost-optimized", of=of) == ("large", "medium")

    def test_the_model_that_is_asked_for_may_be_any_word(self):
        assert candidates("auto", strategy="cost-optimized")[0] == "tiny"

    def test_where_nothing_will_do_the_model_that_was_asked_for_remains(self):
        assert candidates("medium", strategy="cost-optimized", of=Routing()) == ("medium",)

    @pytest.mark.parametrize(
        ("estimate", "param", "says"),
        [
            (
                Estimate("chat", 200_000, max_tokens=10),
                "messages",
                "reads as much: the call may have 200,000 tokens, and small takes 128,000",
            ),
            (
                Estimate("chat", 28_000, max_tokens=9_000_000),
                "max_tokens",
                "has room for so long an answer: max_tokens up to 100,000 would do",
            ),
            (
                Estimate("chat", 10, max_tokens=10, needs=frozenset({"audio", "tools"})),
                "model",
                "can do all that this call needs (audio): name one that can",
            ),
        ],
    )
    def test_where_nothing_will_do_for_any_word_it_is_said_what_would(self, estimate, param, says):
        with pytest.raises(NoneFits, match=r"^No model of the strategy cost-optimized ") as refused:
            candidates("auto", strategy="cost-optimized", estimate=estimate)
        assert (refused.value.param, says in str(refused.value)) == (param, True)

    def test_a_pool_without_a_price_says_so(self):
        with pytest.raises(NoneFits, match="none has a price") as refused:
            candidates("auto", strategy="quality", of=replace(ROUTING, pool=()))
        assert refused.value.param == "x-strategy"

    def test_a_caller_who_wants_no_downgrade_gets_the_strategys_first_choice_wherever_it_is_served(self):
        assert candidates(strategy="quality", allow_downgrade=False) == ("medium",)
        eu = replace(MODELS[0], id="mistral-eu/medium", provider="mistral-eu", names=frozenset({"mistral-eu/medium"}))
        of = replace(ROUTING, pool=(*POOL, PoolModel("mistral-eu/medium", tier=8)))
        found = candidates(strategy="quality", allow_downgrade=False, of=of, catalogue=shop(*MODELS, eu))
        assert found == ("medium", "mistral-eu/medium")

    def test_a_strategy_does_not_move_what_is_no_chat(self):
        embeddings = bounds.embeddings({"input": "a"})
        catalogue = shop(*MODELS, entry("cheap-embedder", price=1, kinds=("embedding",), capabilities="embedding"))
        of = replace(ROUTING, pool=(*POOL, PoolModel("embedder"), PoolModel("cheap-embedder")))
        found = candidates("embedder", "cost-optimized", estimate=embeddings, of=of, catalogue=catalogue)
        assert found == ("embedder",)

    @pytest.mark.parametrize("kind", ["chat", "embedding"])
    def test_an_unknown_strategy_is_refused_with_those_that_there_are(self, kind):
        estimate = Estimate(kind=kind, text_tokens=1)
        of = with_strategy(Strategy("house", Kind.COST))
        with pytest.raises(UnknownStrategy) as caught:
            candidates(strategy="cheapest", estimate=estimate, of=of)
        assert caught.value.known == (
            "capability-based",
            "cost-optimized",
            "house",
            "judgment-based",
            "latency-optimized",
            "quality",
        )
        assert "house" in str(caught.value)


class TestNames:
    def test_a_place_is_the_provider_and_the_models_own_id(self):
        at_mistral = Candidate("medium-latest", MODELS[0])
        elsewhere = Candidate("openrouter/coder", entry("openrouter/coder", provider="openrouter"))
        assert at_mistral.places == ("mistral/medium", "mistral")
        assert elsewhere.places == ("openrouter/coder", "openrouter")
        assert Candidate("gpt-9", None).places == ("gpt-9",)

    def test_mistral_is_asked_by_the_alias_others_by_their_own_name(self):
        assert Candidate("medium-latest", MODELS[0]).upstream_id == "medium-latest"
        eu = entry("mistral-eu/medium", provider="mistral-eu")
        assert Candidate("mistral-eu/medium", eu).upstream_id == "medium"
        other = entry("openai/gpt-9", provider="openai", alias="cheap")
        assert Candidate("cheap", replace(other, upstream="gpt-9")).upstream_id == "gpt-9"

    def test_an_unknown_model_goes_by_the_name_it_was_asked_for(self):
        unknown = Candidate("gpt-9", None)
        assert (unknown.upstream_id, unknown.place, unknown.provider) == ("gpt-9", "gpt-9", "mistral")


class TestNarrowed:
    def test_the_pool_takes_abilities_away_and_gives_none(self):
        narrowed = PoolModel("tiny", capabilities=frozenset({"chat", "vision"})).narrowed(MODELS[3])
        assert narrowed == replace(MODELS[3], capabilities=frozenset({"chat"}))

    @pytest.mark.parametrize(("catalogue", "pool", "context"), [(8_000, 4_000, 4_000), (8_000, 9_000, 8_000)])
    def test_the_shorter_context_counts(self, catalogue, pool, context):
        model = entry("m", context=catalogue)
        assert PoolModel("m", context_tokens=pool).narrowed(model) == replace(model, context_tokens=context)

    def test_the_pools_context_counts_where_the_catalogue_has_none(self):
        assert PoolModel("m", context_tokens=4_000).narrowed(entry("m", context=None)).context_tokens == 4_000

    def test_a_call_too_long_for_the_narrowed_context_is_not_sent_there(self):
        of = replace(ROUTING, pool=(*POOL[:1], replace(POOL[1], context_tokens=5_000), *POOL[2:]))
        assert candidates("medium", payload=chat("x" * 6_000), of=of) == ("medium", "large", "tiny")


class TestComplexity:
    def score(self, text: str = "Hi", **fields: Any) -> int:
        payload = chat(text, **fields)
        return routing.complexity(payload, bounds.chat(payload))

    def test_small_talk_is_simple(self):
        assert self.score() == 0
        assert self.score("What is the capital of France?") == 0

    def test_each_sign_adds(self):
        assert self.score("x" * 2_000) > self.score("x" * 500) > 0
        assert self.score(tools=TOOLS) == 10
        assert self.score("```python\nprint(1)\n```") == 15
        assert self.score("Compare A and B.") == 10
        assert self.score(response_format={"type": "json_object"}) > 0
        assert self.score(reasoning_effort="high") >= routing.THRESHOLD

    def test_a_thoughtful_task_is_worth_a_judge(self):
        assert self.score("Analyse this trace step by step and debug it:\n```\nTraceback\n```") >= routing.THRESHOLD

    def test_only_the_users_last_message_is_read_for_words(self):
        payload = chat()
        payload["messages"] = [{"role": "system", "content": "Compare, analyse and prove."}, *payload["messages"]]
        assert routing.complexity(payload, bounds.chat(payload)) == 0
        payload["messages"].append({"role": "assistant", "content": "Compare, analyse and prove."})
        # Of the third message, for its turn.
        assert routing.complexity(payload, bounds.chat(payload)) == 1

    def test_words_are_found_in_parts_too(self):
        parts = [{"type": "text", "text": "Compare A"}, *PICTURE[0]["content"], {"type": "text", "text": "and prove"}]
        payload = {"messages": [{"role": "user", "content": parts}]}
        assert routing.complexity(payload, bounds.chat(payload)) == 10 + 10 + 10

    def test_where_no_user_has_written_there_are_no_words_to_go_by(self):
        payload = {"messages": [{"role": "system", "content": "Compare, analyse and prove."}]}
        assert routing.complexity(payload, bounds.chat(payload)) == 0

    @given(
        st.recursive(
            st.none() | st.integers() | st.text(max_size=20),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "role"]), inner)
            ),
            max_leaves=8,
        )
    )
    def test_content_of_any_shape_has_a_score(self, content):
        payload = {"messages": [{"role": "user", "content": content}]}
        assert 0 <= routing.complexity(payload, Estimate(kind="chat", text_tokens=10**6)) <= 100


@given(
    st.sampled_from(["", *Kind]),
    st.sampled_from([each.id for each in MODELS] + ["auto"]),
    st.booleans(),
    st.sets(st.sampled_from(["tools", "vision", "reasoning", "json"])),
    st.integers(0, 200_000),
)
def test_all_but_the_model_asked_for_can_do_the_job_and_have_a_price(strategy, model, allow, needs, tokens):
    catalogue = shop(*MODELS, entry("free", price=None))
    of = replace(ROUTING, pool=(*POOL, PoolModel("free")), chains={"default": (*DEFAULT, "free")})
    estimate = Estimate(kind="chat", text_tokens=tokens, max_tokens=10, needs=frozenset(needs))
    try:
        found = candidates(model, strategy, of=of, catalogue=catalogue, estimate=estimate, allow_downgrade=allow)
    except NoneFits:
        assert (bool(strategy), model) == (True, "auto")
        return
    assert found
    assert len(set(found)) == len(found)
    for name in found:
        if name != model:
            able = catalogue.resolve(name)
            assert able
            assert able.rates
            assert not estimate.lacks(able)
    if not strategy:
        assert found[0] == model


def asked(*messages: Any, tokens: int = 0, images: int = 0, needs: str = "", **fields: Any) -> int:
    estimate = Estimate("chat", tokens, images=images, needs=frozenset(needs.split()))
    return routing.complexity({"messages": list(messages), **fields}, estimate)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("tokens", "score"), [(0, 0), (499, 0), (500, 5), (999, 5), (1_000, 10), (2_000, 15), (8_000, 25), (10**9, 25)]
)
def test_each_doubling_of_the_length_counts_five_up_to_twenty_five(tokens: int, score: int) -> None:
    assert asked(user("a"), tokens=tokens) == score


@pytest.mark.parametrize(("turns", "score"), [(0, 0), (2, 0), (3, 1), (12, 10), (50, 10)])
def test_each_turn_after_the_second_counts_one_up_to_ten(turns: int, score: int) -> None:
    assert asked(*[user("a")] * turns) == score


@pytest.mark.parametrize(("tools", "score"), [(0, 0), (1, 10), (2, 12), (6, 20), (9, 20)])
def test_tools_count_up_to_twenty(tools: int, score: int) -> None:
    assert asked(user("a"), tools=[{}] * tools) == score


def test_what_is_asked_for_counts() -> None:
    assert asked(user("a"), needs="reasoning") == 40
    assert asked(user("a"), needs="json") == 5
    assert asked(user("a"), needs="json", response_format={"type": "json_object"}) == 5
    assert asked(user("a"), needs="json", response_format={"type": "json_schema"}) == 15
    assert asked(user("a"), response_format={"type": "json_schema"}) == 0
    assert [asked(user("a"), images=images) for images in (1, 5)] == [10, 10]


@pytest.mark.parametrize("sign", ["```", "def f", "class A", "function f", "SELECT *", "#include <x>", "Traceback"])
def test_code_counts_fifteen_however_much_there_is(sign: str) -> None:
    assert asked(user(f"see {sign} here")) == asked(user(f"{sign} ``` def class ")) == 15


@pytest.mark.parametrize(
    "word",
    """analyse|Compare|contrast|prove|derive|explain why|step by step|trade-off|tradeoff|architecture|design a|debug
    |refactor|optimise|evaluate|critique|a plan of|strategy|reason""".split("|"),  # noqa: SIM905
)
def test_words_that_ask_for_thought_count_ten_each_up_to_thirty(word: str) -> None:
    assert asked(user(f"please {word.strip()} it")) == 10


def test_no_more_than_three_words_count_and_nothing_more_than_a_hundred() -> None:
    assert asked(user("compare and contrast")) == 20
    assert asked(user("compare, contrast, prove, derive, debug")) == 30
    everything = asked(
        *[user("a")] * 20,
        user("``` compare, contrast, prove"),
        tokens=10**6,
        images=1,
        needs="reasoning json",
        tools=[{}] * 9,
    )
    assert everything == 100


def test_words_are_looked_for_in_the_beginning_of_what_the_user_wrote_last() -> None:
    assert asked(user("x" * 3_995 + "prove")) == 10
    assert asked(user("x" * 3_996 + "prove")) == 0
    assert asked(user("prove"), user("a")) == 0
    assert asked(user("prove"), {"role": "assistant", "content": "compare"}) == 10
    assert asked({"role": "system", "content": "prove"}) == asked("prove") == 0
    parts = [{"type": "text", "text": "pro"}, "odd", {"image_url": "prove"}, {"text": "compare"}]
    assert asked(user(parts)) == asked(user([{"text": "step by"}, {"text": "step"}])) == 10
    assert asked(user(None)) == 0
    assert routing.complexity({}, Estimate("chat", 0)) == 0
