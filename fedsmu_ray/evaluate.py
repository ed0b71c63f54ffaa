"""`python -m fedsmu_ray.evaluate MODEL`: a trained model on a test set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fedsmu_ray import cli, environment

EXAMPLES = """examples:
  python -m fedsmu_ray.evaluate digits.safetensors                 as in the run that trained it
  python -m fedsmu_ray.evaluate fedsmu_runs/SWEEP                  the best trial of a sweep
  python -m fedsmu_ray.evaluate cifar.safetensors --data root=/data
  python -m fedsmu_ray.evaluate cifar.safetensors --data dataset=npz root=shifted.npz
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(argv)
    return cli.main(lambda: _evaluate(options))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        "evaluate",
        "Print accuracy and loss of a trained model on the test set of its data, or of other data.",
        EXAMPLES,
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a model file (of train --save), the folder of a run or sweep, or the id of a run in "
        "MLflow (of a sweep: its best trial's model)",
    )
    parser.add_argument(
        "--tracking-uri",
        default=environment.mlflow_uri(),
        metavar="URI",
        help="where MLflow has the run (default: $MLFLOW_TRACKING_URI, else sqlite:///mlflow.db)",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=[],
        metavar="key=value",
        help="keys of the section `data` to override, as in root=/data; another dataset=NAME "
        "begins with the defaults of the other keys",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the results as one JSON object on the last line of stdout",
    )
    return parser


def _evaluate(options: argparse.Namespace) -> int:
    from fedsmu_ray.config.yaml_files import parse_overrides
    from fedsmu_ray.display.formatting import metric_in_words, percent, stdout, value_in_words
    from fedsmu_ray.experiment.evaluation import evaluate_model
    from fedsmu_ray.experiment.kept_model import find_model

    data = parse_overrides([f"data.{text.removeprefix('data.')}" for text in options.data])
    results = evaluate_model(find_model(options.model, options.tracking_uri), data)
    measured = results["test_accuracy"]
    accuracy = "" if measured is None else f"test accuracy {percent(measured)}, "
    others = "".join(
        f", {metric_in_words(name)} {value_in_words(name, value)}"
        for name, value in results["scores"].items()
    )
    stdout().print(
        f"{accuracy}test loss {results['test_loss']:.4g}{others} on {results['samples']:,} "
        f"samples of {results['dataset']} (model {results['model_sha256'][:12]})",
        soft_wrap=True,
        markup=False,
    )
    if options.json:
        cli.print_json(results)
    return 0


if __name__ == "__main__":
    cli.run(main)
