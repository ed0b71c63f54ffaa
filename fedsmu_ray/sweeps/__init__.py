"""Sweeps: Ray Tune schedules the trials, and the tracker records them.

A sweep is a parent run in the tracker, with a child run for every trial.
"""
