"""Errors of the machinery around the clients."""


class ExecutionError(RuntimeError):
    """The experiment could not be run on the resources there are; says what happened and what to try."""
