"""What an access token looks like, and which files hold some: one home for what is never published and never shown.

The rules are those of detect-secrets for tokens with a form of their own, and a few that it lacks. Rules that judge by
entropy are left out: they would take every sha256 of a `hubinit.json` for a secret.
"""

import re
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.base import RegexBasedDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from detect_secrets.plugins.twilio import TwilioKeyDetector

MASK = "[token]"
_DETECTORS: tuple[type[RegexBasedDetector], ...] = (
    AWSKeyDetector,
    AzureStorageKeyDetector,
    BasicAuthDetector,
    GitHubTokenDetector,
    GitLabTokenDetector,
    OpenAIDetector,
    PrivateKeyDetector,
    PypiTokenDetector,
    SendGridDetector,
    SlackDetector,
    SquareOAuthDetector,
    StripeDetector,
    TwilioKeyDetector,
)
# They come first: `sk-` keeps OpenAIDetector from long runs, on which it takes quadratic time. JWT and npm are here because the
# library's rules for them take quadratic time too.
_MORE = (
    r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{20,}",  # Hugging Face
    r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{32,}",  # OpenAI, Anthropic (sk-ant-) and those who copy them
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"(?<![A-Za-z0-9])github_pat_\w{30,}",
    r"(?<![A-Za-z0-9])npm_[A-Za-z0-9]{36}",
    r"(?<![A-Za-z0-9])ya29\.[A-Za-z0-9_-]{20,}",  # Google, for a while
    r"(?<![A-Za-z0-9])GOCSPX-[A-Za-z0-9_-]{20,}",  # Google OAuth
    r"(?<![A-Za-z0-9])(?:gsk|r8|nvapi|xai|dop_v1)[_-][A-Za-z0-9_-]{32,}",  # Groq, Replicate, NVIDIA, xAI, DigitalOcean
    r"(?i:aws_secret_access_key)\W{1,5}[A-Za-z0-9/+]{40}",
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY",
    r"(?<![\w=-])eyJ[\w=-]{8,}\.eyJ[\w=-]{8,}",  # JWT: two JSON objects in base64
)
RULES: tuple[re.Pattern[str], ...] = (
    *(re.compile(rule, re.ASCII) for rule in _MORE),
    *(rule for detector in _DETECTORS for rule in detector.denylist),  # type: ignore[attr-defined]  # a property there
)
# How JSON, YAML and Python write an ASCII character, a slash or a quote otherwise, however often the text was quoted.
_ESCAPE = re.compile(r"(?<!\\)\\++(?:(?:u00|U000000|x)([0-7][0-9a-fA-F])|([/\"']))")

CREDENTIALS = (
    *(".aws", ".docker", ".git", ".gnupg", ".kube", ".ssh"),
    *(
        "*credentials*",
        "*private_key*",
        "*private-key*",
        "*api_key*",
        "*api-key*",
        "client_secret*",
        "service_account*",
        "service-account*",
    ),
    *(
        ".env",
        ".env.*",
        "*.env",
        ".netrc",
        "_netrc",
        ".npmrc",
        ".pypirc",
        ".git-credentials",
        ".htpasswd",
        "kubeconfig*",
    ),
    *("id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx", "*.ppk"),
    *(
        "token",
        "token.*",
        "tokens.*",
        "*_token.*",
        "*-token.*",
        "stored_tokens",
        "secret.*",
        "secrets",
        "secrets.*",
        "auth.json",
        "passw*",
    ),
)


def holds_secret(text: str, known: Collection[str] = ()) -> bool:
    """Whether `text` holds a known token, or what looks like one or like a private key, also where it is written with escapes."""
    forms = dict.fromkeys((text, _ESCAPE.sub(_meant, text)))
    return any(token in form for form in forms for token in known) or any(
        rule.search(form) for form in forms for rule in RULES
    )


def mask(text: str) -> str:
    """`text` with everything that looks like an access token replaced."""
    for rule in RULES:
        text = rule.sub(MASK, text)
    return text


def is_credentials(name: str) -> bool:
    """Whether a file is, by the name of it or of a folder on the way, one that programs keep credentials in."""
    parts = [part.lower() for part in PurePosixPath(name).parts]
    return any(fnmatchcase(part, pattern) for part in parts for pattern in CREDENTIALS)


def _meant(escape: re.Match[str]) -> str:
    return chr(int(escape[1], 16)) if escape[1] else escape[2]
