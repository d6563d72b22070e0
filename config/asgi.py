"""What the web processes serve: `uvicorn config.asgi:application`."""

import os
import warnings
from typing import cast

import django as framework

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
# Static files come from WhiteNoise, which reads them in Django's thread; they are small, and the gateway has none.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
# Loads the apps; the gateway's models may be imported only after it.
framework.setup(set_prefix=False)

from config.control_plane import ControlPlane  # noqa: E402
from config.gate import Gate  # noqa: E402
from config.planes import compose  # noqa: E402
from llm.gateway.application import gateway  # noqa: E402
from llm.gateway.asgi import Application  # noqa: E402

application = compose(gateway=gateway, django=Gate(cast(Application, ControlPlane()), turns=gateway.turns))
