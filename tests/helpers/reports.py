"""Reports of made-up sweeps."""

from fedsmu_ray.config.tuning import TuneConfig
from fedsmu_ray.sweeps.reporting import report_of

ROUNDS = (2, 4, 6, 8)


def history(level=0.5, upload=10_000, **columns):
    """Accuracies that grow up to `level`, and uploads of so many bytes a round."""
    count = len(ROUNDS)
    return {
        "round": list(ROUNDS),
        "test/accuracy": [level * (i + 1) / count for i in range(count)],
        "test/loss": [1.0] * count,
        "comm/uplink_bytes": [upload * r for r in ROUNDS],
        "comm/downlink_bytes": [300_000 * r for r in ROUNDS],
        "mu/upload": [0.5] * count,
        "clients/dropped": [None] * count,
        **columns,
    }


def trial(index, level=0.5, method="fedsmu", seed=0, past=None, **params):
    """A trial that has ended; keys of params have __ for a dot."""
    values = {"algorithm.name": method, **{k.replace("__", "."): v for k, v in params.items()}}
    past = history(level) if past is None else past
    uploaded = (past.get("comm/uplink_bytes") or [80_000])[-1]
    return {
        "index": index,
        "name": f"{index:03d}",
        "method": method,
        "status": "completed",
        "params": {**values, "seed": seed},
        "values": values,
        "score": level,
        "test_accuracy": level,
        "test_loss": 1.0,
        "train_loss": 1.0,
        "uplink_bytes": uploaded,
        "downlink_bytes": 2_400_000,
        "best_test_accuracy": level,
        "rounds": 8,
        "seconds": 1.5,
        "dropped": 0,
        "retried": 0,
        "model_sha256": "ab" * 32,
        "run_id": "",
        "history": past,
    }


def report(trials, baselines=(), name="small", recipe="name: small\n", targets=(), **tune):
    """The report of a sweep with these trials."""
    ended = {each["index"]: each for each in trials}
    config = TuneConfig(baselines=tuple(baselines), **tune)
    return report_of(name, "fedsmu_runs/small-1", config, ended, recipe=recipe, targets=targets)


def two_methods(seeds=3):
    """The report of two settings of FedSMU and of FedAvg as the baseline, with some seeds."""
    trials = []
    for seed in range(seeds):
        past = history(0.8 + seed / 100, upload=320_000)
        trials.append(trial(seed, 0.8 + seed / 100, "fedavg", seed, past, local__lr=0.3))
        for i, gamma in enumerate((0.01, 0.03), 1):
            level = 0.8 + i / 50 + seed / 70
            trials.append(trial(i * seeds + seed, level, seed=seed, algorithm__gamma1=gamma))
    return report(trials, [{"algorithm.name": "fedavg"}], seeds=seeds)
