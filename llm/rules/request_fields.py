"""The fields that a request may have, by its kind. What has no line here is refused, whatever provider would take it.

A field that nobody here knows may make a call dearer than it was counted (another model, more answers, work at the
provider), so only known ones are passed on. Pure.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

# What Mistral takes, by its client.
_MISTRALS: Mapping[str, str] = {
    "chat": """model messages max_tokens min_tokens stream temperature top_p top_k stop random_seed metadata tools
        tool_choice n presence_penalty frequency_penalty repetition_penalty logprobs top_logprobs prompt_logprobs
        top_prompt_logprobs parallel_tool_calls prompt_cache_key service_tier safe_prompt prompt_mode reasoning_effort
        response_format prediction guardrails""",
    "fim": "model prompt suffix max_tokens min_tokens stream temperature top_p stop random_seed metadata n"
    " prompt_cache_key",
    "embedding": "model input metadata output_dimension output_dtype encoding_format",
    "moderation": "model input metadata",
    "ocr": """model document pages id metadata include_image_base64 include_blocks image_limit image_min_size
        table_format extract_header extract_footer bbox_annotation_format document_annotation_format
        document_annotation_prompt confidence_scores_granularity""",
}
# What OpenAI's clients add, which is translated, dropped or refused with a reason.
_OPENAIS: Mapping[str, str] = {
    "chat": """max_completion_tokens seed stream_options user logit_bias store verbosity safety_identifier
        prompt_cache_options prompt_cache_retention moderation functions function_call audio web_search_options
        modalities usage""",
    "fim": "user seed stream_options max_completion_tokens",
    "embedding": "dimensions user",
    "moderation": "user",
    "ocr": "user",
}
# What endpoints of one's own take beside OpenAI's (vLLM, llama.cpp, Ollama, GLM, Moonshot): how the answer is chosen
# and written, within its length.
COMPATIBLE: Mapping[str, frozenset[str]] = {
    "chat": frozenset(
        """min_p top_a typical_p chat_template_kwargs enable_thinking thinking thinking_budget include_reasoning
        guided_json guided_regex guided_choice guided_grammar skip_special_tokens stop_token_ids ignore_eos
        cache_prompt keep_alive transforms reasoning""".split()  # noqa: SIM905
    ),
}
KNOWN: Mapping[str, frozenset[str]] = {
    kind: frozenset(f"{fields} {_OPENAIS[kind]}".split()) | COMPATIBLE.get(kind, frozenset())
    for kind, fields in _MISTRALS.items()
}

# What may lengthen an answer beyond its length, by the word for it: fields that ask a model to think, and fields that
# are no model's own.
THINKING, ANSWERS, TOOLS, EXTRA = "thinking", "answers", "tools", "extra"
_THINK = frozenset(
    """prompt_mode reasoning_effort chat_template_kwargs enable_thinking thinking thinking_budget include_reasoning
    reasoning""".split()  # noqa: SIM905
)
_LENGTHEN = frozenset({"min_tokens", "ignore_eos", "prediction"})


def lengthening(names: Collection[str], *, answers: int, tools: bool, extra: bool) -> frozenset[str]:
    """What a request with fields of these names asks for that may make an answer longer than its bound."""
    flags = {
        THINKING: not _THINK.isdisjoint(names),
        ANSWERS: answers > 1,
        TOOLS: tools,
        EXTRA: extra or not _LENGTHEN.isdisjoint(names),
    }
    return frozenset(word for word, asked in flags.items() if asked)


# What steers a model to tokens that no text shows: marks of its own have no letters.
_STEER = frozenset({"logit_bias", "ignore_eos", "min_tokens"})


def hides_tokens(body: Mapping[str, Any]) -> bool:
    """Whether an answer does not tell how many tokens were written: some are steered, or are not to be shown."""
    reasoning = body.get("reasoning")
    asked = reasoning if isinstance(reasoning, Mapping) else {}
    is_unshown = body.get("include_reasoning") is False or bool(asked.get("exclude")) or bool(asked.get("summary"))
    return is_unshown or any(body.get(name) for name in _STEER)


# What multiplies or lengthens an answer, but for the values that ask for nothing: they are left out.
_WITHOUT_EFFECT: Mapping[str, Any] = {"best_of": 1, "echo": False, "use_beam_search": False}
_ANYWHERE = frozenset[str]().union(*KNOWN.values())


def unknown(names: Iterable[str]) -> tuple[str, str] | None:
    """(field, what would be right) of the first field that no kind of request has."""
    field = next((name for name in names if name not in _ANYWHERE), None)
    if field is None:
        return None
    close = difflib.get_close_matches(field[:100].lower(), _ANYWHERE, n=1, cutoff=0.8)
    return field, f"did you mean `{close[0]}`?" if close else "leave it out."


# What no operator may let through: it changes the model, how many answers there are, or what bounds their length.
_NEVER = frozenset(
    """model models route routes provider providers plugins tools best_of num_beams beam_width num_return_sequences
    max_new_tokens max_length max_output_tokens max_gen_len num_predict n_predict max_input_tokens fallbacks
    webhook callback_url""".split()  # noqa: SIM905
)
_EXTRA_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MOST_EXTRA, LONGEST_EXTRA = 20, 256


def problem_with_extra(names: Collection[str]) -> str:
    """Why these cannot be fields that an endpoint takes beside the known ones; empty where they can."""
    for name in names:
        if not _EXTRA_NAME.fullmatch(name):
            return f"{name[:64]!r} is no name of a field: small letters, digits and underscores, 64 at most."
        if name in _NEVER or name in _ANYWHERE or name in _WITHOUT_EFFECT:
            return f"{name} is known, or may make a call dearer than it was counted."
    return f"At most {MOST_EXTRA} fields." if len(names) > MOST_EXTRA else ""


def is_extra_value(value: Any) -> bool:
    """What such a field may hold: a number, a flag, or a short text."""
    return isinstance(value, bool | int | float) or (isinstance(value, str) and len(value.encode()) <= LONGEST_EXTRA)


def without_effect(payload: Mapping[str, Any]) -> list[str]:
    """Fields that nobody here knows, with a value that changes nothing."""
    return [name for name, value in _WITHOUT_EFFECT.items() if payload.get(name) == value]


def of_others(names: Iterable[str], *, kind: str) -> list[str]:
    """Fields that only requests of other kinds have: this one is sent on without them."""
    return [name for name in names if name not in KNOWN[kind]]
