"""The image's health check: whether a path of the web process on this machine answers 200. Needs no package.

Usage: python probe.py [/api/health/ready]
"""

import http.client
import os
import sys
from pathlib import Path

PORT, TIMEOUT_S = 8000, 4


def host() -> str:
    """A name that the product answers to: the first of ALLOWED_HOSTS."""
    listed = os.environ.get("ALLOWED_HOSTS", "")
    if path := os.environ.get("ALLOWED_HOSTS_FILE"):
        listed = Path(path).read_text(encoding="utf-8")
    first = listed.split(",")[0].strip().removeprefix(".")
    return first if first and first != "*" else "localhost"


def main(path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Host": host()})
        answer = connection.getresponse()
        sys.stdout.write(answer.read(2_000).decode("utf-8", "replace"))
    except OSError as error:
        sys.stdout.write(f"{error}")
        return 1
    finally:
        connection.close()
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main(*(sys.argv[1:] or ["/api/health/ready"])))
