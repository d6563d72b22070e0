from datetime import UTC, datetime

from django.db import migrations

# The catalogue as it was shipped when this migration was made, in the order of its file:
# model, aliases, kinds, capabilities, context in tokens, status, day from which its prices count (None: since before
# our records), picodollars a unit, source.
ROWS = [
    ("mistral-medium-3-5", "mistral-medium-2604 mistral-medium-latest mistral-medium-3",
     "chat", "chat tools json vision reasoning", 256_000, "ga", "2026-06-16",
     {"input": 1_500_000, "cached_input": 150_000, "output": 7_500_000},
     "docs 2026-08; genai-prices 0.2.3; litellm 1.109"),
    ("mistral-large-2512", "mistral-large-latest mistral-large-3",
     "chat", "chat tools json vision", 256_000, "ga", None,
     {"input": 500_000, "cached_input": 50_000, "output": 1_500_000},
     "docs 2026-08; litellm 1.109 (genai-prices bills the alias at 2/6: stale)"),
    ("mistral-large-4", "mistral-large-4-0",
     "chat", "chat tools json vision reasoning", 1_000_000, "preview", "2026-10-29",
     {"input": 700_000, "cached_input": 70_000, "output": 2_100_000},
     "genai-prices 0.2.3 (litellm says 1.36/4.18; opt-in until confirmed)"),
    ("mistral-small-2603", "mistral-small-latest",
     "chat", "chat tools json vision reasoning", 256_000, "ga", "2026-03-16",
     {"input": 150_000, "cached_input": 15_000, "output": 600_000},
     "docs 2026-08; genai-prices 0.2.3; litellm 1.109"),
    ("ministral-14b-2512", "ministral-14b-latest",
     "chat", "chat tools json vision", 256_000, "ga", None,
     {"input": 200_000, "cached_input": 20_000, "output": 200_000},
     "litellm 1.109; genai-prices 0.2.3"),
    ("ministral-8b-2512", "ministral-8b-latest",
     "chat", "chat tools json vision", 256_000, "ga", None,
     {"input": 150_000, "cached_input": 15_000, "output": 150_000},
     "litellm 1.109; genai-prices 0.2.3"),
    ("ministral-3b-2512", "ministral-3b-latest",
     "chat", "chat tools json vision", 128_000, "ga", None,
     {"input": 100_000, "cached_input": 10_000, "output": 100_000},
     "litellm 1.109; genai-prices 0.2.3"),
    ("codestral-2508", "codestral-latest",
     "chat fim", "chat fim tools json", 128_000, "ga", None,
     {"input": 300_000, "cached_input": 30_000, "output": 900_000},
     "docs 2026-08; litellm 1.109"),
    ("voxtral-small-2507", "voxtral-small-latest",
     "chat", "chat audio", 32_000, "ga", "2026-08-11",
     {"input": 100_000, "cached_input": 10_000, "output": 400_000},
     "genai-prices 0.2.3"),
    ("voxtral-small-2507", "voxtral-small-latest",
     "chat", "chat audio", 32_000, "ga", "2026-08-11",
     {"audio_second": 66_666_667},
     "genai-prices 0.2.3"),
    ("voxtral-mini-2602", "voxtral-mini-latest",
     "transcription", "transcription", None, "ga", None,
     {"audio_second": 50_000_000},
     "genai-prices 0.2.3 (0.003 USD a minute)"),
    ("voxtral-mini-2507", "",
     "transcription", "transcription", None, "ga", None,
     {"audio_second": 33_333_334},
     "unconfirmed (0.002 USD a minute)"),
    ("mistral-embed", "",
     "embedding", "embedding", 8_000, "ga", None,
     {"input": 100_000, "output": 0},
     "docs 2026-08; litellm 1.109"),
    ("codestral-embed", "codestral-embed-2505",
     "embedding", "embedding", 8_000, "ga", None,
     {"input": 150_000, "output": 0},
     "docs 2026-08; litellm 1.109"),
    ("mistral-ocr-4-1", "mistral-ocr-latest",
     "ocr", "ocr", None, "ga", None,
     {"page": 4_000_000_000},
     "docs 2026-08"),
    ("mistral-ocr-4-1", "mistral-ocr-latest",
     "ocr", "ocr", None, "ga", None,
     {"annotated_page": 5_000_000_000},
     "docs 2026-08"),
    ("mistral-moderation-2603", "mistral-moderation-latest",
     "moderation", "moderation", None, "ga", None,
     {"input": 0, "output": 0},
     "docs 2026-08 (listed as moderation-2603; free)"),
]
# 55 rows of 55 patches and a row mark each: the most that a model made of one picture.
IMAGE_TOKENS = 3_080


def load(apps, schema_editor):
    """Adds what is missing; what an operator has changed stays."""
    models, aliases, prices = (apps.get_model("llm", name) for name in ("Model", "ModelAlias", "Price"))
    for name, also, kinds, capabilities, context_tokens, status, since, picos, source in ROWS:
        described = {
            "kinds": kinds.split(),
            "capabilities": capabilities.split(),
            "context_tokens": context_tokens,
            "status": status,
        }
        if "vision" in capabilities.split():
            described["image_tokens"] = IMAGE_TOKENS
        model, _ = models.objects.get_or_create(provider="mistral", name=name, defaults=described)
        for alias in also.split():
            aliases.objects.get_or_create(provider="mistral", name=alias, defaults={"model": model})
        for unit, picos_per_unit in picos.items():
            prices.objects.get_or_create(
                model=model,
                unit=unit,
                currency="USD",
                zone="global",
                tier="standard",
                batch=False,
                effective_from=since and datetime.fromisoformat(since).replace(tzinfo=UTC),
                supersedes=None,
                defaults={"picos_per_unit": picos_per_unit, "source": source},
            )


class Migration(migrations.Migration):
    dependencies = [("llm", "0004_prices_of_several_providers")]
    operations = [migrations.RunPython(load, migrations.RunPython.noop)]
