"""Recording of runs: the list of metrics, and trackers (MLflow, or none)."""
