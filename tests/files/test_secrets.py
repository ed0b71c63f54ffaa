"""Secrets in configurations, URIs and messages are cut out, and nothing else is."""

import pytest

from fedsmu_ray.files.secrets import cut, cut_text, find_cut, is_secret_name


@pytest.mark.parametrize(
    "text, without",
    [
        ("http://user:secret@host:5000/x?y=1", "http://user:***@host:5000/x?y=1"),
        ("see http://user:secret@host, now", "see http://user:***@host, now"),
        ("postgresql+psycopg2://u:p/w@h/db", "postgresql+psycopg2://u:***@h/db"),
        ("postgresql://me@server:pw@h/db?user=a@b", "postgresql://me@server:***@h/db?user=a@b"),
        ("http://user:secret@[::1]:5000", "http://user:***@[::1]:5000"),
        ("http://:secret@host", "http://:***@host"),
        ("http://user:12345@host", "http://user:***@host"),
        ("http://u:p@ss/w?rd@h/x", "http://u:***@h/x"),
        ("http://host/?token=abc&x=1", "http://host/?token=***&x=1"),
        ("mysql://h/db?user=a&password=a,b&x=1", "mysql://h/db?user=a&password=***&x=1"),
        (
            "mssql+pyodbc:///?odbc_connect=Driver%3DX%3BPWD%3Dsecret%3BUid%3Du",
            "mssql+pyodbc:///?odbc_connect=Driver%3DX%3BPWD%3D***%3BUid%3Du",
        ),
        ("host=h password='a b' user=x", "host=h password='***' user=x"),
        ("data.options.token = 'a b': must be", "data.options.token = '***': must be"),
        ("data.options.hf_token=abc: not YAML", "data.options.hf_token=***: not YAML"),
        ("trial {'options.token': 'ab', 'lr': 0.1}", "trial {'options.token': '***', 'lr': 0.1}"),
        ('{"api_key": "a\\"b", "x": "y"}', '{"api_key": "***", "x": "y"}'),
    ],
)
def test_the_secret_in_a_text_is_cut_out(text, without):
    assert cut_text(text) == without and cut_text(without) == without


@pytest.mark.parametrize(
    "text",
    [
        "http://host:5000/path@1",
        "http://host:80/?mail=a@b",
        "http://user@host",
        "http://user:@host",
        "http://[::1]:5000/path@1",
        "sqlite:////a/b@c.db",
        "sqlite:///:memory:",
        "s3://bucket/a:b@c",
        "data.options.token: unknown key; did you mean data.options.size?",
        "model.options.pad_token = '<pad>': must be",
        "password=None",
        "at 10:30 write to me@example.org",
    ],
)
def test_text_without_a_secret_stays_as_it_is(text):
    assert cut_text(text) == text


def test_which_names_stand_for_secrets():
    secret = (
        "token api_key apiKey hf_token passwd password DB_PASSWORD access-key mypassword pwd "
        "aws_secret_access_key client_secret auth_token accessToken AWS_ACCESS_KEY_ID passphrase "
        "secretKey data.options.token"
    )
    harmless = (
        "tokenizer pad_token max_tokens tokens key keys tokens_per_client secretary author bypass "
        "token_dim sos_token passes password_file eos_token seed token.size"
    )
    assert [name for name in secret.split() if not is_secret_name(name)] == []
    assert [name for name in harmless.split() if is_secret_name(name)] == []


def test_the_secrets_of_a_configuration():
    plain = {
        "tracking": {"uri": "http://user:my secret@host", "experiment": "e"},
        "data": {
            "options": {
                "token": "x",
                "password": 123,
                "secret": None,
                "pair": ("http://a:b@c", 1),
                "more": [{"api_key": ["v"]}],
                "n_token": 5,
            }
        },
        "tune": {"space": {"data.options.token, data.options.size": {"grid": ["a"]}}},
    }
    without = {
        "tracking": {"uri": "http://user:***@host", "experiment": "e"},
        "data": {
            "options": {
                "token": "***",
                "password": "***",
                "secret": None,
                "pair": ["http://a:***@c", 1],
                "more": [{"api_key": ["***"]}],
                "n_token": 5,
            }
        },
        "tune": {"space": {"data.options.token, data.options.size": {"grid": ["***"]}}},
    }
    assert cut(plain) == without and cut(without) == without
    assert find_cut(plain) == []
    assert find_cut(without) == [
        "tracking.uri",
        "data.options.token",
        "data.options.password",
        "data.options.pair",
        "data.options.more",
        "tune.space.data.options.token, data.options.size.grid",
    ]
