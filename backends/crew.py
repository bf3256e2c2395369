# SPDX-License-Identifier: Apache-2.0
"""Threads that run an artifact's function together; they are kept from one run to the next."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

from numpy.typing import NDArray


class Crew:
    """The caller's thread, and others that wait for work; none of them holds Python's lock while it computes.

    Args:
        function: NAME_run_thread of an artifact.
        threads: How many it is for.
        sync: The block on which they meet, zero.
    """

    def __init__(self, function: Callable[..., int], threads: int, sync: NDArray[Any]) -> None:
        self._function = function
        self._sync = sync
        self._orders: list[SimpleQueue[tuple[Any, ...] | None]] = [SimpleQueue() for _ in range(1, threads)]
        self._others = [
            Thread(target=self._work, args=(number, orders), daemon=True)
            for number, orders in enumerate(self._orders, 1)
        ]
        for thread in self._others:
            thread.start()

    def run(self, *blocks: Any) -> int:
        """Run once; the status. All have the same pointers, so all return the same."""
        for orders in self._orders:
            orders.put(blocks)
        return self._function(*blocks, self._sync.ctypes.data, 0)

    def dismiss(self) -> None:
        """End the threads."""
        for orders in self._orders:
            orders.put(None)
        for thread in self._others:
            thread.join()

    def _work(self, number: int, orders: "SimpleQueue[tuple[Any, ...] | None]") -> None:
        while (blocks := orders.get()) is not None:
            self._function(*blocks, self._sync.ctypes.data, number)
