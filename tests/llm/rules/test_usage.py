"""Usage as endpoints spell it: what they say is read whole, and what cannot be read is no usage at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from governance.rules.calls import Usage
from llm.rules import pricing, usage
from llm.rules.pricing import Rates

RATES = Rates(input_picos=1_000_000, cached_picos=100_000, output_picos=4_000_000)


def tokens(answer: Any, **options: Any) -> tuple[int, int, int] | None:
    """(input, cached, output)"""
    read = usage.read_tokens(answer, **options)
    if read is None:
        return None
    assert (read.unit, read.units, read.provider) == ("token", read.input_tokens + read.output_tokens, "mistral")
    return read.input_tokens, read.cached_tokens, read.output_tokens


def cost(read: Usage | None) -> int:
    assert read is not None
    picos = pricing.cost_picos(read, RATES)
    assert picos is not None
    return picos


# Answers as these APIs document them, or as recordings of them have it; texts are left out.
ANSWERS: dict[str, tuple[dict[str, Any], tuple[int, int, int]]] = {
    # https://docs.mistral.ai/api/endpoint/chat
    "mistral": (
        {
            "model": "mistral-small-latest",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "…"}}],
            "usage": {"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50},
        },
        (16, 0, 34),
    ),
    # https://docs.mistral.ai/capabilities/completion/prompt_caching
    "mistral, cached": (
        {
            "usage": {
                "prompt_tokens": 1_024,
                "completion_tokens": 8,
                "total_tokens": 1_032,
                "num_cached_tokens": 768,
                "prompt_tokens_details": {"cached_tokens": 768},
            }
        },
        (1_024, 768, 8),
    ),
    # https://platform.openai.com/docs/guides/prompt-caching; reasoning is part of what was completed.
    "openai": (
        {
            "model": "gpt-5-2025-08-07",
            "usage": {
                "prompt_tokens": 1_486,
                "completion_tokens": 651,
                "total_tokens": 2_137,
                "prompt_tokens_details": {"cached_tokens": 1_408, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": 512,
                    "audio_tokens": 0,
                    "accepted_prediction_tokens": 0,
                    "rejected_prediction_tokens": 0,
                },
            },
        },
        (1_486, 1_408, 651),
    ),
    # https://platform.openai.com/docs/api-reference/chat-streaming: the last chunk of a stream with `include_usage`.
    "openai, stream": (
        {"choices": [], "usage": {"prompt_tokens": 19, "completion_tokens": 10, "total_tokens": 29}},
        (19, 0, 10),
    ),
    # https://platform.openai.com/docs/api-reference/responses/object, and its event response.completed
    "openai, responses": (
        {
            "type": "response.completed",
            "response": {
                "model": "gpt-5.1",
                "usage": {
                    "input_tokens": 328,
                    "input_tokens_details": {"cached_tokens": 256},
                    "output_tokens": 52,
                    "output_tokens_details": {"reasoning_tokens": 40},
                    "total_tokens": 380,
                },
            },
        },
        (328, 256, 52),
    ),
    # https://learn.microsoft.com/azure/ai-foundry/openai/reference: as OpenAI's, with what its filters found.
    "azure": (
        {
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}],
            "choices": [{"content_filter_results": {}, "finish_reason": "stop", "index": 0}],
            "usage": {
                "completion_tokens": 57,
                "completion_tokens_details": {"reasoning_tokens": 0},
                "prompt_tokens": 40,
                "prompt_tokens_details": {"audio_tokens": 0, "cached_tokens": 0},
                "total_tokens": 97,
            },
        },
        (40, 0, 57),
    ),
    # https://api-docs.deepseek.com/guides/kv_cache
    "deepseek": (
        {
            "model": "deepseek-chat",
            "usage": {
                "prompt_tokens": 10_000,
                "completion_tokens": 500,
                "total_tokens": 10_500,
                "prompt_cache_hit_tokens": 9_000,
                "prompt_cache_miss_tokens": 1_000,
                "completion_tokens_details": {"reasoning_tokens": 300},
            },
        },
        (10_000, 9_000, 500),
    ),
    # https://platform.moonshot.ai/docs/api/chat: a stream's usage is in the choice that ends.
    "moonshot, stream": (
        {
            "model": "kimi-k2-0905-preview",
            "choices": [
                {
                    "index": 0,
                    "delta": {},
                    "finish_reason": "stop",
                    "usage": {
                        "prompt_tokens": 24,
                        "completion_tokens": 19,
                        "total_tokens": 43,
                        "cached_tokens": 16,
                    },
                }
            ],
        },
        (24, 16, 19),
    ),
    # https://docs.bigmodel.cn/api-reference
    "glm": (
        {
            "model": "glm-4.5",
            "usage": {
                "prompt_tokens": 23,
                "completion_tokens": 168,
                "total_tokens": 191,
                "prompt_tokens_details": {"cached_tokens": 4},
            },
        },
        (23, 4, 168),
    ),
    # https://console.groq.com/docs/api-reference: the last chunk of a stream.
    "groq, stream": (
        {
            "model": "llama-3.3-70b-versatile",
            "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}],
            "x_groq": {
                "id": "req_01",
                "usage": {
                    "queue_time": 0.0903,
                    "prompt_tokens": 38,
                    "prompt_time": 0.0032,
                    "completion_tokens": 4,
                    "completion_time": 0.0275,
                    "total_tokens": 42,
                    "total_time": 0.0307,
                },
            },
        },
        (38, 0, 4),
    ),
    # https://docs.together.ai/reference/chat-completions
    "together": (
        {
            "model": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "prompt": [],
            "usage": {
                "completion_tokens": 34,
                "prompt_tokens": 49,
                "total_tokens": 83,
                "completion_tokens_details": None,
                "prompt_tokens_details": None,
                "cached_tokens": 0,
            },
        },
        (49, 0, 34),
    ),
    # https://openrouter.ai/docs/use-cases/usage-accounting
    "openrouter": (
        {
            "usage": {
                "completion_tokens": 2,
                "completion_tokens_details": {"reasoning_tokens": 0},
                "cost": 0.95,
                "cost_details": {"upstream_inference_cost": 19},
                "prompt_tokens": 194,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "total_tokens": 196,
            }
        },
        (194, 0, 2),
    ),
    # The same, of a model whose provider writes a cache: writing costs a quarter more than reading.
    "openrouter, written into a cache": (
        {
            "usage": {
                "completion_tokens": 2,
                "prompt_tokens": 1_000,
                "prompt_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 800},
                "total_tokens": 1_002,
            }
        },
        (1_200, 100, 2),
    ),
    # https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html
    "vllm": (
        {
            "usage": {"prompt_tokens": 9, "total_tokens": 26, "completion_tokens": 17, "prompt_tokens_details": None},
            "prompt_logprobs": None,
            "kv_transfer_params": None,
        },
        (9, 0, 17),
    ),
    # https://github.com/ollama/ollama/blob/main/docs/openai.md
    "ollama": ({"usage": {"prompt_tokens": 26, "completion_tokens": 298, "total_tokens": 324}}, (26, 0, 298)),
    # https://github.com/ollama/ollama/blob/main/docs/api.md
    "ollama, its own": (
        {
            "model": "llama3.2",
            "done_reason": "stop",
            "done": True,
            "total_duration": 4_883_583_458,
            "prompt_eval_count": 26,
            "prompt_eval_duration": 342_546_000,
            "eval_count": 298,
            "eval_duration": 4_535_599_000,
        },
        (26, 0, 298),
    ),
    # https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
    "llama.cpp": (
        {
            "model": "gpt-oss:20b",
            "choices": [{"finish_reason": "stop", "index": 0, "delta": {}}],
            "usage": {"completion_tokens": 247, "prompt_tokens": 1_085, "total_tokens": 1_332},
            "timings": {
                "cache_n": 1_000,
                "prompt_n": 85,
                "prompt_ms": 20.378,
                "prompt_per_token_ms": 0.187,
                "predicted_n": 247,
                "predicted_ms": 933.63,
            },
        },
        (1_085, 0, 247),
    ),
    "llama.cpp, timings alone": ({"timings": {"cache_n": 236, "prompt_n": 1, "predicted_n": 35}}, (237, 236, 35)),
    # https://docs.x.ai/docs/guides/reasoning: hidden reasoning is in the total alone.
    "xai": (
        {
            "model": "grok-4",
            "usage": {
                "prompt_tokens": 26,
                "completion_tokens": 168,
                "total_tokens": 498,
                "prompt_tokens_details": {"text_tokens": 26, "audio_tokens": 0, "image_tokens": 0, "cached_tokens": 4},
                "completion_tokens_details": {"reasoning_tokens": 304, "audio_tokens": 0},
                "num_sources_used": 0,
            },
        },
        (26, 4, 472),
    ),
    # https://ai.google.dev/gemini-api/docs/openai, as its users record it: thoughts are in the total alone.
    "gemini": (
        {
            "model": "gemini-2.5-pro",
            "usage": {"completion_tokens": 102, "prompt_tokens": 758, "total_tokens": 1_725},
        },
        (758, 0, 967),
    ),
    # https://ai.google.dev/api/generate-content#UsageMetadata
    "gemini, its own": (
        {
            "modelVersion": "gemini-3-flash-preview",
            "usageMetadata": {
                "promptTokenCount": 34,
                "candidatesTokenCount": 418,
                "totalTokenCount": 890,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 34}],
                "thoughtsTokenCount": 438,
            },
        },
        (34, 0, 856),
    ),
    "gemini, cached, with a tool, and thoughts alone": (
        {
            "usageMetadata": {
                "promptTokenCount": 5_000,
                "cachedContentTokenCount": 4_200,
                "toolUsePromptTokenCount": 70,
                "thoughtsTokenCount": 30,
                "totalTokenCount": 5_100,
            }
        },
        (5_070, 4_200, 30),
    ),
    # https://platform.claude.com/docs/en/api/messages: what a cache had a part in is no part of `input_tokens`.
    "anthropic": (
        {
            "type": "message",
            "model": "claude-sonnet-4-5",
            "usage": {
                "input_tokens": 50,
                "cache_read_input_tokens": 100_000,
                "cache_creation_input_tokens": 248,
                "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
                "output_tokens": 503,
            },
        },
        (50 + 100_000 + 185 + 200, 100_000, 503),
    ),
    "anthropic, the start of a stream": (
        {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
        (25, 0, 1),
    ),
    # A proxy of Anthropic's in OpenAI's shape (https://docs.litellm.ai/docs/completion/prompt_caching).
    "litellm": (
        {
            "usage": {
                "prompt_tokens": 2_006,
                "completion_tokens": 300,
                "total_tokens": 2_306,
                "prompt_tokens_details": {"cached_tokens": 1_920},
                "cache_read_input_tokens": 1_920,
                "cache_creation_input_tokens": 40,
            }
        },
        (2_016, 1_920, 300),
    ),
    "a proxy that counts the cached beside the prompt": (
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 1_015, "cached_tokens": 1_000}},
        (1_010, 1_000, 5),
    ),
}


@pytest.mark.parametrize("endpoint", ANSWERS)
def test_usage_is_read_as_each_endpoint_spells_it(endpoint: str) -> None:
    answer, expected = ANSWERS[endpoint]

    assert tokens(answer) == expected


@pytest.mark.parametrize("endpoint", ANSWERS)
@pytest.mark.parametrize("number", [float, str])
def test_whole_floats_and_digits_are_numbers(endpoint: str, number: Any) -> None:
    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: spelled(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [spelled(inner) for inner in value]
        return number(value) if type(value) is int else value

    answer, expected = ANSWERS[endpoint]
    assert tokens(spelled(answer)) == expected


@pytest.mark.parametrize(
    ("answer", "model"),
    [
        ({"model": "served", "usage": {}}, "served"),
        ({"model": "", "usage": {}}, "asked"),
        ({"model": 7, "usage": {}}, "asked"),
        ({"response": {"model": "served"}}, "served"),
        ({"message": {"model": "served"}}, "served"),
        ({"modelVersion": "served"}, "served"),
        ({}, "asked"),
    ],
)
def test_the_model_is_the_one_that_answered_or_the_one_asked(answer: dict[str, Any], model: str) -> None:
    counted = {"prompt_tokens": 1, "completion_tokens": 1}
    read = usage.read_tokens({**answer, "usage": counted}, model="asked")

    assert read is not None
    assert read.model == model


# Other spellings of what `ANSWERS` has in one.
SPELLINGS = {
    "candidatesTokenCount": "candidates_token_count",
    "promptTokenCount": "prompt_token_count",
    "totalTokenCount": "total_token_count",
    "cachedContentTokenCount": "cached_content_token_count",
    "toolUsePromptTokenCount": "tool_use_prompt_token_count",
    "thoughtsTokenCount": "thoughts_token_count",
    "usageMetadata": "usage_metadata",
}


@pytest.mark.parametrize("endpoint", ["gemini, its own", "gemini, cached, with a tool, and thoughts alone"])
def test_clients_spell_geminis_counts_with_underscores(endpoint: str) -> None:
    answer, expected = ANSWERS[endpoint]
    [(block, counts)] = [(name, value) for name, value in answer.items() if name in SPELLINGS]
    assert tokens({SPELLINGS[block]: {SPELLINGS.get(name, name): value for name, value in counts.items()}}) == expected


def test_geminis_answer_counts_where_there_is_no_total() -> None:
    counted = {"promptTokenCount": 34, "candidatesTokenCount": 418, "thoughtsTokenCount": 438}
    assert tokens({"usageMetadata": counted}) == (34, 0, 856)
    assert tokens({"usage_metadata": {SPELLINGS[name]: value for name, value in counted.items()}}) == (34, 0, 856)


@pytest.mark.parametrize(
    "details", ["prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details"]
)
@pytest.mark.parametrize("name", ["cached_tokens", "cache_read"])
def test_cached_tokens_are_told_in_details_of_any_name(details: str, name: str) -> None:
    counted = {"prompt_tokens": 100, "completion_tokens": 5, details: {name: 80}}
    assert tokens({"usage": counted}) == (100, 80, 5)


@pytest.mark.parametrize(
    "name", ["num_cached_tokens", "prompt_cache_hit_tokens", "cached_tokens", "cache_read_input_tokens"]
)
def test_cached_tokens_are_told_under_any_name(name: str) -> None:
    assert tokens({"usage": {"prompt_tokens": 100, "completion_tokens": 5, name: 80}}) == (100, 80, 5)
    # More than the prompt: they are beside it.
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": 5, name: 80}}) == (90, 80, 5)


@pytest.mark.parametrize("details", ["completion_tokens_details", "output_tokens_details"])
def test_reasoning_is_told_in_details_of_any_name(details: str) -> None:
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": 5, details: {"reasoning_tokens": 90}}}) == (
        10,
        0,
        95,
    )


@pytest.mark.parametrize("name", ["cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens"])
def test_what_is_written_into_a_cache_costs_more_under_any_name(name: str) -> None:
    assert tokens({"usage": {"prompt_tokens": 100, "completion_tokens": 5, name: 80}}) == (120, 0, 5)
    inner = {"prompt_tokens": 100, "completion_tokens": 5, "prompt_tokens_details": {name: 80}}
    assert tokens({"usage": inner}) == (120, 0, 5)


@pytest.mark.parametrize(
    ("name", "value", "prompt"),
    [
        ("cache_read_input_tokens", 100, (108, 100)),
        ("cache_creation_input_tokens", 100, (133, 0)),
        ("cache_creation", {"ephemeral_5m_input_tokens": 100}, (133, 0)),
        ("cache_creation", {"ephemeral_1h_input_tokens": 100}, (208, 0)),
    ],
)
def test_each_of_anthropics_counts_says_whose_they_are(name: str, value: Any, prompt: tuple[int, int]) -> None:
    assert tokens({"usage": {"input_tokens": 8, "output_tokens": 5, name: value}}) == (*prompt, 5)


def test_half_of_llamas_timings_counts_beside_a_whole_usage() -> None:
    whole = {"prompt_tokens": 10, "completion_tokens": 5}
    assert tokens({"usage": whole, "timings": {"cache_n": 10, "prompt_n": 40}}) == (50, 10, 5)
    assert tokens({"usage": whole, "timings": {"predicted_n": 60}}) == (10, 0, 60)


def test_the_largest_count_that_is_one() -> None:
    assert usage.count(str(2**53)) == usage.count(2**53) == usage.count(float(2**53)) == 2**53
    # Zeros before a number make it no larger; but so long a text is no number of tokens.
    assert usage.count("0" * 15 + "7") == 7
    assert usage.count("0" * 16 + "7") is None
    assert tokens({"usage": {"prompt_tokens": 2**53, "completion_tokens": 2**53}}) == (2**53, 0, 2**53)


def test_who_is_not_named_has_no_name() -> None:
    counted = usage.read_tokens({"usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    pages = usage.read_pages({"usage_info": {"pages_processed": 1}})
    assert counted is not None
    assert pages is not None
    assert (counted.model, pages.model, pages.unit) == ("", "", "page")


UNREADABLE = [True, False, -1, 1.5, -0.5, float("nan"), float("inf"), 2**53 + 1, 2**70, "", "1.0", "-1", "4e2", "many"]
UNREADABLE += ["9" * 5_000, "٤", "²", " 5", [], [5], {}, {"value": 5}]


@pytest.mark.parametrize("value", UNREADABLE, ids=lambda value: repr(value)[:20])
def test_what_is_no_number_of_tokens_is_no_usage(value: Any) -> None:
    assert usage.count(value) is None
    # Of what was written the total tells as well; without it nothing does.
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": value}}) is None
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": value, "total_tokens": 25}}) == (10, 0, 15)
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": value, "total_tokens": 9}}) is None
    assert tokens({"usage": {"prompt_tokens": value, "completion_tokens": 5, "total_tokens": 25}}) is None
    # It could have told of more.
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": value}}) is None
    assert tokens({"usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": value}}) is None
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": value}}) is None
    assert (
        tokens({"usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "thoughtsTokenCount": value}})
        is None
    )
    assert tokens({"timings": {"prompt_n": 5, "cache_n": value, "predicted_n": 5}}) is None
    # As part of the prompt it could only have made it cheaper.
    details = {"prompt_tokens_details": {"cached_tokens": value}, "num_cached_tokens": value}
    assert tokens({"usage": {"prompt_tokens": 10, "completion_tokens": 5, **details}}) == (10, 0, 5)


@pytest.mark.parametrize(("value", "number"), [(0, 0), (-0.0, 0), (12.0, 12), ("400", 400), ("007", 7), (2**53, 2**53)])
def test_what_is_a_number_of_tokens(value: Any, number: int) -> None:
    assert usage.count(value) == number


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        "usage",
        {},
        {"usage": None},
        {"usage": {}},
        {"usage": {"cost": 1}},
        {"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}},
        {"usage": {"prompt_tokens": 7}},
        {"usage": {"completion_tokens": 7, "total_tokens": 9}},
        {"usage": {"total_tokens": 9}},
        {"usage": {"output_tokens": 9}},
        {"usage": {"input_tokens": None, "output_tokens": 9, "cache_read_input_tokens": 5}},
        {"usage": "400"},
        {"usage": [400]},
        {"usage": 0},
        {"choices": 5, "timings": {}},
        {"choices": [None, {"usage": None}, {"usage": {}}], "x_groq": {"id": "r"}},
        {"choices": [{"usage": 5}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
        {"eval_count": 5},
        # A build of llama.cpp that does not tell what its cache had.
        {"timings": {"prompt_n": 6, "predicted_n": 600}},
        {"timings": {"prompt_ms": 1.0}},
        # Each can be read; what they come to is beyond any number of tokens.
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2**53}},
    ],
)
def test_what_does_not_say_all_is_no_usage(answer: Any) -> None:
    assert usage.read_tokens(answer) is None


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        # All of the prompt came from a cache, and is not told at all.
        ({"prompt_tokens": 0, "completion_tokens": 5}, (0, 0, 5)),
        ({"prompt_tokens": 0, "completion_tokens": 5, "cached_tokens": 100}, (100, 100, 5)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 41}, (32, 0, 9)),
        ({"prompt_tokens": 32, "completion_tokens": 9, "total_tokens": 5}, (32, 0, 9)),
        ({"prompt_tokens": 32, "completion_tokens": None, "total_tokens": 41}, (32, 0, 9)),
        ({"prompt_tokens": 32, "total_tokens": 32}, (32, 0, 0)),
        # The total says less than the part that is known of it.
        ({"prompt_tokens": 32, "total_tokens": 31}, None),
        # Reasoning is output once: as part of what was completed, or beside it.
        ({"completion_tokens": 103, "total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 94}}, 103),
        ({"completion_tokens": 9, "total_tokens": 135, "completion_tokens_details": {"reasoning_tokens": 94}}, 103),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 94}}, 103),
        ({"completion_tokens": 9, "total_tokens": 41, "completion_tokens_details": {"reasoning_tokens": 94}}, 103),
        ({"completion_tokens": 95, "completion_tokens_details": {"reasoning_tokens": 94}}, 95),
        ({"total_tokens": 41, "completion_tokens_details": {"reasoning_tokens": 94}}, 94),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": "?"}}, 9),
        # Told beside the prompt, and part of it: the rest of the total was written.
        ({"completion_tokens": 5, "total_tokens": 1_000, "cached_tokens": 20}, (32, 20, 968)),
        (
            {"completion_tokens": 5, "total_tokens": 1_000, "prompt_tokens_details": {"cached_tokens": 20}},
            (32, 20, 968),
        ),
        # Told beside the prompt, and no part of it: it explains the rest.
        ({"completion_tokens": 5, "total_tokens": 57, "cached_tokens": 20}, (52, 20, 5)),
        (
            {
                "completion_tokens": 5,
                "total_tokens": 60,
                "cached_tokens": 20,
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            (52, 20, 8),
        ),
        # Either could explain it: the dearer one counts.
        (
            {
                "completion_tokens": 5,
                "total_tokens": 57,
                "cached_tokens": 20,
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            (32, 20, 25),
        ),
        ({"total_tokens": 52, "cached_tokens": 20}, (32, 20, 20)),
        ({"completion_tokens": 5, "total_tokens": 57, "num_cached_tokens": 20}, (32, 20, 25)),
        # More was cached than there is prompt: it was beside it, whatever the total has.
        ({"completion_tokens": 5, "total_tokens": 1_037, "num_cached_tokens": 1_000}, (1_032, 1_000, 5)),
        ({"completion_tokens": 5, "total_tokens": 1_337, "cached_tokens": 1_000}, (1_032, 1_000, 305)),
        ({"completion_tokens": 5, "total_tokens": 37, "cached_tokens": 1_000}, (1_032, 1_000, 5)),
        ({"completion_tokens": 5, "cached_tokens": 1_000}, (1_032, 1_000, 5)),
        # Too little for the cached ones: the total is without them.
        ({"completion_tokens": 5, "total_tokens": 337, "cached_tokens": 1_000}, (1_032, 1_000, 305)),
        ({"total_tokens": 37, "cached_tokens": 1_000}, (1_032, 1_000, 5)),
        ({"total_tokens": 1_037, "cached_tokens": 1_000}, (1_032, 1_000, 5)),
        # A prompt in parts is no smaller than its parts.
        ({"completion_tokens": 5, "prompt_cache_hit_tokens": 100, "prompt_cache_miss_tokens": 50}, (150, 100, 5)),
        ({"completion_tokens": 5, "prompt_cache_hit_tokens": 10}, (32, 10, 5)),
        # Two spellings in one block.
        ({"input_tokens": 40, "completion_tokens": 5, "output_tokens": 7}, (40, 0, 7)),
        ({"input_tokens": 30, "cache_read_input_tokens": 900, "completion_tokens": 5}, (930, 900, 5)),
        (
            {"prompt_tokens": 1_000, "input_tokens": 0, "cache_read_input_tokens": 900, "completion_tokens": 5},
            (1_000, 900, 5),
        ),
        ({"input_tokens": 8, "cache_read_input_tokens": "?", "completion_tokens": 5}, None),
        # More was written into a cache than there is prompt: it was beside it.
        ({"completion_tokens": 5, "cache_creation_input_tokens": 500}, (657, 0, 5)),
        # What Perplexity cites is input beside the prompt.
        ({"completion_tokens": 5, "total_tokens": 37, "citation_tokens": 1_000}, (1_032, 0, 5)),
        # Reasoning beside the usual places, and more than was written.
        ({"completion_tokens": 5, "total_tokens": 37, "reasoning_tokens": 500}, (32, 0, 505)),
        ({"completion_tokens": 5, "reasoning_output_tokens": 3}, (32, 0, 5)),
        ({"completion_tokens": 5, "output_token_details": {"reasoning_tokens": 500}}, (32, 0, 505)),
        ({"completion_tokens": 5, "completion_token_details": {"reasoning_tokens": 500}}, (32, 0, 505)),
    ],
)
def test_the_total_and_the_details_tell_what_the_two_counts_leave_out(counted: dict[str, Any], expected: Any) -> None:
    expected = (32, 0, expected) if isinstance(expected, int) else expected

    assert tokens({"usage": {"prompt_tokens": 32, **counted}}) == expected


# As OpenRouter and LiteLLM tell them; whose request was marked for an hour, and says so or does not.
@pytest.mark.parametrize(
    ("counted", "write_e2", "read"),
    [
        ({"prompt_tokens_details": {"cache_write_tokens": 80}}, 125, 100 + 20),
        ({"prompt_tokens_details": {"cache_write_tokens": 80}}, 200, 100 + 80),
        ({"cache_creation_input_tokens": 80, "cache_creation": {"ephemeral_1h_input_tokens": 80}}, 125, 100 + 80),
        ({"cache_creation_input_tokens": 80, "cache_creation": {"ephemeral_5m_input_tokens": 80}}, 200, 100 + 20),
        ({"cache_creation_input_tokens": 80, "ephemeral_1h_input_tokens": 40}, 125, 100 + 40 + 10),
        ({"ephemeral_1h_input_tokens": 40}, 125, 100 + 40),
        ({"cache_creation_input_tokens": 1_900}, 200, 100 + 3_800),
        ({"cacheWriteInputTokens": 80}, 125, 100 + 20),
    ],
)
def test_what_is_written_into_a_cache_costs_by_how_long_it_is_kept(
    counted: dict[str, Any], write_e2: int, read: int
) -> None:
    found = usage.read_tokens({"usage": {"prompt_tokens": 100, "completion_tokens": 5, **counted}}, write_e2=write_e2)
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (read, 5)


def test_anthropics_writes_cost_by_how_long_the_request_has_them_kept() -> None:
    counted = {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 100}
    found = usage.read_tokens({"usage": counted}, write_e2=200)
    assert found is not None
    assert found.input_tokens == 10 + 200


def test_of_two_blocks_the_larger_count_of_each_kind_wins() -> None:
    answer = {
        "usage": {"prompt_tokens": 10, "completion_tokens": 50},
        "x_groq": {"usage": {"prompt_tokens": 40, "completion_tokens": 5}},
        "choices": [{"usage": {"prompt_tokens": 30, "completion_tokens": 60}}],
        "usageMetadata": {"promptTokenCount": 45},
    }
    assert tokens(answer) == (45, 0, 60)
    assert tokens({"usageMetadata": {"promptTokenCount": 45}, "choices": [{"usage": {"completion_tokens": 5}}]}) is None


def test_choices_that_each_count_their_own_are_added_up() -> None:
    each = [{"usage": {"prompt_tokens": 10, "completion_tokens": written}} for written in (5, 7)]

    assert tokens({"choices": each}) == (10, 0, 12)
    assert tokens({"choices": [*each, {"usage": {"prompt_tokens": 10}}]}) is None


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        # https://docs.mistral.ai/api/endpoint/embeddings
        ({"prompt_tokens": 15, "total_tokens": 15, "completion_tokens": 0}, (15, 0, 0)),
        ({"prompt_tokens": 15}, (15, 0, 0)),
        # Jina and Voyage say no more.
        ({"total_tokens": 15}, (15, 0, 0)),
        # What the total has beyond the prompt was read as well.
        ({"prompt_tokens": 15, "total_tokens": 20}, (20, 0, 0)),
        ({"prompt_tokens": 15, "completion_tokens": 2, "total_tokens": 20}, (18, 0, 2)),
        ({"prompt_tokens": "?", "total_tokens": 20}, None),
        ({"prompt_tokens": 15, "total_tokens": "?"}, None),
        ({"prompt_tokens": 0, "total_tokens": 0}, None),
        ({"completion_tokens": 2}, None),
    ],
)
def test_a_call_that_writes_nothing_has_its_total_as_input(counted: dict[str, Any], expected: Any) -> None:
    assert tokens({"usage": counted}, writes=False) == expected


numbers = st.integers(0, 40)


@given(prompt=numbers, cached=numbers, written=numbers, reasoning=numbers, beside=st.booleans(), told=st.booleans())
def test_reasoning_in_the_total_alone_never_costs_less_than_it_did(
    prompt: int, cached: int, written: int, reasoning: int, beside: bool, told: bool
) -> None:
    """Whether cached tokens are part of the prompt, and whether reasoning is told, is the endpoint's choice."""
    truth = Usage(input_tokens=prompt + cached, cached_tokens=cached, output_tokens=written + reasoning)
    counted: dict[str, Any] = {
        "prompt_tokens": prompt + (0 if beside else cached),
        "completion_tokens": written,
        "total_tokens": prompt + cached + written + reasoning,
        "prompt_tokens_details": {"cached_tokens": cached},
    }
    if told:
        counted["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    read = usage.read_tokens({"usage": counted})

    assert cost(read) >= cost(truth) if read else not (truth.input_tokens or truth.output_tokens)


usages = st.builds(
    lambda plain, cached, written: Usage(
        input_tokens=plain + cached,
        cached_tokens=cached,
        output_tokens=written,
        units=plain + cached + written,
    ),
    numbers,
    numbers,
    numbers,
)


@given(earlier=usages, later=usages)
def test_the_larger_of_two_counts_costs_no_less_than_either(earlier: Usage, later: Usage) -> None:
    read = usage.larger(earlier, later)

    assert read is not None
    assert cost(read) >= max(cost(earlier), cost(later))
    assert (read.input_tokens, read.output_tokens) == (
        max(earlier.input_tokens, later.input_tokens),
        max(earlier.output_tokens, later.output_tokens),
    )
    assert 0 <= read.cached_tokens <= read.input_tokens
    assert read.units == read.input_tokens + read.output_tokens
    assert usage.larger(earlier, earlier) == earlier


def test_a_count_is_raised_to_what_was_said_before_and_keeps_what_came_from_a_cache() -> None:
    found = Usage("p", "m", 100, 80, 5, units=105)

    assert usage.raised(found, None) is found
    assert usage.raised(found, Usage("p", "m", 90, 0, 2, units=92)) == found
    assert usage.raised(found, Usage("p", "m", 300, 0, 7, units=307)) == Usage("p", "m", 300, 80, 7, units=307)
    pages = Usage("p", "m", unit="page", units=3)
    assert usage.raised(pages, replace(pages, units=2)) == pages
    assert usage.raised(pages, replace(pages, units=4)).units == 4


def test_a_later_smaller_count_takes_nothing_away() -> None:
    whole = Usage("p", "m", 100, 80, 50, units=150)

    assert usage.larger(whole, replace(whole, output_tokens=1, units=101)) == whole
    assert usage.larger(whole, replace(whole, cached_tokens=50)) == replace(whole, cached_tokens=50)
    assert usage.larger(whole, None) == whole
    assert usage.larger(None, whole) == whole
    assert usage.larger(None, None) is None


def test_the_later_name_counts_where_there_is_one() -> None:
    named = [
        Usage("p", "first", 1, 0, 1, units=2),
        Usage("", "", 1, 0, 1, units=2),
        Usage("q", "last", 1, 0, 1, units=2),
    ]

    assert usage.larger(named[0], named[1]) == named[0]
    assert usage.larger(named[0], named[2]) == named[2]


def test_of_pages_the_larger_number_counts() -> None:
    pages = [Usage("p", "m", unit="page", units=units) for units in (3, 2)]

    assert usage.larger(*pages) == pages[0]


@pytest.mark.parametrize(
    ("read", "answer_bytes", "why"),
    [
        ((100, 20), None, ""),
        ((100, 20), 20 * 256, ""),
        ((100, 20), 20 * 256 + 1, usage.BELOW_TEXT),
        ((100, 0), 1, usage.BELOW_TEXT),
        ((100, 0), 0, ""),
        ((100, 0), None, ""),
        ((1_000, 200), 1, ""),
        ((1_001, 200), 1, usage.BEYOND_CONTEXT),
        ((10**15, 0), None, usage.BEYOND_CONTEXT),
        ((0, 2**53), None, usage.BEYOND_CONTEXT),
    ],
)
def test_a_count_that_cannot_be_is_implausible(read: tuple[int, int], answer_bytes: int | None, why: str) -> None:
    counted = Usage(input_tokens=read[0], output_tokens=read[1], units=sum(read))

    assert usage.implausible(counted, most_input=1_000, most_output=200, answer_bytes=answer_bytes) == why


def test_pages_are_no_tokens() -> None:
    pages = Usage(unit="page", units=10**9)

    assert usage.implausible(pages, most_input=1, most_output=1, answer_bytes=10) == ""


@pytest.mark.parametrize(
    ("info", "pages"),
    [
        ({"pages_processed": 3, "doc_size_bytes": 1_024}, 3),
        ({"pages_processed": 3.0}, 3),
        ({"pages_processed": "3000"}, 3_000),
        ({"pages_processed": 0}, None),
        ({"pages_processed": 2.5}, None),
        ({"pages_processed": -3}, None),
        ({"pages_processed": True}, None),
        ({"pages_processed": 2**70}, None),
        ({}, None),
        (None, None),
        ([3], None),
    ],
)
def test_pages_are_read_from_an_ocr_answer(info: Any, pages: int | None) -> None:
    read = usage.read_pages({"model": "ocr", "usage_info": info}, model="asked", unit="annotated_page")

    assert read == (None if pages is None else Usage("mistral", "ocr", unit="annotated_page", units=pages))
    assert usage.read_pages([], model="asked") is None
    named = usage.read_pages({"usage_info": {"pages_processed": 1}}, model="asked")
    assert named is not None
    assert (named.model, named.unit) == ("asked", "page")


names = (
    "usage choices x_groq message timings prompt_n cache_n predicted_n usageMetadata prompt_tokens completion_tokens"
)
names += " input_tokens output_tokens total_tokens cached_tokens prompt_tokens_details cache_creation eval_count"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names.split(" ")), inner, max_size=6),
    max_leaves=20,
)


