"""All settings, read once from the environment. `.env.example` documents every variable."""

import os
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from config import __version__, celery, content_policy, database_urls, installation
from config import environment as check
from config.unfold import UNFOLD as UNFOLD

VERSION = __version__

env = check.Environment()
# A variable that is set already wins over the file.
check.read(os.environ.get("ENV_FILE") or installation.HOME / ".env", is_named=bool(os.environ.get("ENV_FILE")))

# One machine keeps everything it writes here: SQLite, the broker's folders, logs.
VAR_DIR = check.directory(env, "VAR_DIR", default=installation.HOME / "var")

DEBUG = check.boolean(env, "DEBUG", default=False)
SECRET_KEY = check.secret_key(env, debug=DEBUG, var_dir=VAR_DIR)
EARLIER_KEYS = check.secrets(env, "SECRET_KEY_FALLBACKS")
# One that can be guessed unseals providers' keys (governance/sealing.py), and signs nothing any more.
SECRET_KEY_FALLBACKS = [key for key in EARLIER_KEYS if DEBUG or not check.is_weak_key(key)]
WEAK_KEYS = [key for key in EARLIER_KEYS if key not in SECRET_KEY_FALLBACKS]
ALLOWED_HOSTS = check.names(env, "ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
APP_URL = check.url(env, "APP_URL", default="http://127.0.0.1:8000")
CSRF_TRUSTED_ORIGINS = [APP_URL]
# Web pages that may call /v1 from a browser; with DEBUG those of this machine, too.
CORS_ALLOWED_ORIGINS = check.origins(env, "CORS_ALLOWED_ORIGINS")

INSTALLED_APPS = [
    # The first, as its commands go before Django's.
    "config.apps.CompositionConfig",
    # Not its default one, which would put its own site in place of ours.
    "unfold.apps.BasicAppConfig",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "config.apps.ConsoleConfig",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    # The console's sign-in: limits and log of tries, and the second factor.
    "axes",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "csp",
    "governance",
    "llm",
    "billing",
]

MIDDLEWARE = [
    "config.middleware.GiveBackMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "config.middleware.ContentPolicyMiddleware",
    "config.middleware.PermissionsPolicyMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "config.middleware.RequestIdMiddleware",
    "config.middleware.TracingMiddleware",
    "config.middleware.Utf8Middleware",
    "config.middleware.QueryMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "config.middleware.SessionLimitsMiddleware",
    "config.middleware.SecondFactorMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    # It puts the page of who must wait in place of the sign-in page's answer.
    "axes.middleware.AxesMiddleware",
    "config.middleware.PasswordsMiddleware",
    # The last, as it calls the view itself.
    "config.replica_reads.ReplicaMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
# Every path works with and without a trailing slash; a redirect would lose a POST's body.
APPEND_SLASH = False
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [installation.TEMPLATES],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "libraries": {"trail": "config.console.trail"},
        },
    }
]

