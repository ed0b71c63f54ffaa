"""Run rounds of a workload in Flower's simulation (message API, Ray backend, one CPU per client).

Flower draws the cohorts itself; they have the size that was asked for.
"""

from __future__ import annotations

import json
import sys

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from turns import turns
from workloads import Workload, train

WORKLOAD = Workload(**json.loads(sys.argv[1]))
client, server = ClientApp(), ServerApp()
data: list[tuple[torch.Tensor, torch.Tensor]] = []


@client.train()
def train_client(message, context):
    torch.set_num_threads(1)
    if not data:  # once per worker process
        data.extend(WORKLOAD.client_data())
    module = WORKLOAD.module()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = data[context.node_config["partition-id"]]
    train(module, x, y, WORKLOAD)
    content = {
        "arrays": ArrayRecord(module.state_dict()),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@server.main()
def main(grid, context):
    strategy = FedAvg(
        fraction_train=WORKLOAD.cohort / WORKLOAD.clients,
        fraction_evaluate=0.0,
        min_available_nodes=WORKLOAD.clients,
    )
    asked = turns()

    def next_turn(round, arrays):  # called before the first round and after each
        if next(asked, None) is None:
            sys.exit()

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(WORKLOAD.module().state_dict()),
        num_rounds=10**6,
        train_config=ConfigRecord(),
        evaluate_fn=next_turn,
    )


run_simulation(
    server_app=server,
    client_app=client,
    num_supernodes=WORKLOAD.clients,
    backend_config={"client_resources": {"num_cpus": 1.0}, "init_args": {"num_cpus": 2}},
)
