"""Audio: its seconds are bounded before the call, and never below what they are."""

from __future__ import annotations

import io
import struct
import wave
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.rules import client_requests, mistral_dialect, transcription
from llm.rules.bounds import UnboundedInput
from llm.rules.request_checks import DialectError
from tests.llm.rules.test_forms import KIND, form, named

# MP3 of 8 kbit/s, in two channels at 16,000 Hz: 36 milliseconds each.
FRAMES = (b"\xff\xf3\x18\xc4" + bytes(32)) * 40
LIMITS = {"max_seconds": 10_800, "min_bitrate": 2_000}


def wav(frames: int, *, rate: int = 8_000, channels: int = 1, width: int = 2) -> bytes:
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(bytes(frames * channels * width))
    return sound.getvalue()


def described(kind: int = 1, *, rate: int = 8_000, channels: int = 1, bits: int = 16, more: bytes = b"") -> bytes:
    frame = channels * bits // 8
    return struct.pack("<HHIIHH", kind, channels, rate, rate * frame, frame, bits) + more


def extensible(kind: int, *, bits: int = 16, guid: str = "000000001000800000aa00389b71") -> bytes:
    return described(0xFFFE, bits=bits, more=bytes(8) + struct.pack("<H", kind) + bytes.fromhex(guid))


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    parts = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WAVE" + parts


def parsed(*parts: tuple[str, bytes]) -> client_requests.Request:
    return transcription.parse(form((named("model"), b"voxtral"), *parts), KIND)


def file_part(data: bytes) -> tuple[str, bytes]:
    return named("file", '; filename="a.wav"'), data


@pytest.mark.parametrize(
    "name", ["FILE", "file[]", "audio", "url", "speaker_references[]", "known_speaker_references[]", "model[]", "note"]
)
def test_a_field_that_is_not_known_is_refused(name: str) -> None:
    with pytest.raises(DialectError) as caught:
        parsed(file_part(wav(8_000)), (named(name), b"x"))
    assert (caught.value.code, caught.value.param) == ("unknown_field", name)


def test_what_clients_send_beside_the_sound_is_known() -> None:
    names = [
        "language",
        "temperature",
        "diarize",
        "context_bias",
        "context_bias",
        "prompt",
        "timestamp_granularities[]",
    ]
    request = parsed(file_part(wav(8_000)), *((named(name), b"1") for name in names))
    assert all(request.body.count(f'name="{name}"'.encode()) == names.count(name) for name in names)


def test_the_model_that_was_counted_is_the_one_that_is_named() -> None:
    request = transcription.parse(form((named("model"), b" voxtral\n"), file_part(wav(8_000))), KIND)
    body = mistral_dialect.apply(request, model="voxtral")
    assert b'name="model"\r\n\r\nvoxtral\r\n' in body
    assert mistral_dialect.apply(request, model="other").count(b"voxtral") == 0


