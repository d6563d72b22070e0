#!/usr/bin/env python
"""Django's command line for Spend Governor, in a checkout."""

from config.__main__ import main

if __name__ == "__main__":
    main()
