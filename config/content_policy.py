"""Content-Security-Policy: what a browser may load and run on our pages. Everything comes from this host."""

from __future__ import annotations

from typing import Any

from csp.constants import NONCE, NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE

# A script or a style in a page itself needs the page's nonce (`request.csp_nonce`).
DIRECTIVES: dict[str, list[Any]] = {
    "default-src": [NONE],
    "script-src": [SELF, NONCE],
    "style-src": [SELF, NONCE],
    "img-src": [SELF, "data:"],
    "font-src": [SELF],
    "connect-src": [SELF],
    "base-uri": [NONE],
    "form-action": [SELF],
    "frame-ancestors": [NONE],
}
# The pages that packages draw need more than that; the first path that fits decides. Nowhere may a script be inline.
MORE: tuple[tuple[str, dict[str, list[Any]]], ...] = (
    # It shows a message as mail programs do, in a frame; the message has a policy of its own.
    (
        "/admin/reports/",
        {"script-src": [SELF, NONCE, UNSAFE_EVAL], "style-src": [SELF, UNSAFE_INLINE], "frame-src": [SELF]},
    ),
    # Unfold's Alpine.js and htmx make functions of attributes, and bars are as wide as their style attribute says.
    ("/admin/", {"script-src": [SELF, NONCE, UNSAFE_EVAL], "style-src": [SELF, UNSAFE_INLINE]}),
    # Swagger UI and Redoc write their styles; Redoc searches in a worker that it makes.
    ("/api/docs", {"style-src": [SELF, UNSAFE_INLINE]}),
    ("/api/redoc", {"style-src": [SELF, UNSAFE_INLINE], "worker-src": [SELF, "blob:"]}),
)