DATABASES = {"default": database_urls.database(env, var_dir=VAR_DIR)}
DATABASES |= database_urls.replica(env, primary=DATABASES["default"])
DATABASE_ROUTERS = ["governance.replica.Router"] if "replica" in DATABASES else []
# How far behind a replica may be that lists and pages are read from; it is looked at every two seconds.
REPLICA_MAX_LAG_S = check.seconds(env, "REPLICA_MAX_LAG_S", default=10, minimum=5)
# Read by `import_litellm` alone.
LITELLM_DATABASE_URL = check.url(env, "LITELLM_DATABASE_URL", default="", schemes=("postgresql", "postgres"))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
# An image brings them along, collected when it was built.
STATIC_ROOT = Path(env.str("STATIC_DIR", "").strip() or VAR_DIR / "static")
STATIC_ROOT.mkdir(exist_ok=True)
# With DEBUG, files come straight from the packages; collectstatic is for production.
WHITENOISE_USE_FINDERS = DEBUG
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
# The console's people: how they sign in, and for how long.
AUTHENTICATION_BACKENDS = ["config.backends.CountingBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = ["config.passwords.Hasher"]
VALIDATORS: dict[str, dict[str, Any]] = {
    "MinimumLengthValidator": {"min_length": 12},
    "UserAttributeSimilarityValidator": {},
    "CommonPasswordValidator": {},
    "NumericPasswordValidator": {},
}
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", "OPTIONS": options}
    for name, options in VALIDATORS.items()
]
# A name is locked for an address after so many wrong tries, so that nobody locks others out from afar.
AXES_FAILURE_LIMIT = check.whole(env, "SIGN_IN_TRIES", default=5, minimum=1, maximum=1_000)
# Whatever names they are of: a name that is new each time is never locked, and each try hashes a password.
SIGN_IN_TRIES_PER_ADDRESS = check.whole(env, "SIGN_IN_TRIES_PER_ADDRESS", default=100, minimum=1, maximum=100_000)
AXES_HANDLER = "config.backends.CountingHandler"
AXES_COOLOFF_TIME = timedelta(seconds=check.seconds(env, "SIGN_IN_LOCK_S", default=900, minimum=1))
# How long it is kept who signed in, and who tried to.
SIGN_INS_DAYS = check.whole(env, "SIGN_INS_DAYS", default=90, minimum=1, maximum=3_650)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "config.console.sign_in.counted_address"
AXES_LOCKOUT_CALLABLE = "config.console.sign_in.locked_out"
# The page says until when; a try meanwhile does not make it longer.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ACCESS_FAILURE_LOG = True
# Its tables have pages of ours.
AXES_ENABLE_ADMIN = False
# The log names who tried, and from where; passwords and codes are never in it.
AXES_SENSITIVE_PARAMETERS = ["password1", "password2", "old_password", "new_password1", "new_password2", "code"]
AXES_VERBOSE = False
OTP_TOTP_ISSUER = "Spend Governor"
REQUIRE_TOTP = check.boolean(env, "REQUIRE_TOTP", default=False)
SESSION_IDLE_S = check.seconds(env, "SESSION_IDLE_S", default=1_800, minimum=60)
SESSION_LIFETIME_S = check.seconds(env, "SESSION_LIFETIME_S", default=43_200, minimum=60)
SESSION_COOKIE_AGE = SESSION_LIFETIME_S
SESSION_ENGINE = "config.session_store"

SECURE_CONTENT_TYPE_NOSNIFF = True
CSRF_FAILURE_VIEW = "config.unknown_paths.no_csrf"
HTTPS = APP_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
# Whose word on the client's address and on https counts: uvicorn reads the same variable, `serve` hands it on.
FORWARDED_ALLOW_IPS = check.addresses(env, "FORWARDED_ALLOW_IPS")
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
# The proxy that ends TLS redirects to it, and whether subdomains follow is its owner's choice.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]
CONTENT_SECURITY_POLICY = {"DIRECTIVES": content_policy.DIRECTIVES}

