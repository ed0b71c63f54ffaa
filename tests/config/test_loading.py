"""Any file and any command line gives a Config, or a ConfigError that names the problem."""

import datetime
import json
import os
import signal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsmu_ray import train, tune
from fedsmu_ray.config.loading import load_config
from fedsmu_ray.config.schema import Config
from fedsmu_ray.config.validation import known_keys, parse
from fedsmu_ray.errors import ConfigError
from fedsmu_ray.sweeps import space

# fmt: off
KEYS = known_keys() + ["tune.space.local.lr", "algorithm", "data", "tune.space", "data.options", "tune"]
SECTIONS = sorted({k.split(".")[0] for k in KEYS})
ODD = st.sampled_from([
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**4000, 1e308, 5e-324, float("nan"), float("inf"), "", " ", "a" * 10_000, "\0", "\ud800", "~nobody/x",
    "../..", "a/b", "null", "é", "\u202e", datetime.date(2020, 1, 1), b"raw", {1, 2}, (), [], {}, {1: 2}, {None: None}, [[]], {"a": {}}, object, 1j,
    "import:.:f", "import:..x:f", "torchvision:", "hf:", "fedavg", "fedsmu", "paper", "inline", {"grid": []}, {"grid": [float("nan")]}, {"uniform": [1, 0]}])
LEAVES = ODD | st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4)
NAMES = st.sampled_from(SECTIONS + [k.rsplit(".", 1)[-1] for k in KEYS]) | st.text(max_size=4)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers() | st.none(), inner, max_size=3), max_leaves=8)
YAML = st.lists(st.sampled_from([
    *SECTIONS, *(k.rsplit(".", 1)[-1] for k in KEYS), ": ", ":\n  ", "\n", "\n  ", "- ", "[", "]", "{", "}", ", ", "? ", "&a ", "*a", "<<: ", "!!int ", "!!float ",
    "!!timestamp ", "!!binary ", "!!set ", "!!map ", "!!omap ", "!!bool ", "!!str ", "!x ", "!!python/object:os.system ", "''", '"\\ud800"', "|\n ", ">", "#", "%YAML 9.9\n",
    "---\n", "...\n", "\t", "\0", "=", "1e999", ".nan", "0x", "0b", "1:2:3", "2020-99-99", "~", "1_0", "9" * 5000, "grid: ", "fedavg", "\r", "\ufeff"])
    | st.text(max_size=3), max_size=12).map("".join)
# fmt: on

