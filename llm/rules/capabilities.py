"""What a model can be asked to do: words of the catalogue, of routing rules and of what a request needs."""

# What an agent runs itself, in place of a model.
TOOL = "tool"
KINDS = ("chat", "fim", "embedding", "ocr", "moderation", "transcription", TOOL)
CAPABILITIES = (
    "chat",
    "fim",
    "tools",
    "json",
    "vision",
    "reasoning",
    "audio",
    "embedding",
    "ocr",
    "moderation",
    "transcription",
)