@given(answer=json_values, writes=st.booleans())
def test_no_answer_breaks_the_reader(answer: Any, writes: bool) -> None:
    read = usage.read_tokens({"usage": answer, "choices": [{"usage": answer}]}, writes=writes)
    for found in (read, usage.read_tokens(answer, writes=writes)):
        if found is not None:
            assert 0 <= found.cached_tokens <= found.input_tokens <= 2**53
            assert 0 <= found.output_tokens <= 2**53
            assert found.units > 0


NAMES = (
    *usage._INPUT,
    *usage._OUTPUT,
    *usage._TOTAL,
    *usage._MORE_INPUT,
    *usage._MORE_OUTPUT,
    *usage._CACHED_INSIDE,
    *usage._CACHED_BESIDE,
    *usage._WRITTEN,
)
COUNTS = st.sampled_from((0, 1, 5, 10, 50, 1_000, "7", 12.0, None, -1, "x", 2**60))
BLOCKS = st.dictionaries(st.sampled_from(NAMES), COUNTS, min_size=1, max_size=5)


@given(block=BLOCKS)
@settings(max_examples=500)
@example(block={"prompt_tokens": 10, "completion_tokens": 40, "output_tokens": -1, "total_tokens": 11})
def test_what_is_read_is_never_below_what_can_be_read_of_it(block: dict[str, Any]) -> None:
    whole, least = usage.read_tokens({"usage": block}), usage.least_tokens({"usage": block})
    if whole is not None and least is not None:
        assert whole.input_tokens >= least.input_tokens
        assert whole.output_tokens >= least.output_tokens