# What anybody may send: bytes of bodies of calls, and of anything else; what JSON may hold; what a call may.
MAX_BODY_BYTES = check.whole(env, "MAX_BODY_BYTES", default=32 * 2**20, minimum=2**16, maximum=2**30)
DATA_UPLOAD_MAX_MEMORY_SIZE = check.whole(env, "MAX_API_BODY_BYTES", default=2 * 2**20, minimum=2**16, maximum=2**26)
# A body of that size stays in memory, and never becomes a file.
FILE_UPLOAD_MAX_MEMORY_SIZE = DATA_UPLOAD_MAX_MEMORY_SIZE
MAX_JSON_DEPTH = check.whole(env, "MAX_JSON_DEPTH", default=64, minimum=8, maximum=200)
MAX_JSON_VALUES = check.whole(env, "MAX_JSON_VALUES", default=200_000, minimum=1_000, maximum=10_000_000)
MAX_JSON_FIELDS = check.whole(env, "MAX_JSON_FIELDS", default=1_000, minimum=100, maximum=100_000)
MAX_TEXT_CHARACTERS = check.whole(env, "MAX_TEXT_CHARACTERS", default=32_000_000, minimum=1_000, maximum=2**30)
MAX_MESSAGES = check.whole(env, "MAX_MESSAGES", default=10_000, minimum=1, maximum=1_000_000)
MAX_CONTENT_PARTS = check.whole(env, "MAX_CONTENT_PARTS", default=1_000, minimum=1, maximum=100_000)
MAX_TOOLS = check.whole(env, "MAX_TOOLS", default=512, minimum=1, maximum=10_000)
# Of one key: how many large bodies are read and parsed at a time, what that takes of a processor, and how many bytes of
# them are held by its calls; and by those of a tenant, and of all.
LARGE_BODIES_PER_KEY = check.whole(env, "LARGE_BODIES_PER_KEY", default=2, minimum=1, maximum=100)
LARGE_BODY_PERCENT_PER_KEY = check.whole(env, "LARGE_BODY_PERCENT_PER_KEY", default=25, minimum=1, maximum=100)
LARGE_BODY_BYTES_PER_KEY = check.whole(
    env, "LARGE_BODY_BYTES_PER_KEY", default=256 * 2**20, minimum=2**16, maximum=2**35
)
LARGE_BODY_BYTES_PER_TENANT = check.whole(
    env, "LARGE_BODY_BYTES_PER_TENANT", default=256 * 2**20, minimum=2**16, maximum=2**35
)
LARGE_BODY_BYTES = check.whole(env, "LARGE_BODY_BYTES", default=512 * 2**20, minimum=2**16, maximum=2**36)
# How slowly requests may come: seconds for the header section, and of silence in a body.
HEADER_TIMEOUT_S = check.seconds(env, "HEADER_TIMEOUT_S", default=10, minimum=1)
BODY_TIMEOUT_S = check.seconds(env, "BODY_TIMEOUT_S", default=20, minimum=1)
MAX_HEADER_BYTES = check.whole(env, "MAX_HEADER_BYTES", default=2**16, minimum=2**13, maximum=2**20)

# Percent of a processor that what else one key, user or address asks for takes over time; a tenant's keys, twice that.
API_PERCENT_PER_KEY = check.whole(env, "API_PERCENT_PER_KEY", default=25, minimum=1, maximum=100)
# Calls of /api/llm/route that wait for a model at a time in a process, each in a thread: of a tenant half of what
# others leave, of a key a quarter.
ROUTED_CALLS = check.whole(env, "ROUTED_CALLS", default=100, minimum=4, maximum=10_000)
# Hourly sums that one summary of a tenant's key adds up.
SUMMARY_HOURLY_SUMS = check.whole(env, "SUMMARY_HOURLY_SUMS", default=200_000, minimum=1_000, maximum=10**9)

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "governance.api.authentication.KeyAuthentication",
        "governance.api.authentication.OperatorSession",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["governance.api.permissions.HasRole"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_PAGINATION_CLASS": "governance.api.pagination.NewestFirst",
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "governance.api.schema.Described",
    "EXCEPTION_HANDLER": "governance.api.errors.handle",
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Spend Governor",
    "DESCRIPTION": "Budgets, decisions and the spend ledger of AI agents.",
    "VERSION": VERSION,
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "PREPROCESSING_HOOKS": ["governance.api.schema.without_trailing_slashes"],
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        # /v1 is no part of Django.
        "llm.api.data_plane.describe",
        # Nor is what stands before it.
        "config.edge_api.describe",
        "config.api_examples.describe",
    ],
    # Fields of one name, and one set of values under several.
    "ENUM_NAME_OVERRIDES": {
        "SeverityEnum": "governance.models.alerts.Alert.Severity",
        "AlertChannelKindEnum": "governance.models.alerts.AlertChannel.Kind",
        "AlertDeliveryStateEnum": "governance.models.alerts.AlertDelivery.State",
        "ModelStatusEnum": "llm.api.models.STATUSES",
        "JobStateEnum": "config.health_api.JOB_STATES",
        "ReportScopeEnum": "governance.api.reports.SCOPES",
        "ScopeTypeEnum": "governance.models.budgets.ScopeType.values",
        "StateEnum": "billing.models.accounts.BillingAccount.State",
    },
    # The documentation's scripts come from a package, not from somebody else's server.
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# Celery: the broker's folders under VAR_DIR on one machine, Redis in production.
REDIS_URL = check.url(env, "REDIS_URL", default="", schemes=("redis", "rediss", "unix"))
CELERY_BROKER_URL = celery.broker_url(check.with_password(REDIS_URL, check.password(env, "REDIS_PASSWORD")))
# Longer than any task may run: Redis would hand a running one out again.
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600} if REDIS_URL else celery.folders(VAR_DIR)
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Fanned-out control messages of workers that are gone would fill the folders.
CELERY_WORKER_ENABLE_REMOTE_CONTROL = bool(REDIS_URL)
CELERY_WORKER_POOL = "prefork" if REDIS_URL else "threads"
CELERY_WORKER_CONCURRENCY = 2
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_IGNORE_RESULT = True
# Tasks can be run twice without harm, so a task is done only when it has ended.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_SOFT_TIME_LIMIT = 240
CELERY_TASK_TIME_LIMIT = 300
CELERY_TIMEZONE = TIME_ZONE
CELERY_BEAT_SCHEDULE = celery.schedule()
CELERY_BEAT_SCHEDULER = "config.schedule:Forgetful"

