"""What an answer says was used: the one reader of usage, whoever wrote it. Pure.

Endpoints that speak OpenAI's dialect spell usage in a dozen ways, and some count what others leave out. Whatever cannot
be read is no usage: the caller then charges a strict count. A number that stands for more than one thing is taken for
the dearer one, so that no call costs less than it did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

from governance.rules.calls import Usage
from llm.rules.mistral_dialect import PROVIDER

# What JSON's readers agree on; nobody counts further.
MOST_TOKENS = 2**53
# No tokenizer in use has a longer one: runs of blanks, or of one letter, are the longest.
LONGEST_TOKEN_BYTES = 256

BEYOND_CONTEXT, BELOW_TEXT = "beyond_context", "below_text"

# What a token costs that is written into a cache, in hundredths of an input token: for minutes, and for an hour.
WRITE_E2, WRITE_1H_E2 = 125, 200

_INPUT = ("prompt_tokens", "input_tokens", "promptTokenCount", "prompt_token_count", "prompt_eval_count", "inputTokens")
_OUTPUT = (
    *("completion_tokens", "output_tokens", "candidatesTokenCount", "candidates_token_count", "eval_count"),
    "outputTokens",
)
_TOTAL = ("total_tokens", "totalTokenCount", "total_token_count", "totalTokens")
# Gemini counts these beside its prompt, and beside what it answers; Perplexity what it cites.
_MORE_INPUT = ("toolUsePromptTokenCount", "tool_use_prompt_token_count", "citation_tokens")
_MORE_OUTPUT = ("thoughtsTokenCount", "thoughts_token_count")
_INPUT_DETAILS = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details")
_OUTPUT_DETAILS = (
    *("completion_tokens_details", "output_tokens_details"),
    *("completion_token_details", "output_token_details"),
)
# Of which kinds tokens are, and which were foretold: part of what was read or written, unless they are more than that.
_KINDS = ("text_tokens", "audio_tokens", "image_tokens", "video_tokens")
_FORETOLD = ("accepted_prediction_tokens", "rejected_prediction_tokens")
_REASONING = ("reasoning_tokens", "reasoning_output_tokens")
# Part of the prompt by their definition, or told beside it and part of it or not.
_CACHED_INSIDE = (
    "num_cached_tokens",
    "prompt_cache_hit_tokens",
    "cachedContentTokenCount",
    "cached_content_token_count",
)
_CACHED_BESIDE = ("cached_tokens", "cache_read_input_tokens", "cacheReadInputTokens")
_WRITTEN = ("cache_write_tokens", "cache_creation_input_tokens", "cache_creation_tokens", "cacheWriteInputTokens")
# By how long it is kept; a cache may also be told in these alone.
_WRITTEN_BY_AGE = ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")
_ANTHROPICS = ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation")
# All that is looked for in a block beside these three, which most of them have alone.
_PLAIN = ("prompt_tokens", "completion_tokens", "total_tokens")
_BEYOND_PLAIN = frozenset(
    (
        *(*_INPUT, *_OUTPUT, *_TOTAL, *_MORE_INPUT, *_MORE_OUTPUT, *_INPUT_DETAILS, *_OUTPUT_DETAILS, *_REASONING),
        *(*_CACHED_INSIDE, *_CACHED_BESIDE, *_WRITTEN, *_WRITTEN_BY_AGE, *_ANTHROPICS, "prompt_cache_miss_tokens"),
    )
) - frozenset(_PLAIN)
# Groq's own; the answer that an event of Anthropic's or of the Responses API holds.
_HOLDERS = ("x_groq", "message", "response")
_BLOCKS = ("usage", "usageMetadata", "usage_metadata")
# Beside `model` these say which version of it served; where that is not there, the model.
_VERSIONS = ("modelVersion", "model_version")
_OLLAMAS = ("prompt_eval_count", "eval_count")
_LLAMAS = ("prompt_n", "predicted_n")


class _Unreadable(Exception):
    """A count is there that is none."""


def read_tokens(answer: Any, *, model: str = "", writes: bool = True, write_e2: int = WRITE_E2) -> Usage | None:
    """The tokens that an answer or a stream's chunk says were used; `model` is what was asked, where it names none.

    None where it does not say, or where a count that is needed cannot be read: such a call is charged at a strict
    count. `writes`: of a call that writes; one that does not (embeddings, moderation) has all of its total as input.
    `write_e2`: what a token that is written into a cache costs, where nobody says how long it is kept.
    """
    if not isinstance(answer, dict):
        return None
    try:
        found = [_of_block(block, writes=writes, write_e2=write_e2) for block in _blocks(answer)]
        found += _of_choices(answer, writes=writes, write_e2=write_e2)
    except _Unreadable:
        return None
    # What says half of it counts beside what says all.
    whole = [usage for usage, is_whole in found if is_whole]
    usage = reduce(_larger, (usage for usage, _ in found)) if whole else None
    if usage is None or not usage.units or max(usage.input_tokens, usage.output_tokens) > MOST_TOKENS:
        return None
    return replace(usage, model=named_model(answer) or model)


def least_tokens(answer: Any, *, model: str = "") -> Usage | None:
    """The tokens that an answer says were used at the least: each count that can be read, whatever stands beside it.

    None where none can be.
    """
    if not isinstance(answer, dict):
        return None
    found = [_least(block) for block in _call_blocks(answer) if isinstance(block, dict) and block]
    if of_answers := together(_least(block) for _, block in _counted_choices(answer)):
        found.append(of_answers)
    usage = reduce(_larger, found) if found else None
    return replace(usage, model=named_model(answer) or model) if usage and usage.units else None


def _call_blocks(answer: Mapping[str, Any]) -> Iterator[Any]:
    """Everything in an answer that may count the tokens of the call, whatever is there."""
    yield {name: answer[name] for name in _OLLAMAS if name in answer}
    yield answer.get("timings")
    for holder in (answer, *(answer.get(name) for name in _HOLDERS)):
        if isinstance(holder, dict):
            yield from (holder.get(name) for name in _BLOCKS)


def _least(block: Mapping[str, Any]) -> Usage:
    def most(*names: str) -> int:
        return max(count(block.get(name)) or 0 for name in names)

    written = most(*_OUTPUT, "predicted_n") + most(*_MORE_OUTPUT)
    cached = max(_counted_in(block, _INPUT_DETAILS, ("cached_tokens", "cache_read")), most(*_CACHED_INSIDE))
    beside = most(*_CACHED_BESIDE, "cache_n")
    # By a total alone it has read what it is not said to have written.
    is_told = any(count(block.get(name)) is not None for name in (*_INPUT, "prompt_n"))
    read = most(*_INPUT, "prompt_n") + most(*_MORE_INPUT) if is_told else max(0, most(*_TOTAL) - written)
    if _is_anthropics(block):
        names = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        read = max(read, sum(map(most, names)))
    read += most("cache_n")
    return _usage(read, max(cached, beside), written)


def read_pages(answer: Any, *, model: str = "", unit: str = "page") -> Usage | None:
    """The pages that an OCR answer was made of; None where it does not say."""
    info = answer.get("usage_info") if isinstance(answer, dict) else None
    pages = count(info.get("pages_processed")) if isinstance(info, dict) else None
    if not pages:
        return None
    return Usage(provider=PROVIDER, model=named_model(answer) or model, unit=unit, units=pages)


def larger(earlier: Usage | None, later: Usage | None) -> Usage | None:
    """Of two counts of one call, in one unit, the larger of each kind; the model is the later one's that has a name.

    Cached tokens are what is left of the input beside the larger share that was not cached: with cached input at most
    as dear as other, the cost is never below that of either.
    """
    if earlier is None or later is None or earlier is later:
        return later or earlier
    return replace(
        _larger(earlier, later), provider=later.provider or earlier.provider, model=later.model or earlier.model
    )


def shown_pages(answer: Any) -> int:
    """Pages that an OCR answer holds."""
    pages = answer.get("pages") if isinstance(answer, dict) else None
    return sum(isinstance(page, dict) for page in pages) if isinstance(pages, list) else 0


def raised(found: Usage, least: Usage | None) -> Usage:
    """A count, with no fewer of a kind than were said or shown to be used at the least; those come from no cache."""
    if least is None or least is found:
        return found
    if found.unit != "token":
        return replace(found, units=max(found.units, least.units))
    input_tokens = max(found.input_tokens, least.input_tokens)
    output_tokens = max(found.output_tokens, least.output_tokens)
    return replace(found, input_tokens=input_tokens, output_tokens=output_tokens, units=input_tokens + output_tokens)


def together(parts: Iterable[Usage]) -> Usage | None:
    """Of answers that were counted one by one: they have one prompt, and each its own output. None without any."""
    counted = list(parts)
    if not counted:
        return None
    found = reduce(_larger, counted)
    output_tokens = sum(part.output_tokens for part in counted)
    return replace(found, output_tokens=output_tokens, units=found.input_tokens + output_tokens)


def answer_places(answer: Mapping[str, Any]) -> list[int]:
    """Which answers an answer or a chunk holds something of: by their index, or in their order where that says less."""
    choices = answer.get("choices")
    listed = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    indexes = [count(choice.get("index")) or 0 for choice in listed]
    return indexes if len(set(indexes)) == len(indexes) else list(range(len(listed)))


def counted_answers(answer: Mapping[str, Any]) -> frozenset[int] | None:
    """The answers that the counts in an answer or a chunk are of, each by itself; None where they are of the call.

    A count of the call that is smaller than those of its answers is none.
    """
    counted = _counted_choices(answer)
    if not counted:
        return None
    of_call = max((_least(block).output_tokens for block in _call_blocks(answer) if isinstance(block, dict)), default=0)
    of_answers = sum(_least(block).output_tokens for _, block in counted)
    says_call = any(_least(block).units for block in _call_blocks(answer) if isinstance(block, dict))
    return None if says_call and of_call >= of_answers else frozenset(place for place, _ in counted)


def _counted_choices(answer: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any]]]:
    """(which answer, its own count), of those that have one, readable or not."""
    choices = answer.get("choices")
    listed = [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    return [
        (place, block if isinstance(block, dict) else {})
        for place, choice in zip(answer_places(answer), listed, strict=True)
        if (block := choice.get("usage")) is not None
    ]


def implausible(usage: Usage, *, most_input: int, most_output: int, answer_bytes: int | None) -> str:
    """Why a count cannot be: BEYOND_CONTEXT or BELOW_TEXT; empty where it can.

    `most_input` and `most_output` are tokens: what the model reads at most, and what all answers may have at most.
    `answer_bytes`: UTF-8 bytes of what was written; None where nobody knows.
    """
    if usage.unit != "token":
        return ""
    if usage.input_tokens + usage.output_tokens > most_input + most_output:
        return BEYOND_CONTEXT
    return BELOW_TEXT if usage.output_tokens * LONGEST_TOKEN_BYTES < (answer_bytes or 0) else ""


def count(value: Any) -> int | None:
    """A whole number from 0 to 2^53, also as a float (12.0) or in digits ("400"); None for anything else."""
    if isinstance(value, str):
        # 2^53 has 16 digits.
        value = int(value) if value.isascii() and value.isdigit() and len(value) <= 16 else None
    elif isinstance(value, float):
        value = int(value) if value.is_integer() else None
    elif not isinstance(value, int) or isinstance(value, bool):
        value = None
    return value if value is not None and 0 <= value <= MOST_TOKENS else None


class AnthropicInput(NamedTuple):
    """Input tokens as Anthropic counts them: `plain` are those that no cache had a part in."""

    plain: int
    read: int
    written: int
    # Of those written into a cache, where that is told.
    for_minutes: int
    for_an_hour: int


def anthropic_input(counted: Mapping[str, Any]) -> AnthropicInput | None:
    """What a usage block of Anthropic's says was read; None where that cannot be read."""
    by_age = counted.get("cache_creation")
    aged = by_age if isinstance(by_age, dict) else {}
    try:
        plain = _said(counted, ("input_tokens",))
        read = _said(counted, ("cache_read_input_tokens",)) or 0
        written = _said(counted, ("cache_creation_input_tokens",)) or 0
        for_minutes, for_an_hour = (_said(aged, (name,)) or 0 for name in _WRITTEN_BY_AGE)
    except _Unreadable:
        return None
    if plain is None:
        return None
    return AnthropicInput(plain, read, max(written, for_minutes + for_an_hour), for_minutes, for_an_hour)