def test_answers_that_are_counted_one_by_one_have_one_prompt_and_each_its_output() -> None:
    parts = [Usage(model="m", input_tokens=10, output_tokens=3), Usage(model="m", input_tokens=10, output_tokens=4)]
    both = usage.together(parts)
    assert both is not None
    assert (both.input_tokens, both.output_tokens, both.units) == (10, 7, 17)
    assert usage.together([]) is None


COUNTED = {"prompt_tokens": 1, "completion_tokens": 4}


@pytest.mark.parametrize(
    ("chunk", "answers"),
    [
        ({"choices": [{"index": 2, "usage": COUNTED}]}, {2}),
        ({"choices": [{"usage": COUNTED}]}, {0}),
        ({"choices": [{"index": "odd", "usage": {}}]}, {0}),
        ({"choices": [{"index": 2, "usage": "odd"}]}, {2}),
        ({"choices": [{"index": 4}, {"index": 2, "usage": COUNTED}, "odd", {"index": 7, "usage": COUNTED}]}, {2, 7}),
        # Indexes that say nothing: they come in their order.
        (
            {"choices": [{"index": 5}, {"index": 5, "usage": COUNTED}, {"usage": COUNTED}, {"usage": COUNTED}]},
            {1, 2, 3},
        ),
        # What is said of the call is none if it is less than its answers have.
        ({"choices": [{"index": 2, "usage": COUNTED}], "usage": COUNTED}, None),
        ({"choices": [{"index": 2, "usage": COUNTED}], "x_groq": {"usage": COUNTED}}, None),
        ({"choices": [{"index": 2, "usage": COUNTED}], "usage": {"prompt_tokens": 9}}, {2}),
        ({"choices": [{"index": 2, "usage": COUNTED}], "usage": {"cost": 1}}, {2}),
        ({"choices": [{"index": 0, "usage": COUNTED}, {"index": 1, "usage": COUNTED}], "usage": COUNTED}, {0, 1}),
        ({"choices": [{"index": 2, "usage": {}}], "usage": COUNTED}, None),
        ({"choices": [{"index": 2}]}, None),
        ({"choices": ["odd"]}, None),
        ({"choices": "odd"}, None),
        ({}, None),
    ],
)
def test_whose_count_a_chunk_has(chunk: dict[str, Any], answers: set[int] | None) -> None:
    assert usage.counted_answers(chunk) == answers