# The model side.
MISTRAL_API_KEY = check.api_key(env, "MISTRAL_API_KEY")
# Where the simulated Mistral listens; used only when there is no key and DEBUG is on.
SANDBOX_URL = check.url(env, "SANDBOX_URL", default="http://127.0.0.1:8010")
MISTRAL_API_BASE = check.api_base(
    env,
    "MISTRAL_API_BASE",
    default=SANDBOX_URL if DEBUG and not MISTRAL_API_KEY else "https://api.mistral.ai",
)
# The zones' models have names of their own: mistral-eu/mistral-small-latest.
MISTRAL_EU_API_KEY = check.api_key(env, "MISTRAL_EU_API_KEY") or MISTRAL_API_KEY
MISTRAL_EU_API_BASE = check.api_base(env, "MISTRAL_EU_API_BASE", default="https://api.eu.mistral.ai")
MISTRAL_US_API_KEY = check.api_key(env, "MISTRAL_US_API_KEY") or MISTRAL_API_KEY
MISTRAL_US_API_BASE = check.api_base(env, "MISTRAL_US_API_BASE", default="https://api.us.mistral.ai")
OPENAI_API_KEY = check.api_key(env, "OPENAI_API_KEY")
OPENAI_API_BASE = check.api_base(env, "OPENAI_API_BASE", default="https://api.openai.com/v1")
ANTHROPIC_API_KEY = check.api_key(env, "ANTHROPIC_API_KEY")
ANTHROPIC_API_BASE = check.api_base(env, "ANTHROPIC_API_BASE", default="https://api.anthropic.com")
# What providers' own cost reports are read with, to judge the ledger by; nothing is called with these.
OPENAI_ADMIN_KEY = check.api_key(env, "OPENAI_ADMIN_KEY")
ANTHROPIC_ADMIN_KEY = check.api_key(env, "ANTHROPIC_ADMIN_KEY")
OPENROUTER_ADMIN_KEY = check.api_key(env, "OPENROUTER_ADMIN_KEY")
OPENROUTER_API_BASE = check.api_base(env, "OPENROUTER_API_BASE", default="https://openrouter.ai/api/v1")
# How far a day of the ledger may be from its provider's report before operators are told.
PROVIDER_TOLERANCE_PERCENT = check.percentage(env, "PROVIDER_TOLERANCE_PERCENT", default=1)
PROVIDER_TOLERANCE_DOLLARS: Decimal | None = check.dollars(env, "PROVIDER_TOLERANCE_DOLLARS", default="0.01")
# Whether providers that operators add may be in this machine's own network.
PRIVATE_ENDPOINTS = check.boolean(env, "PRIVATE_ENDPOINTS", default=DEBUG)
# The models that calls are routed to; None: as the product ships it, llm/data/routing.yaml.
ROUTER_CONFIG = check.file(env, "ROUTER_CONFIG")
# What counts the tokens of which model exactly (the extra `tokenizers`); all others are counted by bytes.
TOKENIZERS = check.files_by_model(env, "TOKENIZERS")

