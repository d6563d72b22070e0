"""Sets a Python's clock for `tests/any_day`: found by PYTHONPATH, so in the processes that tests start as well."""

import os
import time

if offset_s := os.environ.get("TESTS_CLOCK_OFFSET_S"):
    import time_machine

    # Never stopped: it lasts as long as the process, and runs on.
    time_machine.travel(time.time() + float(offset_s), tick=True).start()