@pytest.mark.parametrize("kind", ["text_tokens", "audio_tokens", "image_tokens", "video_tokens"])
@pytest.mark.parametrize(("said", "prompt", "output"), [(10, 10, 20), (11, 21, 20), (21, 31, 41)])
def test_more_of_a_kind_than_there_is_was_counted_beside_it(kind: str, said: int, prompt: int, output: int) -> None:
    details = {"prompt_tokens_details": {kind: said}, "completion_tokens_details": {kind: said}}
    assert tokens_of({"prompt_tokens": 10, "completion_tokens": 20} | details) == (prompt, 0, output)


@pytest.mark.parametrize("name", ["accepted_prediction_tokens", "rejected_prediction_tokens"])
def test_more_that_was_foretold_than_was_written_counts_too(name: str) -> None:
    foretold = {"prompt_tokens": 10, "completion_tokens": 20, "completion_tokens_details": {name: 30}}
    assert tokens_of(foretold) == (10, 0, 50)


def tokens_of(block: dict[str, Any]) -> tuple[int, int, int] | None:
    return tokens({"usage": block})


def test_the_least_of_several_answers_is_what_each_of_them_has() -> None:
    choices = [{"index": 0, "usage": {"prompt_tokens": 9, "completion_tokens": 4}}, {"usage": {"completion_tokens": 5}}]
    found = usage.least_tokens({"choices": choices})
    assert found is not None
    assert (found.input_tokens, found.output_tokens) == (9, 9)


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        # A version beside the model is none: watsonx has both.
        ({"model": "ibm/granite-4", "model_version": "1.1.0", "response": {"model": "c"}}, ["ibm/granite-4", "c"]),
        ({"modelVersion": "a", "model_version": "b"}, ["a", "b"]),
        ({"model": "", "message": {"model": 7, "model_version": "d"}, "response": ["e"]}, ["d"]),
        ({"model": "a", "choices": [{"model": "f"}, "g", {"index": 1}]}, ["a", "f"]),
        ({"choices": "f"}, []),
    ],
)
def test_an_answer_may_name_several_models(answer: dict[str, Any], named: list[str]) -> None:
    assert list(usage.named_models(answer)) == named
    assert usage.named_model(answer) == (named[0] if named else "")


