"""New states of clients, kept on the GPU that computed them until it trains these clients again.

The store stays the truth: a state that is not here is copied from it, and has the same bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import Tensor

State = Mapping[str, Tensor]  # of one client: named vectors [P]


class StateCache:
    """The last states of some clients, by the number of the task that made them."""

    def __init__(self, room: int) -> None:
        """room: bytes that the states may take."""
        self.room, self.bytes = room, 0
        self._states: OrderedDict[int, tuple[int, State]] = OrderedDict()  # by client

    def keep(self, task: int, clients: Sequence[int], states: State) -> None:
        """Keep copies of the states [C, P] that a task made; the oldest ones go for them."""
        for row, client in enumerate(clients):
            self._drop(client)
            state = {name: vectors[row].clone() for name, vectors in states.items()}
            self._states[client] = task, state
            self.bytes += _size(state)
            while self.bytes > self.room:
                self._drop(next(iter(self._states)))

    def take(self, task: int | None, client: int) -> State | None:
        """Give away the state of a client, if it is the one that this task made.

        task: None for a state that no task of this process's experiment made.
        """
        made_by, state = self._states.get(client, (None, None))
        if task is None or made_by != task:
            return None
        self._drop(client)
        return state

    def clear(self) -> bool:
        """Drop all states; returns whether there were any."""
        any_here, self.bytes = bool(self._states), 0
        self._states.clear()
        return any_here

    def _drop(self, client: int) -> None:
        if client in self._states:
            self.bytes -= _size(self._states.pop(client)[1])


def _size(state: State) -> int:
    return sum(vector.nbytes for vector in state.values())
