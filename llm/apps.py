from django.apps import AppConfig


class LlmConfig(AppConfig):
    name = "llm"
    verbose_name = "Models and gateway"
    default_auto_field = "django.db.models.BigAutoField"
