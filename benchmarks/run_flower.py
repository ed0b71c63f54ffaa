"""Run a workload in Flower's simulation (message API, Ray backend, one CPU per client)."""

import sys
import time

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from workloads import WORKLOADS, report, train

NAME = sys.argv[1]
WORKLOAD = WORKLOADS[NAME]
client, server = ClientApp(), ServerApp()
stamps: list[float] = []
cache: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}


@client.train()
def train_client(message, context):
    torch.set_num_threads(1)
    if NAME not in cache:  # once per worker process
        cache[NAME] = tuple(torch.from_numpy(a) for a in WORKLOAD.data())
    x, y = cache[NAME]
    module = WORKLOAD.model()
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    i = context.node_config["partition-id"]
    rows = slice(i * WORKLOAD.samples, (i + 1) * WORKLOAD.samples)
    train(module, x[rows], y[rows], WORKLOAD)
    content = {
        "arrays": ArrayRecord(module.state_dict()),
        "metrics": MetricRecord({"num-examples": WORKLOAD.samples}),
    }
    return Message(content=RecordDict(content), reply_to=message)


@server.main()
def main(grid, context):
    strategy = FedAvg(
        fraction_train=WORKLOAD.cohort / WORKLOAD.clients,
        fraction_evaluate=0.0,
        min_available_nodes=WORKLOAD.clients,
    )

    def stamp(round, arrays):
        stamps.append(time.perf_counter())

    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(WORKLOAD.model().state_dict()),
        num_rounds=WORKLOAD.rounds + 1,
        train_config=ConfigRecord(),
        evaluate_fn=stamp,
    )


run_simulation(
    server_app=server,
    client_app=client,
    num_supernodes=WORKLOAD.clients,
    backend_config={"client_resources": {"num_cpus": 1.0}, "init_args": {"num_cpus": 2}},
)
report("flower", WORKLOAD, [b - a for a, b in zip(stamps, stamps[1:])][1:])
