"""What a report says in words."""

from dataclasses import replace

from fedsmu_ray.reports.notes import notes
from tests.helpers.reports import history, report, trial, two_methods


def test_notes_say_what_is_missing():
    assert notes(two_methods()) == [
        "No upload is missing: every sampled client took part in its round."
    ]
    one = notes(
        report(
            [trial(0, 0.0, past={}), {**trial(1, past=history(0.0), local__lr=9), "score": None}]
        )
    )
    said = "\n".join(one)
    assert "A trial of fedsmu lr=9 has diverged, so there is no mean of test/accuracy." in said
    assert "1 of 2 trials have no history of their rounds" in said
    assert "no bytes and rounds to a target" in said and "Each setting has one seed" in said
    dropped = notes(report([{**trial(0), "dropped": 3}, trial(1, local__lr=1)]))
    assert "3 uploads are missing in 1 of 2 trials" in dropped[-1]
    retried = notes(report([{**trial(0), "retried": 4}, trial(1, local__lr=1)]))
    assert retried[-1].startswith("Clients were trained again after a failure, 4 in all")
    unknown = trial(0)
    del unknown["dropped"]
    assert "not known" in notes(report([unknown]))[-1]


def test_trials_without_a_result_are_named_with_their_errors():
    failed = [
        {"index": i, "name": f"{i:03d}", "status": "failed", "error": "E: x"} for i in range(12)
    ]
    found = notes(replace(report([]), no_result=failed))
    assert found[0] == "No trial has a result: there is nothing to draw."
    assert found[1] == "000 has failed: E: x" and found[-1] == "2 more trials have failed."


def test_seeds_that_have_ended_after_different_rounds_are_told():
    long, short = trial(0), {**trial(1, seed=1), "rounds": 6}
    (found,) = [note for note in notes(report([long, short])) if "different" in note]
    assert found.startswith("Seeds of fedsmu have ended after different numbers of rounds: curves")
    assert not [note for note in notes(two_methods()) if "different" in note]
