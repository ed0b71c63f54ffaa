"""The resolved configuration as YAML."""

from fedsmu_ray.commands.config import main
from fedsmu_ray.config.loading import load_config


def test_what_is_printed_is_a_recipe_of_the_same_configuration(tmp_path, capsys):
    (tmp_path / "my.yaml").write_text("name: mine\nlocal: {lr: 0.5}\n")
    arguments = [str(tmp_path / "my.yaml"), "algorithm.name=fed_ef", "federation.rounds=3"]
    assert main(arguments) == 0
    (tmp_path / "printed.yaml").write_text(out := capsys.readouterr().out)
    config = load_config(tmp_path / "printed.yaml")
    assert config == load_config(arguments[0], arguments[1:])
    assert "  rounds: 3\n" in out and "  k_ratio: 0.05\n" in out  # a default of the method


def test_a_mistake_is_one_message(capsys):
    assert main(["local.l=3"]) == 2
    out, err = capsys.readouterr()
    assert "local.l: unknown key; did you mean local.lr" in err and out == ""


def test_passwords_are_left_out(capsys):
    assert main(["tracking.uri=http://me:secret@host"]) == 0
    assert "secret" not in capsys.readouterr().out