# The proxy that providers and Stripe are called through: the environment's, unless it is named here, or none.
UPSTREAM_PROXY = check.proxy(env, "UPSTREAM_PROXY")
# Bytes of one model's answer, unpacked: what is longer is cut.
MAX_ANSWER_BYTES = check.whole(env, "MAX_ANSWER_BYTES", default=64 * 2**20, minimum=2**16, maximum=2**30)

# An API that gives its answer byte by byte keeps a call's hold for so long.
LONGEST_CALL_S = check.seconds(env, "LONGEST_CALL_S", default=3600, minimum=1)

# Of POST /api/llm/route, where the caller names neither a strategy nor a model.
DEFAULT_STRATEGY = check.secret(env, "DEFAULT_STRATEGY") or "cost-optimized"
# A client that does not read its stream is cut when so much waits for it, or for so long; a model's answer to a client
# that is gone is read to its end, to know what it used, or left.
STREAM_BUFFER_BYTES = check.whole(env, "STREAM_BUFFER_BYTES", default=1_048_576, maximum=2**30)
CLIENT_WRITE_TIMEOUT_S = check.seconds(env, "CLIENT_WRITE_TIMEOUT_S", default=30, minimum=1)
# A stream that its model has not begun after so long gets its headers and a comment, so that no balancer cuts it; from
# then on no other model can answer. 0: never.
SIGN_OF_LIFE_S = check.seconds(env, "SIGN_OF_LIFE_S", default=15, minimum=0)
READ_CANCELLED_ANSWERS = check.boolean(env, "READ_CANCELLED_ANSWERS", default=False)
# What a model that thinks may write beyond its tenant's default, where a call names no `max_tokens`.
DEFAULT_THINKING_TOKENS = check.whole(env, "DEFAULT_THINKING_TOKENS", default=12_288, maximum=1_000_000)
# What a call is held for whose input cannot be bounded: nothing, as it is refused, or all that there could be.
UNBOUNDED_INPUTS = check.choice(env, "UNBOUNDED_INPUTS", choices=("refuse", "reserve_full_context"), default="refuse")
OCR_MAX_PAGES = check.whole(env, "OCR_MAX_PAGES", default=1_000, maximum=1_000_000)
TRANSCRIPTION_MAX_SECONDS = check.seconds(env, "TRANSCRIPTION_MAX_SECONDS", default=10_800, minimum=1)
TRANSCRIPTION_MIN_BITRATE = check.whole(env, "TRANSCRIPTION_MIN_BITRATE", default=0, maximum=1_000_000)

