"""What several dialects do with their frames: JSON objects in and out, base64, numbers as text."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

from perch.errors import BadMessage, MessageTooBig
from perch.protocols.base import Request


class Writer:
    """Serialises one connection's frames; those of a mock backend say so."""

    def __init__(self, request: Request) -> None:
        self._dumps = request.dumps
        self._mock = request.mock

    def __call__(self, body: dict[str, Any]) -> str:
        if self._mock:
            body["mock"] = True
        return self._dumps(body)


def json_object(frame: str) -> dict[str, Any]:
    """The JSON object in a text frame.

    Raises:
        BadMessage: It is none.
    """
    try:
        message = json.loads(frame)
    except ValueError as error:
        raise BadMessage("A text frame must be a JSON object; audio goes into binary frames.") from error
    except RecursionError as error:
        raise BadMessage("The JSON is nested too deeply.") from error
    if not isinstance(message, dict):
        raise BadMessage('A text frame must be a JSON object with a "type".')
    return message


def base64_audio(value: object, limit: int) -> bytes:
    """Audio written in base64, checked for its size before it is decoded.

    Raises:
        BadMessage: It is no base64.
        MessageTooBig: It is more than ``limit`` bytes.
    """
    if not isinstance(value, str):
        raise BadMessage("The audio must be text in base64.")
    if len(value) > limit * 4 // 3 + 4:
        raise MessageTooBig(f"The audio of one message may have at most {limit} bytes.")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadMessage("The audio is not valid base64.") from error


def flag(value: object) -> bool | None:
    """True or false, in any of the ways clients write them; None if it is neither."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(
            value.lower()
        )
    return None


def number(value: object) -> float | None:
    """A finite number, also one written as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def whole(value: object, low: int, high: int) -> int | None:
    """A whole number from ``low`` to ``high``; None if it is none."""
    found = number(value)
    return int(found) if found is not None and found.is_integer() and low <= found <= high else None


def section(message: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The object at a path of names; empty if there is none."""
    found: Any = message
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with what ``over`` says, object by object."""
    result = dict(base)
    for key, value in over.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return result
