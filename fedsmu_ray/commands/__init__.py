"""The commands of `fedsmu`, and those that look something up: methods, recipes, configuration."""

# Name: module with the function `main`, and what it does.
COMMANDS = {
    "train": ("fedsmu_ray.train", "run one experiment"),
    "tune": ("fedsmu_ray.tune", "run a sweep of experiments"),
    "ui": ("fedsmu_ray.ui", "start MLflow's UI, and link the charts of the latest sweep"),
    "report": ("fedsmu_ray.report", "figures and tables of a sweep, for a browser and for paper"),
    "evaluate": ("fedsmu_ray.evaluate", "evaluate a trained model on a test set"),
    "recipes": ("fedsmu_ray.commands.recipes", "recipes to start from: ls, show NAME, cp NAME"),
    "config": ("fedsmu_ray.commands.config", "print the resolved configuration as YAML"),
    "data": ("fedsmu_ray.data", "show the split of the data over the clients"),
    "methods": ("fedsmu_ray.commands.methods", "list the federated methods, or describe one"),
    "conformance": ("fedsmu_ray.conformance.__main__", "check a method of your own"),
    "cluster": ("fedsmu_ray.cluster.__main__", "run experiments on a Ray cluster"),
    "completion": ("fedsmu_ray.commands.completion", "print a script for bash or zsh"),
}
