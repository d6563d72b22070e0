from django.apps import AppConfig
from django.core import checks


class LlmConfig(AppConfig):
    name = "llm"
    verbose_name = "Models and gateway"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from llm.checks import routing_file

        checks.register(routing_file)
