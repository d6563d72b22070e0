"""What a model can be asked to do: words of the catalogue, of routing rules and of what a request needs."""

KINDS = ("chat", "fim", "embedding", "ocr", "moderation", "transcription")
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
