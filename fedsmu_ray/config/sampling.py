"""The values of `federation.sampling`; `federation.cohort` draws by them."""

from __future__ import annotations

SAMPLING = "federation.sampling"
POWER_OF_CHOICE = "power_of_choice"

# Name or form -> what it does.
SAMPLINGS = {
    "uniform": "each client with the same probability",
    "weighted": "each with a probability proportional to its samples",
    "fixed": "the same ones in every round",
    "cyclic": "all in turn",
    POWER_OF_CHOICE: "of federation.candidates, drawn as in weighted, those with the largest "
    "losses of the current model",
    "import:<package.module>:<function>": "those that a function of yours returns for "
    "the round, the clients' numbers of samples, the size of the cohort and a NumPy generator",
}
