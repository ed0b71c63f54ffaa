"""What of a task travels to a client actor."""

from fedsmu_ray.executors.ray_actors import without_references
from fedsmu_ray.federation.tasks import Evaluate, EvaluateClients, StateRef, Train, makers


def test_a_group_has_the_states_of_its_clients_and_who_made_them():
    states = StateRef("b", 1, 17), None, StateRef("a", 0), StateRef("b", 0, 18)
    task = Train(3, 0, (4, 5, 6, 7), states)
    (group,), shards = without_references([task, Evaluate(3, 0, 9), EvaluateClients(3, (1,))])
    assert shards == ["b", "a"] and group.task.states == ()
    found = group.states([{"m": ["b0", "b1"]}, {"m": ["a0"]}])
    assert found == [{"m": "b1"}, None, {"m": "a0"}, {"m": "b0"}]
    assert group.makers == makers(task) == (task.number, [17, None, None, 18])
