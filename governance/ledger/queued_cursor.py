"""A cursor of psycopg's whose statements wait in libpq's buffer until somebody reads an answer."""

from __future__ import annotations

from typing import Any

from psycopg import Cursor
from psycopg.abc import Params, PQGen, Query


class QueuedCursor(Cursor[Any]):
    """In a pipeline, psycopg sends each statement by itself and looks each time whether the server has answered.

    So the server wakes up for each of a dozen. Here they leave together, with the first answer that is read or as the
    pipeline ends. `_execute_gen` is psycopg's own but for that, and part of what it promises nobody: where another
    version has it otherwise, tests say so.
    """

    def _execute_gen(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> PQGen[None]:
        pipeline = self._conn._pipeline
        if pipeline is None:
            yield from super()._execute_gen(query, params, prepare=prepare, binary=binary)
            return
        yield from self._start_query(query)
        asked = self._convert_query(query, params)
        yield from self._maybe_prepare_gen(asked, prepare=prepare, binary=binary)
        while pipeline.command_queue:
            pipeline.command_queue.popleft()()
        self._last_query = query
        yield from self._conn._prepared.maintain_gen(self._conn)
