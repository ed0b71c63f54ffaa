"""Keys of `evaluation` that have nothing to act on, and metrics that are not measured."""

import pytest

from fedsmu_ray.config.validation import parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.federation.problem import Problem


def refusal(call, *args):
    with pytest.raises(ConfigError) as error:
        call(*args)
    (problem,) = error.value.problems
    return problem


@pytest.mark.parametrize(
    "given, words",
    [
        ({"clients": 101}, "clients = 101: only data.clients = 100 clients exist; lower it, or"),
        ({"clients": 0}, "clients = 0: "),
        ({"clients": "some"}, "clients = 'some': must be none"),
        ({"clients": "all", "share": 1.0}, "share = 1.0: "),
        ({"share": 0.3}, "share = 0.3: evaluation.clients = none evaluates no client; set"),
        ({"personalise": {"epochs": 1}}, "personalise.epochs = 1: evaluation.clients = none"),
        ({"clients": "all", "personalise": {"epochs": 0}}, "personalise.epochs = 0: "),
        ({"client": "all"}, "client: unknown key; did you mean evaluation.clients?"),
    ],
    ids=str,
)
def test_what_evaluation_cannot_be(given, words):
    assert refusal(parse, {"evaluation": given}).startswith(f"evaluation.{words}")


@pytest.mark.parametrize("key", ["tune.metric", "federation.stop.metric"])
@pytest.mark.parametrize(
    "metric, plain, words",
    [
        ("clients/accuracy", {}, "it is not measured; set evaluation.clients, as in"),
        ("clients/personalised_loss", {"clients": "all"}, "set evaluation.personalise.epochs"),
        ("clients/loss_jain", {"clients": 5}, "use clients/accuracy_jain"),
        ("clients/acuracy_jain", {"clients": 5}, "did you mean clients/accuracy_jain?"),
    ],
)
def test_a_metric_that_is_not_measured_is_refused(key, metric, plain, words):
    section, *inner = key.split(".")
    given = {"metric": metric} if len(inner) == 1 else {"stop": {"metric": metric, "patience": 2}}
    problem = refusal(parse, {"evaluation": plain, section: given})
    assert problem.startswith(f"{key} = ") and words in problem


def test_the_accuracy_of_values_is_refused_and_their_loss_is_not():
    plain = {"task": {"loss": "mse"}, "evaluation": {"clients": "all"}}
    wrong = {**plain, "tune": {"metric": "clients/accuracy"}}
    assert "which have no accuracy; use the loss" in refusal(parse, wrong)
    assert parse({**plain, "tune": {"metric": "clients/loss_jain"}}).tune.direction == "max"


def test_clients_with_one_sample_cannot_be_wanted():
    data = {"clients": 1437, "partition": {"kind": "iid"}}
    config = parse({"data": data, "evaluation": {"clients": 3}})
    assert refusal(Problem.of, config).startswith(
        "evaluation.clients = 3: 0 clients have two samples or more"
    )


@pytest.mark.parametrize(
    "clients, words",
    [
        ("some", "evaluation.clients = 'some': must be none or all, or a number"),
        (0, "evaluation.clients = 0: must be greater than or equal to 1"),
        (1.5, "evaluation.clients = 1.5: must be a valid integer"),
    ],
)
def test_a_name_or_a_number_is_told_what_it_must_be(clients, words):
    with pytest.raises(ConfigError) as raised:
        parse({"evaluation": {"clients": clients}})
    assert raised.value.problems == [words]
