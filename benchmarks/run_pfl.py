"""Run a workload in pfl-research's simulation, in one process or in several under torchrun."""

import os
import sys
import time

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from workloads import WORKLOADS, report


class Stamps(TrainingProcessCallback):
    """Records the time at which each central iteration ends."""

    def __init__(self):
        self.times = []

    def after_central_iteration(self, aggregate_metrics, model, *, central_iteration):
        self.times.append(time.perf_counter())
        return False, Metrics()


def main(name: str) -> None:
    torch.set_num_threads(1)
    np.random.seed(0)
    workload = WORKLOADS[name]
    x, y = (torch.from_numpy(a) for a in workload.data())
    module = workload.model()
    module.loss = lambda inputs, targets, is_eval=False: torch.nn.functional.cross_entropy(
        module(inputs), targets
    )
    module.metrics = lambda inputs, targets, is_eval=False: {}

    def user(i):
        rows = slice(i * workload.samples, (i + 1) * workload.samples)
        return Dataset((x[rows], y[rows]), user_id=str(i))

    data = FederatedDataset(user, get_user_sampler("random", list(range(workload.clients))))
    model = PyTorchModel(
        module,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(module.parameters(), lr=1.0),
    )
    stamps = Stamps()
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=workload.rounds + 2,
            evaluation_frequency=10_000,
            train_cohort_size=workload.cohort,
            val_cohort_size=0,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=workload.lr, local_batch_size=workload.batch
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=workload.batch),
        callbacks=[stamps],
        send_metrics_to_platform=False,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        report("pfl", workload, [b - a for a, b in zip(stamps.times, stamps.times[1:])][1:])


if __name__ == "__main__":
    main(sys.argv[1])
