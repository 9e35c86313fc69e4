"""Threads over ciphertexts: kernels release the interpreter lock, results keep their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from transport.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A fixed number of threads; with one, everything runs in the caller's."""

    def __init__(self, threads: int = 1) -> None:
        if threads < 1:
            raise UsageError(f"threads: {threads}; use 1 or more")
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, "ckks") if threads > 1 else None

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Results in order. Items are taken one by one, and at most twice `threads` ahead."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(self._pool.submit(function, item))
            if len(waiting) >= 2 * self.threads or waiting[0].done():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


SERIAL = Workers()