# Budgets.
DEFAULT_DAILY_BUDGET: Decimal | None = check.dollars(env, "DEFAULT_DAILY_BUDGET", default="10")
# What a tenant's keys may report in a day where no budget of its own bounds them; None: nothing before it is reviewed.
REPORT_REVIEW_ABOVE: Decimal | None = check.dollars(env, "REPORT_REVIEW_ABOVE", default="10")
# What an hour must have spent before it can be out of all proportion.
ANOMALY_LEAST_DOLLARS: Decimal = check.dollars(env, "ANOMALY_LEAST_DOLLARS", default="0.25") or Decimal(0)
# What a tenant's calls may bring up: agents that are registered, and names that are new to a budget for each one.
AGENTS_PER_TENANT = check.whole(env, "AGENTS_PER_TENANT", default=1_000, maximum=1_000_000)
NEW_NAMES_PER_HOUR = check.whole(env, "NEW_NAMES_PER_HOUR", default=10_000, maximum=1_000_000)
# What is kept under Idempotency-Keys for one API key in a day, and how many of its repeats wait in a process at once.
KEPT_ANSWERS_PER_KEY = check.whole(env, "KEPT_ANSWERS_PER_KEY", default=20_000, maximum=1_000_000)
KEPT_MEGABYTES_PER_KEY = check.whole(env, "KEPT_MEGABYTES_PER_KEY", default=256, maximum=100_000)
WAITING_REPEATS_PER_KEY = check.whole(env, "WAITING_REPEATS_PER_KEY", default=20, maximum=1_000)
OVER_BUDGET_STATUS = check.choice(env, "OVER_BUDGET_STATUS", choices=(402, 429), default=402)
# How long refused calls are kept, and how many: in a minute of one agent for one reason, in a day of one tenant.
REFUSALS_DAYS = check.whole(env, "REFUSALS_DAYS", default=30, maximum=3_650)
REFUSALS_A_MINUTE = check.whole(env, "REFUSALS_A_MINUTE", default=30, maximum=10_000)
REFUSALS_A_DAY = check.whole(env, "REFUSALS_A_DAY", default=10_000, maximum=10_000_000)
# How long a call waits for the database that its budget is in.
LEDGER_DEADLINE_S = check.seconds(env, "LEDGER_DEADLINE_S", default=2, minimum=1)
# How long a web process that is to end waits for the calls that run.
SHUTDOWN_GRACE_S = check.whole(env, "SHUTDOWN_GRACE_S", default=20, maximum=3_600)
RESERVATION_TTL_S = check.seconds(env, "RESERVATION_TTL_S", default=900, minimum=60)

# Stripe.
STRIPE_SECRET_KEY = check.stripe_key(env, "STRIPE_SECRET_KEY")
STRIPE_WEBHOOK_SECRETS = check.tokens(env, "STRIPE_WEBHOOK_SECRET", debug=DEBUG)
STRIPE_API_BASE = check.url(env, "STRIPE_API_BASE", default="https://api.stripe.com")
# Where the simulated Stripe listens that `serve --demo` starts; it is in use where STRIPE_API_BASE is the same.
STRIPE_SANDBOX_URL = check.url(env, "STRIPE_SANDBOX_URL", default="http://127.0.0.1:8020")
if STRIPE_SECRET_KEY.startswith(("sk_live_", "rk_live_")) and STRIPE_API_BASE != "https://api.stripe.com":
    raise ImproperlyConfigured("STRIPE_API_BASE must be left at https://api.stripe.com with a live STRIPE_SECRET_KEY.")
# Stripe's meters that are told of usage, and what each counts; none: usage stays here.
# What subscriptions come to; a plan's own policy comes before these.
STRIPE_TRIAL_PERCENT = check.percentage(env, "STRIPE_TRIAL_PERCENT", default=10)
STRIPE_PROVISIONAL_PERCENT = check.percentage(env, "STRIPE_PROVISIONAL_PERCENT", default=10)
STRIPE_GRACE_DAYS = check.whole(env, "STRIPE_GRACE_DAYS", default=7, maximum=365)
STRIPE_CREDIT_PERCENT = check.percentage(env, "STRIPE_CREDIT_PERCENT", default=100)
STRIPE_UPGRADE = check.choice(env, "STRIPE_UPGRADE", choices=("paid", "whole"), default="paid")
STRIPE_UPGRADE_TIMES = check.whole(env, "STRIPE_UPGRADE_TIMES", default=4, minimum=1, maximum=100)
STRIPE_DOWNGRADE = check.choice(env, "STRIPE_DOWNGRADE", choices=("now", "period_end"), default="now")
STRIPE_PAUSED_COLLECTION = check.choice(
    env, "STRIPE_PAUSED_COLLECTION", choices=("past_due", "suspended", "ignore"), default="past_due"
)
STRIPE_FREE_BUDGET: Decimal | None = check.dollars(env, "STRIPE_FREE_BUDGET", default="")
STRIPE_TOPUPS = check.choice(env, "STRIPE_TOPUPS", choices=("roll_over", "expire"), default="roll_over")
STRIPE_CREATE_TENANTS = check.boolean(env, "STRIPE_CREATE_TENANTS", default=False)
STRIPE_EXCHANGE_RATES = check.exchange_rates(env, "STRIPE_EXCHANGE_RATES")
STRIPE_METERS = check.meters(env, "STRIPE_METERS", units=("microdollars", "tokens", "calls"))
STRIPE_METER_API = check.choice(env, "STRIPE_METER_API", choices=("v1", "v2", "stream"), default="v1")
STRIPE_TOPUP_PRICE = check.secret(env, "STRIPE_TOPUP_PRICE")