@pytest.mark.parametrize(
    ("answer", "pages"),
    [({"pages": [{}, {"index": 0}, "odd", None]}, 2), ({"pages": []}, 0), ({"pages": {"0": {}}}, 0), ({}, 0), ([], 0)],
)
def test_pages_that_an_answer_shows(answer: Any, pages: int) -> None:
    assert usage.shown_pages(answer) == pages


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        ({"usage": {"prompt_tokens": 9}}, (9, 0, 0)),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": -1}}, (9, 0, 0)),
        ({"usage": {"prompt_tokens": "x", "completion_tokens": 4}}, (0, 0, 4)),
        ({"usage": {"input_tokens": 9, "prompt_tokens_details": {"cached_tokens": 5}}}, (9, 5, 0)),
        ({"usage": {"prompt_tokens": 9, "cached_tokens": 7}}, (9, 7, 0)),
        # A total holds what was read.
        ({"usage": {"total_tokens": 9}}, (9, 0, 0)),
        ({"usage": {"completion_tokens": 4, "total_tokens": 9, "prompt_tokens": None}}, (5, 0, 4)),
        ({"usage": {"promptTokenCount": 5, "toolUsePromptTokenCount": 4, "thoughtsTokenCount": 3}}, (9, 0, 3)),
        ({"usage": {"input_tokens": 2, "cache_read_input_tokens": 7, "output_tokens": "?"}}, (9, 7, 0)),
        ({"usage": {"input_tokens": 2, "cache_creation_input_tokens": 7}}, (9, 0, 0)),
        ({"choices": [{"usage": {"prompt_tokens": 9}}, "odd"]}, (9, 0, 0)),
        ({"prompt_eval_count": 9}, (9, 0, 0)),
        ({"timings": {"prompt_n": 2, "cache_n": 7, "predicted_n": 3}}, (9, 7, 3)),
        ({"timings": {"prompt_n": 9}, "usage": [9]}, (9, 0, 0)),
        ({"x_groq": {"usage": {"prompt_tokens": 9}}, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, (9, 0, 2)),
    ],
)
def test_the_least_of_a_usage_is_what_can_be_read_of_it(answer: Any, counts: tuple[int, int, int]) -> None:
    found = usage.least_tokens(answer, model="m")
    assert found is not None
    assert (found.input_tokens, found.cached_tokens, found.output_tokens, found.model) == (*counts, "m")


