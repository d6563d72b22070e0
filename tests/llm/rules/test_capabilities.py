from llm.rules.capabilities import CAPABILITIES, KINDS, TOOL


def test_the_words_that_catalogues_and_routing_files_may_use() -> None:
    assert sorted(KINDS) == ["chat", "embedding", "fim", "moderation", "ocr", "tool", "transcription"]
    assert sorted(set(CAPABILITIES) - set(KINDS)) == ["audio", "json", "reasoning", "tools", "vision"]
    # An agent runs a tool itself: no model is asked for it.
    assert set(KINDS) - {TOOL} <= set(CAPABILITIES)
