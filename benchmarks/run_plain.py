"""Run a workload in raw PyTorch: processes that only train, without any framework.

Each process trains its share of the cohort, one client after another; nothing is aggregated.
"""

import sys
import time
from multiprocessing import Pipe, Process

import torch
from workloads import WORKLOADS, report, train


def worker(pipe, name: str) -> None:
    torch.set_num_threads(1)
    workload = WORKLOADS[name]
    x, y = (torch.from_numpy(a) for a in workload.data())
    module = workload.model()
    start = {k: v.clone() for k, v in module.state_dict().items()}
    pipe.send("ready")
    while clients := pipe.recv():
        for client in clients:
            module.load_state_dict(start)
            rows = slice(client * workload.samples, (client + 1) * workload.samples)
            train(module, x[rows], y[rows], workload)
        pipe.send("done")


def main(name: str, processes: int) -> None:
    workload = WORKLOADS[name]
    ends = [Pipe() for _ in range(processes)]
    for _, far in ends:
        Process(target=worker, args=(far, name), daemon=True).start()
    near = [end for end, _ in ends]
    for end in near:
        end.recv()
    seconds = []
    for t in range(workload.rounds + 1):
        cohort = torch.randperm(workload.clients, generator=torch.Generator().manual_seed(t))[
            : workload.cohort
        ].tolist()
        began = time.perf_counter()
        for i, end in enumerate(near):
            end.send(cohort[i::processes])
        for end in near:
            end.recv()
        seconds.append(time.perf_counter() - began)
    report(f"plain-{processes}", workload, seconds[1:])


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
