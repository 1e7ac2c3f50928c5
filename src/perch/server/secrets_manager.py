"""Secrets that are kept elsewhere: ``NAME_SECRET=aws:ID`` stands for ``NAME``, as ``NAME_FILE`` does for a file.

``aws:ID`` is a secret of AWS Secrets Manager by name or ARN, ``aws:ID#KEY`` one value of a secret that is a JSON
object. Region, credentials and endpoint are those of boto3 (``AWS_REGION``, ``AWS_ENDPOINT_URL``, a role …).
"""

import json

_TIMEOUT_S = 5


class SecretUnavailable(Exception):
    """Says which secret could not be read and why, and never what is in it."""


def resolve(reference: str) -> str:
    """The secret that ``reference`` names. Asks the network, for some seconds at most.

    Raises:
        SecretUnavailable: It cannot be had.
    """
    scheme, _, rest = reference.partition(":")
    if scheme != "aws" or not rest:
        raise SecretUnavailable("a secret is named as aws:ID or aws:ID#KEY")
    name, _, key = rest.partition("#")
    text = _from_aws(name)
    return _value(text, name, key) if key else text


def _from_aws(name: str) -> str:
    try:
        import boto3  # type: ignore[import-untyped]  # noqa: PLC0415 - an extra, and slow
        from botocore.config import Config  # type: ignore[import-untyped]  # noqa: PLC0415
        from botocore.exceptions import (  # type: ignore[import-untyped]  # noqa: PLC0415
            BotoCoreError,
            ClientError,
        )
    except ImportError as error:
        raise SecretUnavailable("AWS secrets need the extra: pip install 'perch-asr[aws]'") from error
    config = Config(connect_timeout=_TIMEOUT_S, read_timeout=_TIMEOUT_S, retries={"total_max_attempts": 2})
    try:
        answer = boto3.client("secretsmanager", config=config).get_secret_value(SecretId=name)
    except ClientError as error:
        raise SecretUnavailable(f"AWS refused {name}: {error.response['Error']['Code']}") from error
    except BotoCoreError as error:
        raise SecretUnavailable(f"AWS was not reached for {name}: {type(error).__name__}") from error
    if "SecretString" not in answer:
        raise SecretUnavailable(f"{name} is binary; it must be text")
    return str(answer["SecretString"])


def _value(text: str, name: str, key: str) -> str:
    try:
        value = json.loads(text)[key]
    except (ValueError, KeyError, TypeError) as error:
        raise SecretUnavailable(f"{name} is not a JSON object with {key!r}") from error
    if not isinstance(value, str):
        raise SecretUnavailable(f"{key!r} of {name} is not text")
    return value
