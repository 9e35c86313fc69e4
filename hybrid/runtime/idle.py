"""Work for the time in which nobody asks, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from transport.errors import HybridError, UsageError

IDLE_S = 0.3
"""Only once nobody has asked for so long: the next question may already be on its way."""


class WhileIdle:
    """Does a piece of work again and again, from `start` until `stop` or there is no more.

    Whoever stops it waits for the piece under way, and may then use what the work uses.
    """

    def __init__(
        self,
        work: Callable[[], bool],
        failed: Callable[[HybridError], None],
        wait_s: float = IDLE_S,
    ) -> None:
        """work: one piece; whether there was one. failed: told of an error, which ends it."""
        self._work, self._failed, self._wait_s = work, failed, wait_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, unless it is under way."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._run, name="idle", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Return once nothing is under way any more; there may have been nothing."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        if self._stopping.wait(self._wait_s):
            return
        try:
            while not self._stopping.is_set() and self._work():
                pass
        except HybridError as error:
            self._failed(error)
        except Exception as error:
            # The stocks may differ now: nothing of this session is used any more.
            name = type(error).__name__
            self._failed(UsageError(f"preparing ahead of need: {name}; open a new session"))
            raise