@given(
    frames=st.integers(1, 30_000),
    rate=st.sampled_from([8_000, 11_025, 16_000, 44_100, 48_000]),
    channels=st.integers(1, 2),
    width=st.sampled_from([1, 2, 3, 4]),
)
def test_a_wav_is_bounded_by_its_true_length_rounded_up(frames: int, rate: int, channels: int, width: int) -> None:
    file = wav(frames, rate=rate, channels=channels, width=width)
    # A chunk is padded to an even size.
    longest = -(-(frames + 1) // rate)

    seconds = transcription.seconds_at_most(file, max_seconds=10**9, min_bitrate=2_000)

    assert -(-frames // rate) <= seconds <= longest


@given(data=st.binary(min_size=1, max_size=4_000), bitrate=st.integers(2_000, 320_000))
def test_other_audio_is_bounded_at_any_bit_rate_from_the_least_on(data: bytes, bitrate: int) -> None:
    file = b"\xff\xfb" + data
    seconds = len(file) * 8 / bitrate

    assert transcription.seconds_at_most(file, **LIMITS) >= seconds


@given(said=st.integers(0, 2**32 - 1), frames=st.integers(1, 20_000))
def test_the_size_that_a_header_claims_counts_for_nothing(said: int, frames: int) -> None:
    file = bytearray(wav(frames))
    file[40:44] = struct.pack("<I", said)

    assert transcription.seconds_at_most(bytes(file), **LIMITS) == -(-frames // 8_000)


@pytest.mark.parametrize(
    ("chunks", "seconds"),
    [
        ([(b"fmt ", described()), (b"LIST", b"x" * 50_001), (b"data", bytes(16_000))], 1),
        ([(b"fmt ", described()), (b"data", bytes(8_000)), (b"data", bytes(24_000))], 3),
        ([(b"fmt ", extensible(1)), (b"data", bytes(16_000))], 1),
        ([(b"fmt ", extensible(3, bits=32)), (b"data", bytes(32_000))], 1),
    ],
)
def test_of_a_wav_everything_from_its_data_on_counts(chunks: list[tuple[bytes, bytes]], seconds: int) -> None:
    assert transcription.seconds_at_most(riff(*chunks), **LIMITS) == seconds


@pytest.mark.parametrize(("kind", "bits"), [(1, 16), (3, 32), (6, 8), (7, 8)], ids=["pcm", "floats", "a-law", "mu-law"])
def test_a_wav_of_each_kind_that_is_not_compressed_is_measured(kind: int, bits: int) -> None:
    file = riff((b"fmt ", described(kind, bits=bits)), (b"data", bytes(2 * 8_000 * bits // 8)))
    assert transcription.seconds_at_most(file, **LIMITS) == 2


@pytest.mark.parametrize(
    "file",
    [
        riff((b"fmt ", described(85)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(rate=0)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(channels=0)), (b"data", bytes(4_000))),
        riff((b"fmt ", described()[:10]), (b"data", bytes(4_000))),
        riff((b"data", bytes(4_000)), (b"fmt ", described())),
        riff((b"fmt ", described(rate=192_000)), (b"fmt ", described()), (b"data", bytes(4_000))),
        riff((b"LIST", bytes(4_000))),
        # Rates, channels and samples that nobody records: a reader would make something else of them.
        riff((b"fmt ", described(rate=48_001)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(rate=7_999)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(channels=3)), (b"data", bytes(4_000))),
        # A frame of another size than its samples have: readers go by the one or the other.
        riff((b"fmt ", described()[:12] + struct.pack("<HH", 1, 16)), (b"data", bytes(4_000))),
        riff((b"fmt ", described()[:12] + struct.pack("<HH", 4, 16)), (b"data", bytes(4_000))),
        # A sample of A-law is a byte, whatever is said of its bits.
        riff((b"fmt ", described(6, bits=64)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(7, bits=16)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(3)), (b"data", bytes(4_000))),
        riff((b"fmt ", extensible(1, guid="1" * 28)), (b"data", bytes(4_000))),
        # What a reader finds that counts the header's bytes otherwise.
        riff((b"XMA2", bytes(40)), (b"fmt ", described()), (b"data", bytes(4_000))),
        riff((b"fmt ", described()), (b"LIST", b"data" + bytes(8)), (b"data", bytes(4_000))),
        riff((b"fmt ", described()), *[(b"data", bytes(1_000))] * 5),
        riff((b"fmt ", described(bits=12)), (b"data", bytes(4_000))),
        riff((b"fmt ", described(bits=48)), (b"data", bytes(4_000))),
        b"RIFF" + bytes(4) + b"WAVE" + b"x" * 4_000,
        b"ID3" + bytes(4_000),
    ],
)
def test_what_is_compressed_or_odd_counts_at_the_least_bit_rate(file: bytes) -> None:
    assert transcription.seconds_at_most(file, **LIMITS) == -(-len(file) * 8 // 2_000)
    assert transcription.seconds_at_most(file, max_seconds=10, min_bitrate=2_000) == 10
    assert transcription.seconds_at_most(file, max_seconds=900, min_bitrate=0) == 900


@given(file=st.binary(max_size=100))
def test_no_file_breaks_the_bound(file: bytes) -> None:
    for data in (file, b"RIFF0000WAVE" + file, b"RIFF0000WAVEfmt \x10\0\0\0" + file):
        try:
            seconds = transcription.seconds_at_most(data, **LIMITS)
        except DialectError:
            continue
        assert 0 <= seconds <= 10_800


def test_a_wav_longer_than_allowed_is_refused_with_its_length() -> None:
    file = wav(80_001)

    assert transcription.seconds_at_most(file, max_seconds=11, min_bitrate=2_000) == 11
    with pytest.raises(DialectError, match="11 seconds; at most 10") as caught:
        transcription.seconds_at_most(file, max_seconds=10, min_bitrate=2_000)
    assert (caught.value.param, caught.value.code) == ("file", "audio_too_long")


def test_voices_that_come_along_count_as_audio() -> None:
    voices = (named("speaker_references"), b"x" * 1_000)

    assert transcription.estimate(parsed(file_part(wav(8_000))).payload).units == 60
    long = parsed(file_part(wav(8_000 * 60)), voices).payload
    assert transcription.estimate(long, min_bitrate=2_000).units == 120
    assert transcription.estimate(parsed(file_part(wav(8_000)), voices).payload).units == 10_800


@pytest.mark.parametrize(
    "head",
    [b"fLaC\0\0\0\x22", b"OggS\0\2", b"ID3\4", b"\xff\xfb", b"\0\0\0\x20ftypM4A ", b"\x1aE\xdf\xa3", b"RF64", b"x"],
)
def test_audio_that_is_no_wav_is_held_for_at_its_longest_however_small_it_is(head: bytes) -> None:
    payload = parsed(file_part(head + bytes(20))).payload

    assert transcription.estimate(payload).units == 10_800
    assert transcription.estimate(payload, max_seconds=60).units == 60


@pytest.mark.parametrize("name", ["file_url", "file_id"])
def test_audio_that_is_elsewhere_has_no_bound(name: str) -> None:
    payload = parsed((named(name), b"https://example.com/a.mp3")).payload

    with pytest.raises(UnboundedInput) as caught:
        transcription.estimate(payload)
    assert caught.value.param == name
    estimate = transcription.estimate(payload, max_seconds=600, reserve_unbounded=True)
    assert (estimate.kind, estimate.unit, estimate.units) == ("transcription", "audio_second", 600)
    assert (estimate.text_tokens, estimate.max_tokens) == (0, None)


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([], "file"),
        ([file_part(b"")], "file"),
        ([file_part(b"a"), file_part(b"b")], "file"),
        ([file_part(b"a"), (named("file_url"), b"https://e.com")], "file"),
        ([file_part(b"a"), (named("model"), b"other")], "model"),
        ([file_part(b"a"), (named("stream"), b"True")], "stream"),
        ([file_part(b"a"), (named("response_format"), b"srt")], "response_format"),
        ([file_part(b"a"), (named("language"), b"de"), (named("language"), b"fr")], "language"),
    ],
)
def test_a_form_that_is_not_clear_is_refused_naming_the_field(parts: list[tuple[str, bytes]], param: str) -> None:
    with pytest.raises(DialectError) as caught:
        parsed(*parts)
    assert caught.value.param == param


def test_a_form_without_a_model_is_refused() -> None:
    with pytest.raises(DialectError) as caught:
        transcription.parse(form(file_part(b"a")), KIND)
    assert (caught.value.param, caught.value.code) == ("model", "missing_field")


def test_only_the_models_name_is_written_into_a_form() -> None:
    request = parsed(file_part(b"voxtral\r\n--edg"), (named("stream"), b"false"))

    assert mistral_dialect.apply(request, model="voxtral") is request.body
    renamed = mistral_dialect.apply(request, model="voxtral-mini-2602")
    assert renamed == request.body.replace(b"voxtral", b"voxtral-mini-2602", 1)
    assert transcription.parse(renamed, request.content_type).payload["file"] == b"voxtral\r\n--edg"


@pytest.mark.parametrize(
    ("usage", "seconds"),
    [
        ({"prompt_audio_seconds": 7}, 7),
        ({"prompt_audio_seconds": 7.2}, 8),
        ({"prompt_audio_seconds": 0}, None),
        ({"prompt_audio_seconds": -1}, None),
        ({"prompt_audio_seconds": True}, None),
        ({"prompt_audio_seconds": "7"}, 7),
        ({"prompt_audio_seconds": "20000"}, 20_000),
        ({"prompt_audio_seconds": "7.2"}, None),
        ({"prompt_audio_seconds": -0.5}, None),
        ({"prompt_audio_seconds": float("nan")}, None),
        ({"prompt_audio_seconds": float("inf")}, None),
        ({"prompt_audio_seconds": 2**70}, None),
        ({"prompt_audio_seconds": {}}, None),
        ({"prompt_audio_seconds": 1e300}, None),
        ({"prompt_tokens": 7}, None),
        ({}, None),
        (None, None),
    ],
)
def test_seconds_are_read_from_an_answer_or_nothing_is(usage: Any, seconds: int | None) -> None:
    read = transcription.read_seconds({"model": "served", "usage": usage}, model="asked")

    assert (None if read is None else read.units) == seconds
    if read is not None:
        assert (read.model, read.unit) == ("served", "audio_second")
    assert transcription.read_seconds([], model="asked") is None


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"usage": {"type": "duration", "seconds": 5}}, 5),
        ({"usage": {"type": "tokens", "seconds": 5}}, None),
        ({"text": "hi", "duration": 8.47}, 9),
        # The longest of those that it tells.
        ({"usage": {"prompt_audio_seconds": 3}, "duration": 8.47}, 9),
        ({"usage": {"prompt_audio_seconds": 30}, "duration": "?"}, 30),
        ({"usage": {"prompt_audio_seconds": 0}, "duration": -1.0}, None),
        ({"usage": "much"}, None),
    ],
)
def test_seconds_are_read_as_openai_and_groq_spell_them_too(answer: Any, seconds: int | None) -> None:
    found = transcription.read_seconds(answer)
    assert (None if found is None else found.units) == seconds


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        ({"usage": {"prompt_audio_seconds": 1}, "segments": [{"end": 4.5}, {"end": 3_600}]}, 3_600),
        ({"usage": {"prompt_audio_seconds": 1}, "words": [{"end": 59.2}, {"end": 3}], "segments": []}, 60),
        ({"segments": [{"end": 4.5}]}, 5),
        # How it has rounded them.
        ({"usage": {"prompt_audio_seconds": 7}, "segments": [{"end": 7.9}]}, 0),
        ({"usage": {"prompt_audio_seconds": 7}, "segments": [{"end": 8.0}]}, 8),
        ({"segments": [{"end": float("inf")}, {"end": True}, {"end": "?"}, {}, 7], "words": 7}, 0),
        ({}, 0),
        ([], 0),
    ],
)
def test_seconds_are_shown_by_where_the_last_part_of_an_answer_ends(answer: Any, seconds: int) -> None:
    assert transcription.shown_seconds(answer) == seconds


