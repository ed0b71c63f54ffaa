"""Where the clients' states are, and which to copy so that shards full of old ones can go.

A shard stays in the store until the last of its states has been replaced. With many small clients,
of whom few are sampled, that takes long: most of what is stored would be old states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from fedsmu_ray.federation.tasks import Handle, StateRef

MOST_ROWS = 1.75  # of all shards, for each state in use
IGNORED_SHARDS = 4  # full of old states, that are not worth a task


class ClientStates:
    """The latest state of each client that has one."""

    def __init__(self) -> None:
        self.latest: dict[int, StateRef] = {}  # to be changed by `update` only
        self.rows = 0  # of all shards
        self._clients: dict[Handle, list[int]] = {}  # of all rows of a shard
        self._used: dict[Handle, int] = {}  # rows of a shard that are a client's latest state

    def update(self, new: Mapping[int, StateRef]) -> None:
        """Replace the states of some clients; a shard comes with all its clients at once."""
        replaced = [self.latest[client].shard for client in new if client in self.latest]
        for shard, count in Counter(replaced).items():
            self._used[shard] -= count
            if not self._used[shard]:
                del self._used[shard]
                self.rows -= len(self._clients.pop(shard))
        self.latest.update(new)
        self.rows += len(new)
        for client, ref in new.items():
            self._clients.setdefault(ref.shard, []).append(client)
        for shard, count in Counter([ref.shard for ref in new.values()]).items():
            self._used[shard] = self._used.get(shard, 0) + count

    def to_repack(self, trained: Collection[int], shard_clients: int, at_most: int) -> list[int]:
        """Clients whose states to copy into new shards, so that their old shards can go.

        They are those of the shards with the smallest share of states in use; none, as long as
        few states are old. trained: clients whose states are about to be replaced. shard_clients:
        rows of a full shard. at_most: how many, so that a round's work is bounded.
        """
        old = self.rows - len(self.latest)
        excess = self.rows - MOST_ROWS * len(self.latest)
        if old <= IGNORED_SHARDS * shard_clients or excess <= 0:
            return []
        found: list[int] = []
        trained = set(trained)
        for shard in sorted(self._used, key=lambda s: self._used[s] / len(self._clients[s])):
            here = [c for c in self._clients[shard] if self.latest[c].shard == shard]
            moved = [c for c in here if c not in trained]
            if excess <= 0 or len(found) + len(moved) > at_most:
                break
            found += moved
            excess -= len(self._clients[shard]) - len(here)
        return found
