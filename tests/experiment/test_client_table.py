"""The table of clients: in the folder of a run and with its tracked run, also after a resume."""

import pandas as pd
import pytest

from fedsmu_ray import run
from fedsmu_ray.config.validation import parse
from fedsmu_ray.experiment.client_table import CLIENTS, clients_csv
from fedsmu_ray.federation.tasks import ClientScore


def config_of(folder, **more):
    return parse(
        {
            "name": "tables",
            "data": {"clients": 20},
            "model": {"hidden": [24]},
            "local": {"epochs": 1, "batch_size": 20},
            "federation": {"rounds": 5, "cohort": 5, "eval_every": 2},
            "evaluation": {"clients": 12, "personalise": {"epochs": 1}},
            "tracking": {"uri": None, "also": ["csv"], "folder": str(folder / "csv")},
            "compute": {"executor": "inline", "clients_per_task": 2},
            "checkpoint": {"every": 1, "folder": str(folder / "runs")},
            **more,
        }
    )


def test_the_table_has_the_clients_of_the_last_round_whose_means_are_tracked(tmp_path):
    result = run(config_of(tmp_path))
    (file,) = (tmp_path / "runs").glob(f"*/{CLIENTS}")
    (tracked,) = (tmp_path / "csv").rglob(CLIENTS)
    assert tracked.read_bytes() == file.read_bytes()
    table = pd.read_csv(file)
    names = ["loss", "accuracy", "personalised_loss", "personalised_accuracy"]
    assert [*table.columns] == ["round", "client", "samples", *names]
    assert {*table["round"]} == {5} and table.client.is_unique and len(table) == 12
    held = result.problem.partition.held_out_sizes
    assert table.samples.tolist() == held[table.client.to_numpy()].tolist()
    for name in names:
        assert table[name].mean() == pytest.approx(result.summary[f"clients_{name}"], rel=1e-12)
    worst = table.accuracy.nsmallest(1).mean()
    assert worst == result.summary["clients_accuracy_worst_decile"]
    rows = pd.read_csv(tracked.with_name("metrics.csv")).set_index("round")
    assert rows["clients/accuracy"].notna().tolist() == [True, True, True]
    assert "clients/loss_jain" not in rows


def test_a_resumed_run_has_the_table_of_an_undisturbed_one(tmp_path):
    whole = run(config_of(tmp_path / "whole"))
    short = {"rounds": 3, "cohort": 5, "eval_every": 2}
    run(config_of(tmp_path / "cut", federation=short))
    resumed = run(config_of(tmp_path / "cut"), resume="")
    tables = [next((tmp_path / n / "runs").glob(f"*/{CLIENTS}")) for n in ("whole", "cut")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    names = [name for name in whole.summary if name.startswith("clients_")]
    assert len(names) == 10
    assert [whole.summary[n] for n in names] == [resumed.summary[n] for n in names]


def test_what_samples_do_not_define_is_empty():
    scores = [ClientScore(3, 2, {"accuracy": 0.5}), ClientScore(4, 1, {"loss": 0.1})]
    text = clients_csv(7, scores)
    assert text == "round,client,samples,loss,accuracy\n7,3,2,,0.5\n7,4,1,0.1,\n"
    assert clients_csv(7, []) == ""
