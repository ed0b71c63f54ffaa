"""Records and progress."""

from fedsmu_ray.federation.records import Progress, Record


def evaluated(round, accuracy):
    return Record(round, (1,), 0.5, 10, 10, 0.1, 0.0, test_accuracy=accuracy, test_loss=1.0)


def test_the_best_round_is_the_first_with_the_highest_accuracy():
    for accuracies, best in (
        ([0.1, 0.5, 0.5, 0.2], 2),
        ([float("nan"), 0.0, 0.2], 3),  # NaN never wins, wherever it stands
        ([0.2, float("nan")], 1),
        ([float("nan"), float("nan")], 1),
    ):
        rounds = [evaluated(i, accuracy) for i, accuracy in enumerate(accuracies, start=1)]
        assert Progress(evaluated=rounds).best("test/accuracy").round == best