def _weighted(written: int, for_minutes: int, for_an_hour: int, write_e2: int) -> int:
    """Input tokens that cost as much as those that were written into a cache.

    One costs 1.25 input tokens, 2 where it is kept for an hour, `write_e2` hundredths where nobody says how long.
    """
    untold = max(0, written - for_minutes - for_an_hour)
    return -(-(for_minutes * WRITE_E2 + for_an_hour * WRITE_1H_E2 + untold * write_e2) // 100)


def _blocks(answer: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Everything in an answer that counts tokens, but for what its choices say."""
    if any(name in answer for name in _OLLAMAS):
        yield {name: answer.get(name) for name in _OLLAMAS}
    if timings := _object(answer.get("timings")):
        yield _of_llama(timings)
    for holder in (answer, *(answer.get(name) for name in _HOLDERS)):
        if not isinstance(holder, dict):
            continue
        for name in _BLOCKS:
            if block := _object(holder.get(name)):
                yield block


def _object(value: Any) -> Mapping[str, Any]:
    """A usage block; empty where there is none. Raises _Unreadable for what should be one and is none."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _Unreadable
    return value


def _of_llama(timings: Mapping[str, Any]) -> Mapping[str, Any]:
    """llama.cpp's timings: its prompt is without what it had in its cache. Builds that do not tell that say half."""
    if not any(name in timings for name in _LLAMAS):
        return {}
    evaluated, cached = (_said(timings, (name,)) for name in ("prompt_n", "cache_n"))
    prompt = None if evaluated is None or cached is None else evaluated + cached
    return {"prompt_tokens": prompt, "num_cached_tokens": cached, "completion_tokens": timings.get("predicted_n")}


def _of_choices(answer: Mapping[str, Any], *, writes: bool, write_e2: int) -> list[tuple[Usage, bool]]:
    """Moonshot puts a stream's usage into the choice that ends. Several choices have one prompt, and each its own."""
    choices = answer.get("choices")
    blocks = [
        _object(choice.get("usage"))
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict)
    ]
    found = [_of_block(block, writes=writes, write_e2=write_e2) for block in blocks if block]
    if len(found) < 2:
        return found
    usage = reduce(_larger, (usage for usage, _ in found))
    output_tokens = sum(usage.output_tokens for usage, _ in found)
    return [(_usage(usage.input_tokens, usage.cached_tokens, output_tokens), all(whole for _, whole in found))]


def _of_block(block: Mapping[str, Any], *, writes: bool, write_e2: int) -> tuple[Usage, bool]:
    """What one block says, and whether it says all. Raises _Unreadable."""
    if (plain := _plain(block)) is not None:
        return plain, True
    prompt, cached, beside = _prompt(block, write_e2)
    total = _said(block, _TOTAL)
    written = _written(block, total)
    thought = _said(block, _MORE_OUTPUT) or 0
    output = (written or 0) + thought
    if not writes:
        is_whole = prompt is not None or total is not None
        return _usage(max(prompt or 0, (total or 0) - output), cached, output), is_whole
    if prompt is None or (written is None and total is None):
        return _usage(prompt or 0, cached, output), False
    if written is None and (total or 0) < prompt:
        raise _Unreadable
    reasoning = max(
        _counted_in(block, _OUTPUT_DETAILS, _REASONING), *(count(block.get(name)) or 0 for name in _REASONING)
    )
    # What the total has beyond the two: tokens from a cache that are no part of the prompt, or hidden reasoning.
    rest = max(0, (total or 0) - prompt - output)
    outside = 0
    if cached > prompt:
        outside = cached
    elif beside and written is not None and rest != reasoning and rest in (beside, beside + reasoning):
        outside = cached = beside
    if rest >= outside:
        rest -= outside
    if written is None:
        output = max(output + rest, reasoning)
    else:
        # More reasoning than all that was written is no part of it, whether the total has it or not.
        most = max(reasoning, _counted_in(block, _OUTPUT_DETAILS, _KINDS + _FORETOLD))
        output += max(rest, most if most > output else 0)
    return _usage(prompt + outside + _of_writes(block, prompt, write_e2), cached, output), True


def _plain(block: Mapping[str, Any]) -> Usage | None:
    """What a block says of which nothing but a prompt, an answer and the sum of both is known; None for any other."""
    prompt, written, total = map(block.get, _PLAIN)
    if not (type(prompt) is int and type(written) is int and type(total) is int and min(prompt, written) >= 0):
        return None
    if prompt + written == total <= MOST_TOKENS and _BEYOND_PLAIN.isdisjoint(block):
        return _usage(prompt, 0, written)
    return None


def _written(block: Mapping[str, Any], total: int | None) -> int | None:
    """What a block says was written, beside a total what can be read of it; None where that is nothing.

    Raises _Unreadable.
    """
    try:
        return _said(block, _OUTPUT)
    except _Unreadable:
        if total is None:
            raise
        return max((tokens for name in _OUTPUT if (tokens := count(block.get(name))) is not None), default=None)


def _prompt(block: Mapping[str, Any], write_e2: int) -> tuple[int | None, int, int]:
    """(prompt tokens, cached ones, cached ones that are told beside the prompt). Raises _Unreadable."""
    inside = max(
        _counted_in(block, _INPUT_DETAILS, ("cached_tokens", "cache_read")),
        *(count(block.get(name)) or 0 for name in _CACHED_INSIDE),
    )
    prompts = [_said(block, _INPUT)]
    beside = 0
    if _is_anthropics(block):
        counted = anthropic_input(block)
        if counted is None:
            raise _Unreadable
        prompts.append(counted.plain + counted.read + _weighted(*counted[2:], write_e2))
        inside = max(inside, counted.read)
    else:
        beside = _said(block, _CACHED_BESIDE) or 0
    hit, miss = (count(block.get(f"prompt_cache_{name}_tokens")) for name in ("hit", "miss"))
    if hit is not None and miss is not None:
        prompts.append(hit + miss)
    known = [tokens for tokens in prompts if tokens is not None]
    prompt = max(known) + (_said(block, _MORE_INPUT) or 0) if known else None
    of_a_kind = _counted_in(block, _INPUT_DETAILS, _KINDS)
    if prompt is not None and of_a_kind > prompt:
        # Pictures are counted beside it.
        prompt += of_a_kind
    return prompt, max(inside, beside), beside


def _is_anthropics(block: Mapping[str, Any]) -> bool:
    return "input_tokens" in block and any(block.get(name) is not None for name in _ANTHROPICS)


def _of_writes(block: Mapping[str, Any], prompt: int, write_e2: int) -> int:
    """Input tokens to add for those that were written into a cache, which costs more than reading.

    They are part of the prompt; where they are more than it has, they were told beside it.
    """
    if _is_anthropics(block) and "prompt_tokens" not in block:
        # Its own count has it.
        return 0
    for_minutes, for_an_hour = (
        max(_counted_in(block, ("cache_creation", *_INPUT_DETAILS), (name,)), count(block.get(name)) or 0)
        for name in _WRITTEN_BY_AGE
    )
    written = max(_counted_in(block, _INPUT_DETAILS, _WRITTEN), *(count(block.get(name)) or 0 for name in _WRITTEN))
    written = max(written, for_minutes + for_an_hour)
    weighted = _weighted(written, for_minutes, for_an_hour, write_e2)
    return weighted if written > prompt else weighted - written


def _said(block: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The largest count under these names; None where none of them is there. Raises _Unreadable."""
    said = [block[name] for name in names if block.get(name) is not None]
    counts = [tokens for value in said if (tokens := count(value)) is not None]
    if len(counts) < len(said):
        raise _Unreadable
    return max(counts, default=None)


def _counted_in(block: Mapping[str, Any], details: Sequence[str], names: Sequence[str]) -> int:
    """The largest count in these details: what is no count there makes nothing cheaper."""
    objects = [block[name] for name in details if isinstance(block.get(name), dict)]
    return max((count(found.get(name)) or 0 for found in objects for name in names), default=0)


def _usage(input_tokens: int, cached_tokens: int, output_tokens: int) -> Usage:
    return Usage(
        provider=PROVIDER,
        input_tokens=input_tokens,
        cached_tokens=min(cached_tokens, input_tokens),
        output_tokens=output_tokens,
        units=input_tokens + output_tokens,
    )


def _larger(one: Usage, other: Usage) -> Usage:
    input_tokens = max(one.input_tokens, other.input_tokens)
    uncached_tokens = max(one.input_tokens - one.cached_tokens, other.input_tokens - other.cached_tokens)
    output_tokens = max(one.output_tokens, other.output_tokens)
    return replace(
        one,
        input_tokens=input_tokens,
        cached_tokens=input_tokens - uncached_tokens,
        output_tokens=output_tokens,
        units=input_tokens + output_tokens if one.unit == "token" else max(one.units, other.units),
    )


def named_model(answer: Mapping[str, Any]) -> str:
    """What the answer says served it; empty where it does not."""
    return next(named_models(answer), "")


def named_models(answer: Mapping[str, Any]) -> Iterator[str]:
    """All models that an answer names: routers may name one in its head, and another where they count."""
    choices = answer.get("choices")
    holders = (
        *(answer, *(answer.get(name) for name in ("message", "response"))),
        *(choices if isinstance(choices, list) else ()),
    )
    for holder in holders:
        if isinstance(holder, dict):
            versions = [name for key in _VERSIONS if isinstance(name := holder.get(key), str) and name]
            yield from [name] if isinstance(name := holder.get("model"), str) and name else versions
