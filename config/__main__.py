"""The command line: `manage.py` in a checkout, `spend-governor` where the package is installed, `python -m config`."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line
    from django.db import OperationalError

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.exit(f"Cannot start: {error}")
    except OperationalError as error:
        # Of Django's own commands, such as migrate; ours say so themselves.
        if "--traceback" in sys.argv:
            raise
        sys.stderr.write(f"The database does not answer: {str(error).strip().splitlines()[0]}\n")
        sys.exit(3)


if __name__ == "__main__":
    main()