@pytest.mark.parametrize("answer", [None, [], {}, {"usage": "much"}, {"usage": {}}, {"usage": {"prompt_tokens": 0}}])
def test_what_counts_nothing_has_no_least(answer: Any) -> None:
    assert usage.least_tokens(answer, model="m") is None


COUNTS = st.none() | st.booleans() | st.integers(-2, 60) | st.sampled_from([2**53, 2**53 + 1, 12.0, 1.5, "7", "x", {}])
NAMES = st.sampled_from([*usage._PLAIN, *usage._PLAIN, *sorted(usage._BEYOND_PLAIN), "of_nobody"])


@settings(max_examples=300)
@example({"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50}, True)
@example({"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50, "of_nobody": 3}, False)
@given(st.dictionaries(NAMES, COUNTS, max_size=5), st.booleans())
def test_a_plain_block_is_read_as_any_other_would_be(block: dict[str, Any], writes: bool) -> None:
    """The short way, which nearly every block takes, leads where the long one does."""

    def read() -> Usage | None:
        return usage.read_tokens({"usage": block}, writes=writes)

    short = read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usage, "_plain", lambda block: None)
        assert short == read()


def test_a_count_is_no_larger_than_itself() -> None:
    used = usage.read_tokens({"usage": {"prompt_tokens": 16, "completion_tokens": 34, "total_tokens": 50}}, model="m")
    assert used is not None
    assert usage.larger(used, used) == usage.larger(used, replace(used)) == used
    assert usage.raised(used, used) == usage.raised(used, replace(used)) == used