def test_what_a_voice_recorder_packs_is_no_wav_although_it_begins_like_one() -> None:
    """ffmpeg reads 8 kbit/s of it, whatever its header says."""
    head = wav(0, rate=8_000, channels=2)[:44]
    recorded = head + bytes(212) + b"\x84" + bytes(80_000)
    silence = head + bytes(213 + 80_000)
    assert transcription.seconds_at_most(recorded, max_seconds=7_200, min_bitrate=8_000) == -(-len(recorded) // 1_000)
    assert transcription.seconds_at_most(silence, max_seconds=7_200, min_bitrate=8_000) == 3


@pytest.mark.parametrize("head", [(), ((b"LIST", b"x" * 9),)], ids=["plain", "with a list"])
@pytest.mark.parametrize("bits", [8, 16, 24])
def test_frames_where_a_header_says_plain_samples_are_no_plain_samples(
    bits: int, head: tuple[tuple[bytes, bytes], ...]
) -> None:
    """ffmpeg decodes them: 10 kB of a WAV were two minutes."""
    file = riff((b"fmt ", described(bits=bits, rate=48_000)), *head, (b"data", FRAMES))
    assert transcription.seconds_at_most(file, max_seconds=900, min_bitrate=0) == 900


def test_frames_in_a_second_part_of_data_count_too() -> None:
    """The last one is read by ffmpeg."""
    file = riff((b"fmt ", described()), (b"data", bytes(2**20 + 1)), (b"data", FRAMES))
    assert transcription.seconds_at_most(file, max_seconds=900, min_bitrate=0) == 900
