from llm.rules.capabilities import CAPABILITIES, KINDS


def test_the_words_that_catalogues_and_routing_files_may_use() -> None:
    assert sorted(KINDS) == ["chat", "embedding", "fim", "moderation", "ocr", "transcription"]
    assert sorted(set(CAPABILITIES) - set(KINDS)) == ["audio", "json", "reasoning", "tools", "vision"]
    assert set(KINDS) <= set(CAPABILITIES)