fast = settings(
    max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def configured(make, names=()):
    """The Config, if it can be written and read back; None after a readable ConfigError.

    `names`: one of these must occur in the message.
    """
    try:
        made = make()
    except ConfigError as error:
        text = str(error)
        assert (
            error.problems
            and len(text) < 25_000
            and all(p.strip() and p[0] != "\n" for p in error.problems)
        ), text[:500]
        assert not names or any(name in text for name in names), text
        return None
    assert isinstance(made, Config) and json.dumps(made.flat(), allow_nan=False)
    assert parse(yaml.safe_load(made.to_yaml())) == made
    return made


@fast
@given(text=YAML)
def test_any_file(tmp_path, text):
    (tmp_path / "x.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    configured(lambda: load_config(tmp_path / "x.yaml"))


@fast
@given(raw=st.binary(max_size=60))
def test_any_bytes(tmp_path, raw):
    (tmp_path / "x.yaml").write_bytes(raw)
    configured(lambda: load_config(tmp_path / "x.yaml"))


@fast
@given(plain=st.dictionaries(NAMES | st.integers(), VALUES, max_size=4))
def test_any_mapping(plain):
    configured(lambda: parse(plain))


@fast
@given(key=st.sampled_from(KEYS), value=VALUES)
def test_any_value_of_any_key_is_used_or_refused_by_name(key, value):
    configured(
        lambda: load_config(overrides={key: value}), [key.rsplit(".", 1)[0], key.split(".")[0]]
    )


@fast
@given(
    overrides=st.dictionaries(
        st.text(max_size=8) | st.lists(NAMES, max_size=4).map(".".join) | st.integers(),
        VALUES,
        max_size=3,
    )
)
def test_any_overrides(overrides):
    configured(lambda: load_config(overrides=overrides))


@fast
@given(
    arguments=st.lists(
        st.builds("{}={}".format, st.sampled_from(KEYS) | st.text(max_size=6), YAML)
        | st.text(max_size=12),
        max_size=3,
    )
)
def test_any_arguments(arguments):
    configured(lambda: load_config(overrides=arguments))


@pytest.mark.parametrize(
    "text, words",
    [
        ("a: &a [1]\nb: *a", "line 2: not valid YAML: aliases"),
        ("a: &a [*a]", "aliases"),
        (
            "\n".join(
                f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" if i else "k0: &k0 [lol]"
                for i in range(20)
            ),
            "aliases",
        ),
        ("data: {options: " + "{a: " * 30 + "1" + "}" * 30 + "}", "nested more than 20 deep"),
        ("[" * 2000, "nested too deeply"),
        ("seed: " + "9" * 4000, "seed = .*fewer digits"),
        ("seed: " + "9" * 5000, "not valid YAML"),
        ("seed: 0x" + "f" * 5000, "seed = an integer too long to show: must have fewer digits"),
        ("!!map [1]", "expected a mapping"),
        ("a: !!int ''", "not valid YAML"),
        ("a: !!timestamp x", "not valid YAML"),
        (
            "data: {options: {a: !!timestamp 2020-01-01}}",
            "data.options.a = datetime.date.*must be text",
        ),
        ("data: {options: {a: !!binary YQ==}}", "data.options.a = b'a': must be text"),
        ("data: {options: {1: 2}}", "data.options: the key 1 must be text"),
        ("? !!set {a}\n: 1", "a key must be text"),
        ('name: "a\\0b"', "name = .*control characters"),
        ('name: "\\ud800"', "name = .*control characters"),
        ("name: ../../etc", "name = '../../etc': must begin with"),
        ("name: ''", "name = '': must begin with"),
        (
            "checkpoint: {folder: ~nobody-here/x}",
            "checkpoint.folder = .*home directory cannot be determined",
        ),
        ("data: {root: ''}", "data.root = '': must be a folder"),
        ("federation: {rounds: 99999999999}", "federation.rounds = 99999999999: .*less than"),
        ("local: {lr: .inf}", "local.lr = inf: must be a finite number"),
        ("data: {dataset: 'import:..x:f'}", "data.dataset = 'import:..x:f': must be one of"),
        ("x" * 300_000, "at most 200,000 bytes"),
        ("\n".join(f"key{i}: 1" for i in range(1000)), "980 more"),
    ],
)
def test_error_messages_name_the_problem(tmp_path, text, words):
    (tmp_path / "x.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as caught:
        load_config(tmp_path / "x.yaml")
    assert len(str(caught.value)) < 25_000


@pytest.mark.parametrize("path", ["", "\0", "\ud800", "x" * 5000, "/dev/zero", "/", "missing.yaml"])
def test_paths_that_are_no_configuration(path):
    with pytest.raises(ConfigError, match="cannot be read|at most 200,000 bytes"):
        load_config(path)


@pytest.mark.parametrize(
    "overrides",
    [
        {"tune.samples": 2**31 - 1},
        {"tune.search": "random", "tune.samples": 2**31 - 1},
        {"tune.space": {f"local.x{i}": {"grid": list(range(10))} for i in range(20)}},
    ],
)
def test_unbounded_sweeps_are_refused_before_they_are_listed(overrides):
    with pytest.raises(ConfigError, match="tune.space: [0-9,]+ trials, more than the 100,000"):
        space.check(load_config(overrides=overrides))


FLAGS = [
    "--resume",
    "--resume=",
    "--json",
    "--quiet",
    "--address",
    "--address=",
    "--list-methods",
    "--",
    "-",
    "-x",
    "--re",
    "--help",
    "x.yaml",
    "",
    "=",
    "=1",
    "seed=",
    "seed=1",
    "seed=x",
    "local.lr",
    "local.lr=1e-3",
    "local..lr=1",
    ".=1",
    "name=a/b",
    "tracking.uri=3",
    "tune.space={}",
    "tune.space.=1",
    "\0",
    "\udcff",
    "a=\udcff",
]


@fast
@given(
    module=st.sampled_from([train, tune]),
    argv=st.lists(st.sampled_from(FLAGS) | st.text(max_size=6), max_size=5),
)
def test_any_command_line_is_a_run_or_a_message_and_code_2(tmp_path, module, argv):
    import fedsmu_ray.experiment.run
    import fedsmu_ray.sweeps.sweep

    began = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.setenv("HOME", str(tmp_path))

        def stop(config, address, *_, **__):
            began.append(config)
            raise ConfigError(["stopped: here"])

        patch.setattr(fedsmu_ray.experiment.run, "run", stop)
        patch.setattr(fedsmu_ray.sweeps.sweep, "sweep", stop)
        try:
            code = module.main(argv)
        except SystemExit as error:  # from argparse: --help, or a usage error that it has printed
            code = error.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert code == 2 or (code == 0 and any(a.startswith("-") for a in argv)), (code, argv)
    assert not os.listdir(tmp_path)
    assert all(isinstance(c, Config) for c in began)
