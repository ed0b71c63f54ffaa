"""Sweeps: Ray Tune schedules the trials; the tracker gets a parent run with one child run per
trial.
"""
