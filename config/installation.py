"""Where this copy of the product runs from: a checkout of its repository, or a package in site-packages."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_PACKED_TEMPLATES = _PACKAGE / "templates"

# The wheel packs the repository's templates/ in here; in a checkout there is no such folder.
INSTALLED = _PACKED_TEMPLATES.is_dir()
TEMPLATES = _PACKED_TEMPLATES if INSTALLED else _PACKAGE.parent / "templates"
# Where the product's packages are imported from.
PACKAGES = _PACKAGE.parent
# Where `.env` and `var/` are unless ENV_FILE and VAR_DIR say otherwise: beside manage.py, or where the command was
# called; never in site-packages, which the next installation replaces.
HOME = Path.cwd() if INSTALLED else PACKAGES
