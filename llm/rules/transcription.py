"""Transcriptions: a form with audio in it, bounded by its seconds before the call and counted by them after. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from governance.rules.calls import Usage
from llm.rules import forms, packed_sound
from llm.rules.bounds import UnboundedInput
from llm.rules.client_requests import Request
from llm.rules.estimates import UNMEASURED, Estimate
from llm.rules.mistral_dialect import PROVIDER
from llm.rules.request_checks import DialectError
from llm.rules.usage import count

KIND = "transcription"
UNIT = "audio_second"
# Endpoints count sound up, some to whole minutes: so much of it is held for.
COUNTED_BY = 60
# The longest that Mistral takes.
MAX_SECONDS = 10_800
# Bits a second that other audio than WAV is taken to have. None: silence packs hours into a few bytes (FLAC, Opus), so
# all of it counts as the longest. No codec spends under 2,000 on speech, for those who trust their callers that far.
MIN_BITRATE = 0

ONCE = (
    "model",
    "file",
    "file_url",
    "file_id",
    "stream",
    "language",
    "temperature",
    "speaker_references",
    "response_format",
)
# More of Mistral's, some of which may be there more than once, and what OpenAI's clients send.
_MORE = ("diarize", "context_bias", "timestamp_granularities", "prompt")
KNOWN = frozenset({*ONCE, *_MORE, *(f"{name}[]" for name in _MORE)})
# What an answer may come as: of a text alone nobody could tell what it used.
_FORMATS = (b"", b"json", b"verbose_json")
# The bits that a sample has of PCM, floats, A-law and mu-law; "extensible" says further on which of them.
_WAV_SAMPLE_BITS = {1: (8, 16, 24, 32, 64), 3: (32, 64), 6: (8,), 7: (8,)}
_WAV_EXTENSIBLE, _WAV_GUID = 0xFFFE, bytes.fromhex("000000001000800000aa00389b71")
# What speech is recorded in. Of another header a reader may make something else, or what is packed in it is too much.
_WAV_RATES, _WAV_MOST_CHANNELS = range(8_000, 48_001), 2
# Some readers take the first, others the last part that is called data; samples may have the word by chance.
_WAV_DATA, _WAV_MOST_DATA = re.compile(b"data"), 4


def parse(body: bytes, content_type: str) -> Request:
    """Read a form; what goes on is written from what was read in it. Raises DialectError."""
    fields = forms.read(body, content_type)
    for field in fields:
        if field.name not in KNOWN:
            raise DialectError(
                f"`{field.name}` is not known here, so its cost cannot be bounded: leave it out.",
                field.name,
                "unknown_field",
            )
    found = {field.name: field for field in fields}
    for name in ONCE:
        if sum(field.name == name for field in fields) > 1:
            raise DialectError(f"`{name}` is there twice.", name)
    payload: dict[str, Any] = {name: body[field.start : field.stop] for name, field in found.items() if name in ONCE}
    model = payload.get("model", b"").decode(errors="replace").strip()
    if not model:
        raise DialectError("`model` is missing.", "model", "missing_field")
    sources = [name for name in ("file", "file_url", "file_id") if payload.get(name)]
    if len(sources) != 1:
        raise DialectError("One of `file`, `file_url` and `file_id` is needed.", "file", "missing_field")
    if payload.get("stream", b"").strip().lower() not in (b"", b"false"):
        raise DialectError(
            "Transcriptions are not streamed here: leave `stream` out.", "stream", "stream_not_supported"
        )
    if payload.get("response_format", b"").strip().lower() not in _FORMATS:
        raise DialectError(
            "Transcriptions come as JSON here, which says what was used: leave `response_format` out.",
            "response_format",
        )
    form = forms.write(fields, body)
    return Request(
        body=form.body,
        payload=payload,
        model=model,
        kind=KIND,
        content_type=form.content_type,
        model_at=form.values[fields.index(found["model"])],
    )


def estimate(
    payload: Mapping[str, Any],
    *,
    max_seconds: int = MAX_SECONDS,
    min_bitrate: int = MIN_BITRATE,
    reserve_unbounded: bool = False,
) -> Estimate:
    """The seconds that a form's audio may be charged as, at most. Raises UnboundedInput and DialectError.

    `reserve_unbounded`: audio that is elsewhere counts as `max_seconds` instead of being refused.
    """
    for name in ("file_url", "file_id"):
        if payload.get(name) and not reserve_unbounded:
            raise UnboundedInput("Audio that is not in the request", name)
    seconds = max_seconds
    if payload.get("file"):
        seconds = seconds_at_most(payload["file"], max_seconds=max_seconds, min_bitrate=min_bitrate)
        # Samples of the speakers' voices are audio, too.
        samples = payload.get("speaker_references") or b""
        seconds = min(max_seconds, seconds + _by_size(len(samples), max_seconds, min_bitrate) * bool(samples))
    asked = frozenset({UNMEASURED} if seconds >= max_seconds else ())
    counted = -(-seconds // COUNTED_BY) * COUNTED_BY
    return Estimate(kind=KIND, text_tokens=0, unit=UNIT, units=counted, most_units=max_seconds, asked=asked)


def seconds_at_most(file: bytes, *, max_seconds: int, min_bitrate: int) -> int:
    """Of WAV the true length, rounded up; of anything else `max_seconds`, or what it has at `min_bitrate` a second.

    At most `max_seconds`, which a WAV must not exceed (DialectError): a hold for less would be too small. No other
    container is believed: what its header says need not be what is in it.
    """
    exact = _wav_seconds(file)
    if exact is None:
        return _by_size(len(file), max_seconds, min_bitrate)
    if exact > max_seconds:
        raise DialectError(
            f"The audio has {exact} seconds; at most {max_seconds} are allowed.", "file", "audio_too_long"
        )
    return max(1, exact)


def read_seconds(answer: Any, *, model: str = "") -> Usage | None:
    """The seconds that an answer says it was made of, the most of them; None where it does not say."""
    if not isinstance(answer, dict):
        return None
    usage = answer["usage"] if isinstance(answer.get("usage"), dict) else {}
    # Mistral's; OpenAI's and Groq's; what OpenAI's long form says of the sound.
    seconds_of_usage = usage.get("seconds") if usage.get("type") == "duration" else None
    spelled = (usage.get("prompt_audio_seconds"), seconds_of_usage, answer.get("duration"))
    seconds = _longest(spelled)
    if not seconds:
        return None
    served = answer.get("model")
    return Usage(
        provider=PROVIDER,
        model=served if isinstance(served, str) and served else model,
        unit=UNIT,
        units=int(-(-seconds // 1)),
    )


def shown_seconds(answer: Any) -> int:
    """The seconds at which the last part of an answer ends, rounded up.

    None where it tells of as many itself; less than one more is how it has rounded them.
    """
    if not isinstance(answer, dict):
        return 0
    parts = [part for name in ("segments", "words") if isinstance(answer.get(name), list) for part in answer[name]]
    seconds = _longest(part.get("end") for part in parts if isinstance(part, dict))
    told = read_seconds(answer)
    return 0 if told is not None and seconds < told.units + 1 else int(-(-seconds // 1))


def _longest(values: Iterable[Any]) -> float:
    """The most seconds of these, of those that are a time; 0 where none is."""
    told = (value if isinstance(value, float) else count(value) for value in values)
    return max((value for value in told if value is not None and 0 < value < 2**40), default=0)


def _by_size(size_bytes: int, max_seconds: int, min_bitrate: int) -> int:
    return min(max_seconds, -(-size_bytes * 8 // min_bitrate)) if min_bitrate else max_seconds


def _wav_seconds(file: bytes) -> int | None:
    """How long an uncompressed WAV is: all bytes from its data on, at its own rate. None for anything else."""
    if file[:4] != b"RIFF" or file[8:12] != b"WAVE" or _is_recorders(file):
        return None
    at, bits_per_second = 12, 0
    while at + 8 <= len(file):
        name, size, start = file[at : at + 4], _number(file[at + 4 : at + 8]), at + 8
        if name == b"fmt ":
            bits_per_second = _wav_bits_per_second(file[start : start + size])
        if name == b"data":
            if not bits_per_second or _may_mean_else(file, start):
                return None
            # What the header says of the data's size may be wrong; the bytes that are there cannot be.
            return -(-(len(file) - start) * 8 // bits_per_second)
        at = start + size + size % 2
    return None


def _may_mean_else(file: bytes, start: int) -> bool:
    """Whether a reader may find other sound in a WAV than plain samples from `start` on.

    By another count of a header's bytes there may be another description in it (XMA2 is one of compressed sound).
    """
    head = file[:start]
    if head.count(b"fmt ") != 1 or head.count(b"data") != 1 or b"XMA2" in head:
        return True
    starts = [start, *(found.end() + 4 for found in _WAV_DATA.finditer(file, start))]
    return len(starts) > _WAV_MOST_DATA or any(
        packed_sound.is_packed(file[at : at + packed_sound.LOOKED_AT_BYTES]) for at in starts
    )


def _is_recorders(file: bytes) -> bool:
    """Whether ffmpeg takes it for ACT, in which voice recorders pack sound a hundred times: nothing but zeros, and then
    a mark, where a WAV has its first samples (libavformat/act.c)."""
    return file[256:257] == b"\x84" and not any(file[44:256])


def _wav_bits_per_second(described: bytes) -> int:
    """Zero for what is compressed or makes no sense."""
    kind, channels, rate = (_number(described[at:stop]) for at, stop in ((0, 2), (2, 4), (4, 8)))
    frame_bytes, sample_bits = (_number(described[at:stop]) for at, stop in ((12, 14), (14, 16)))
    if kind == _WAV_EXTENSIBLE and described[26:40] == _WAV_GUID:
        kind = _number(described[24:26])
    if sample_bits not in _WAV_SAMPLE_BITS.get(kind, ()) or rate not in _WAV_RATES or channels > _WAV_MOST_CHANNELS:
        return 0
    # Readers go by the one or the other.
    return rate * frame_bytes * 8 if frame_bytes * 8 == channels * sample_bits else 0


def _number(data: bytes) -> int:
    return int.from_bytes(data, "little")
