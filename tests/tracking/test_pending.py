"""What is left in a file where a tracking store does not have it."""

import json
import math

from fedsmu_ray.tracking.pending import leave_file


def test_the_file_is_json_for_every_reader(tmp_path):
    metrics = [[2, 0, {"test/loss": math.nan, "train/loss": 0.5}]]
    path = leave_file(tmp_path, "uri", [{"run": "a", "what": "metrics", "values": metrics}])
    with open(path, encoding="utf-8") as file:
        (line,) = file.read().splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    (((_, _, found),),) = [json.loads(line, parse_constant=refuse)["values"]]
    assert found == {"test/loss": None, "train/loss": 0.5}
