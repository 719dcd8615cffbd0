"""Tokens of every kind are found, also behind escapes; nothing that hubinit publishes looks like one."""

import json
from pathlib import Path

import pytest

from hubinit.remote import redact
from hubinit.secrets import holds_secret, is_credentials, mask

ALNUM = "Ab1Cd2Ef3Gh4Ij5Kl6Mn7Op8Qr9St0Uv1Wx2Yz3"
SECRETS = {  # none of them was ever valid
    "Hugging Face": "hf_" + ALNUM[:34],
    "Hugging Face, organisation": "api_org_" + ALNUM[:34],
    "AWS key": "AKIA" + "ABCDEFGH12345678",
    "AWS secret": f'aws_secret_access_key = "{ALNUM}+"',
    "Google": "AIza" + ALNUM[:35],
    "GitHub": "ghp_" + ALNUM[:36],
    "GitHub, fine-grained": "github_pat_" + ALNUM[:22] + "_" + ALNUM,
    "GitLab": "glpat-" + ALNUM[:20],
    "OpenAI": "sk-" + ALNUM[:20] + "T3BlbkFJ" + ALNUM[:20],
    "OpenAI, project": "sk-proj-" + ALNUM,
    "Anthropic": "sk-ant-api03-" + ALNUM,
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "encrypted private key": "-----BEGIN ENCRYPTED PRIVATE KEY-----",
    "Slack": "xoxb-123456789012-123456789012-" + ALNUM[:24].lower(),
    "npm": "npm_" + ALNUM[:36],
    "PyPI": "pypi-AgEIcHlwaS5vcmc" + ALNUM * 2,
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.c2lnbmF0dXJl",
    "Stripe": "sk_live_" + ALNUM[:24],
    "password in an address": "https://ann:correct-horse@proxy.example/x",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_tokens_are_found_and_masked(secret):
    assert holds_secret(f"before {secret} after")
    assert secret not in mask(f"before {secret} after")
    assert not holds_secret(mask(f"before {secret} after"))
    assert secret not in redact(f"before {secret} after")


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_escapes_hide_nothing(secret):
    escaped = "".join(f"\\u{ord(c):04x}" if i % 3 == 0 else c for i, c in enumerate(secret))
    twice = json.dumps(escaped)
    python = "".join(f"\\x{ord(c):02X}" for c in secret)
    assert all(holds_secret(f'{{"a": "{text}"}}') for text in (escaped, twice, python))
    assert holds_secret(json.dumps({"a": secret}).replace("/", "\\/"))
    assert holds_secret(json.dumps(json.dumps({"a": secret})))


def test_a_known_token_is_found_behind_escapes_whatever_it_looks_like():
    assert holds_secret('"\\u0068f_alice"', ["hf_alice"])
    assert not holds_secret('"hf_alice"')


def test_a_short_name_before_a_token_does_not_hide_it():
    assert holds_secret("my_hf_" + ALNUM[:34])
    assert holds_secret("token=hf_" + ALNUM[:34])


def test_hashes_names_and_prose_are_no_secrets():
    for text in (
        json.dumps({"sha256": "0123456789abcdef" * 4, "git_sha": "c" * 40, "key": "474b09a3b1c2d3e4"}),
        "hf_hub_download, hf_transfer_enabled, sk-learn, task-specific-fine-tuning-of-large-language-models",
        "/home/someone/runs/0123456789abcdef/adapter, https://huggingface.co/alice/x, ann@example.org",
        'tokens like hf_… and "AKIA…"; special_tokens_map.json; C:\\\\users\\\\x00y',
    ):
        assert not holds_secret(text), text


def test_nothing_in_this_repository_looks_like_a_secret():
    root = Path(__file__).parents[1]
    folders = ("docs", "leaderboard", "benchmarks", "hubinit", "tests/stored")
    paths = [
        path for folder in folders for path in (root / folder).rglob("*") if path.suffix in (".md", ".json", ".py")
    ]
    assert len(paths) > 100
    assert [path for path in (*paths, root / "README.md") if holds_secret(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "name",
    [
        "credentials.json",
        "a/.env",
        ".env.local",
        ".netrc",
        "x/id_rsa",
        "ID_ED25519.pub",
        "server.pem",
        ".git/config",
        "token",
        "token.json",
        "secrets.yaml",
        "client_secret_12.json",
        "service-account.json",
        ".aws/credentials",
    ],
)
def test_files_of_credentials_are_known_by_name(name):
    assert is_credentials(name)


@pytest.mark.parametrize(
    "name",
    [
        "adapter_config.json",
        "adapter_model.safetensors",
        "anchor/adapter_config.json",
        "tokenizer.json",
        "README.md",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        ".gitattributes",
        "hubinit.json",
    ],
)
def test_files_of_adapters_are_not(name):
    assert not is_credentials(name)