# Alerts: the server that sends e-mail, and where operators are told besides the channels of the console.
EMAIL_URL = check.secret(env, "EMAIL_URL")
MAIL = check.mail(env, "EMAIL_URL")
EMAIL_BACKEND: str = MAIL["EMAIL_BACKEND"]
EMAIL_HOST: str = MAIL["EMAIL_HOST"]
EMAIL_PORT: int = MAIL["EMAIL_PORT"]
EMAIL_HOST_USER: str = MAIL["EMAIL_HOST_USER"]
EMAIL_HOST_PASSWORD: str = MAIL["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS: bool = MAIL.get("EMAIL_USE_TLS", False)
EMAIL_USE_SSL: bool = MAIL.get("EMAIL_USE_SSL", False)
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", "").strip() or f"Spend Governor <{check.sender(APP_URL)}>"
ALERT_URLS = check.alert_urls(env, "ALERT_URLS")

METRICS_TOKEN = check.token(env, "METRICS_TOKEN", debug=DEBUG)
# Figures that live in the processes are kept in files there, so that any process can tell those of all.
METRICS_DIR = VAR_DIR / "metrics"
METRICS_DIR.mkdir(exist_ok=True)
os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(METRICS_DIR)
# Operators' own functions that each call of a model that ended is reported to, beside ours (llm/state/telemetry.py).
TELEMETRY_OBSERVERS = check.names(env, "TELEMETRY_OBSERVERS", default=[])

# Where OpenTelemetry's collector listens (OTLP over HTTP), for the extra `otel`; empty: nobody is told.
OTEL_EXPORTER_OTLP_ENDPOINT = check.url(env, "OTEL_EXPORTER_OTLP_ENDPOINT", default="")
OTEL_SERVICE_NAME = env.str("OTEL_SERVICE_NAME", "").strip() or "spend-governor"

LOG_LEVEL = check.choice(env, "LOG_LEVEL", choices=("DEBUG", "INFO", "WARNING", "ERROR"), default="INFO")
# As text for people, or as JSON for machines, then with a line for each call of a model.
LOG_FORMAT = check.choice(env, "LOG_FORMAT", choices=("text", "json"), default="text")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {
            "()": "config.logs.PrintableLines",
            "format": "{asctime} {levelname} {name} {message}",
            "style": "{",
        },
        "json": {"()": "config.logs.JsonLines"},
    },
    "filters": {
        "plain_refusals": {"()": "config.logs.PlainRefusals"},
        "unknown_hosts": {"()": "config.logs.UnknownHosts"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        # Whoever wants a line for each call of a model wants each.
        "spend_governor.calls": {"level": "INFO"},
        # A line for each request that a client of ours makes tells nobody anything.
        "httpx2": {"level": "WARNING"},
        "django.request": {"filters": ["plain_refusals"]},
        # Any stranger may send one.
        "django.security.DisallowedHost": {"filters": ["unknown_hosts"]},
    },
}
