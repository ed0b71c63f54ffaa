"""Shared fixtures. Tests never touch the user's home, Ray or MLflow: each session has folders of its own."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
