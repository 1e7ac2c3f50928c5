"""Write the reference pages that are facts of the code: settings, errors, events and the command line.

Run from the root of the checkout; ``--check`` changes nothing and fails if a page is out of date::

    ./run python scripts/make_docs.py
"""

import argparse
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from perch import errors
from perch.cli.main import VERBS
from perch.observability.metrics import EndpointSample, Metrics, Snapshot
from perch.protocols.base import CLOSE_CODES, CLOSE_INTERNAL
from perch.server.replies import STATUS
from perch.settings import _SECRETS, Settings

REFERENCE = Path("docs/reference")
SCHEMA = REFERENCE / "native-events.schema.json"

# --- settings ----------------------------------------------------------------------------------------

_GROUPS = {
    "The gateway's address and access": ("perch_host", "asr_enabled"),
    "Who may come in": ("perch_key_store", "perch_limits_on_outage"),
    "Limits": ("perch_max_sessions", "perch_max_parked"),
    "The engine beside the gateway": ("perch_engine_recogniser", "perch_engine_start_s"),
    "Riva or Speech NIM": ("riva_host", "perch_grpc_transport"),
    "Logs and traces": ("perch_log_level", "perch_otlp_endpoint"),
}
"""First and last setting of each group, in the order of ``Settings``."""

_NONE = "-"
_BOUNDS = {"Ge": "at least {}", "Gt": "more than {}", "Le": "at most {}", "Lt": "less than {}"}


def settings_tables() -> str:
    return "\n".join(
        f"## {title}\n\n{_settings_table(first, last)}" for title, (first, last) in _GROUPS.items()
    )


def _settings_table(first: str, last: str) -> str:
    names = list(Settings.model_fields)
    chosen = names[names.index(first) : names.index(last) + 1]
    rows = [_setting(name, Settings.model_fields[name]) for name in chosen]
    return _table(("Setting", "Type", "Default", "Meaning"), rows)


def _setting(name: str, field: FieldInfo) -> tuple[str, ...]:
    meaning = field.description or ""
    allowed = _allowed(field)
    if allowed:
        meaning = f"{meaning} {allowed}"
    if name in _SECRETS:
        meaning = f"{meaning} May be kept in a file: `{name.upper()}_FILE`."
    return f"`{name.upper()}`", _type_name(field), _default(field), meaning


def _type_name(field: FieldInfo) -> str:
    annotation = field.annotation
    plain = [kind for kind in get_args(annotation) if kind is not type(None)] or [annotation]
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    return names.get(plain[0], "choice")


def _allowed(field: FieldInfo) -> str:
    choices = [value for value in get_args(field.annotation) if isinstance(value, str)]
    if choices:
        return f"One of {', '.join(f'`{choice}`' for choice in choices)}."
    bounds = [
        text.format(getattr(limit, kind.lower()))
        for limit in field.metadata
        for kind, text in _BOUNDS.items()
        if type(limit).__name__ == kind
    ]
    return f"{' and '.join(bounds).capitalize()}." if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.default in (None, "", PydanticUndefined):
        return _NONE
    value = str(field.default)
    return f"`{value.lower() if isinstance(field.default, bool) else value}`"


# --- errors ------------------------------------------------------------------------------------------

_BEFORE_UPGRADE = {
    "unauthorized",
    "forbidden",
    "rate_limited",
    "origin_refused",
    "bad_message",
    "model_unavailable",
    "engine_unavailable",
    "at_capacity",
    "going_away",
    "asr_disabled",
    "internal_error",
}
"""The codes a request can be refused with over HTTP; all others happen inside a session."""

_HTTP = {**STATUS, "model_unavailable": 404}

_HELP = {
    "bad_message": (
        "A frame that is not in the protocol, or not allowed in the session's state; over HTTP, a wrong path or method.",
        "Correct the client; the message says what is allowed.",
    ),
    "bad_config": (
        "The start message or the URL has an unknown key or an impossible value, or the engine refused the configuration.",
        "Correct the settings; the message names every mistake at once.",
    ),
    "bad_audio": (
        "A frame is not a whole number of samples of the declared format, or has numbers that are not finite.",
        "Send whole samples in every frame, and check `encoding`.",
    ),
    "message_too_big": (
        "A WebSocket message is larger than `PERCH_MAX_MESSAGE_BYTES`.",
        "Send smaller frames; 100 ms each is usual.",
    ),
    "url_refused": (
        "a recording was to be fetched from an address that is not allowed",
        "send the recording itself, or a public https address where the operator allows it",
    ),
    "url_failed": ("the recording at that address could not be fetched", "check the address; try again"),
    "unauthorized": (
        "An API key is needed, and there is none or a wrong one.",
        "Send the key in one of the four places the message names.",
    ),
    "forbidden": (
        "The credentials are right, and do not allow this.",
        "Use a key with the scope the message names.",
    ),
    "rate_limited": (
        "More requests or audio within a minute than the caller may have, or too many wrong credentials from the address.",
        "Try again after `retry_after_s`. Operators: see the limits of the key.",
    ),
    "origin_refused": (
        "A page of another site opened the connection.",
        "Add the page's origin to `PERCH_ALLOWED_ORIGINS`.",
    ),
    "session_too_long": (
        "The session has more audio than `PERCH_MAX_SESSION_S`.",
        "Open another session and go on.",
    ),
    "idle_timeout": (
        "Nothing came from the client for `PERCH_IDLE_TIMEOUT_S`, and it was not waiting for its words.",
        "Connect again; send `ping` while there is nothing to say.",
    ),
    "lag_exceeded": (
        "Audio came faster than the engine takes it for longer than the limits allow, or the client does not read its events.",
        "Send at the pace of speech, and read every event as it comes.",
    ),
    "resume_unknown": (
        "The token names no session that can be taken up: too late, another API key, or a process that was killed.",
        "Start a new session, and send the audio again since the last `final`.",
    ),
    "language_unsupported": (
        "The client names a language that the model does not speak, or that no model here does; the message says which there are.",
        "Choose one of the languages that `GET /v1/models` lists.",
    ),
    "model_unavailable": (
        "The engine has no model of that name; or Riva itself says that it has none for that language.",
        "Choose a model and a language that `GET /v1/models` lists.",
    ),
    "engine_unavailable": (
        "The engine cannot be reached, or ended the stream.",
        "Try again after `retry_after_s`. Operators: `./run check riva`.",
    ),
    "engine_timeout": (
        "The engine stopped answering or stopped taking audio.",
        "Try again. Operators: look at the engine's GPU.",
    ),
    "engine_full": (
        "The engine has no free slot.",
        "Try again shortly. Operators: add engines or slots.",
    ),
    "engine_refused": (
        "The engine refused the gateway's credentials, or does not offer the call.",
        "Operators: check `RIVA_API_KEY`, `RIVA_METADATA` and the certificates.",
    ),
    "engine_failed": (
        "The engine broke while recognising.",
        "Try again; the finals that were sent stay valid.",
    ),
    "at_capacity": (
        "As many sessions are open as the gateway, the API key or the address may have.",
        "Try again after `retry_after_s`, or elsewhere.",
    ),
    "going_away": (
        "The gateway is shutting down.",
        "Connect again; another process or the next one takes the session.",
    ),
    "asr_disabled": (
        "The operator switched recognition off (`ASR_ENABLED=false`).",
        "Wait for the operator.",
    ),
    "internal_error": (
        "The gateway failed in a way it did not expect.",
        "Try again. Operators: the log has the details.",
    ),
}
"""What each code means and what to do about it. A code without an entry is an error of this script's user."""


def errors_tables() -> str:
    titles = {
        errors.ClientFault: "The client's mistakes",
        errors.EngineFault: "The engine's failures",
        errors.OurFault: "The gateway's own",
    }
    return "\n".join(f"## {title}\n\n{_errors_table(family)}" for family, title in titles.items())


def _errors_table(family: type[errors.PerchError]) -> str:
    kinds = {kind.code: kind for kind in _leaves(family)}  # two may share a code: clients see no difference
    rows = [_error(kind) for kind in kinds.values()]
    return _table(("Code", "Try again?", "HTTP", "Close code", "Meaning", "What to do"), rows)


def _leaves(kind: type[errors.PerchError]) -> Iterator[type[errors.PerchError]]:
    children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
    if not children:
        yield kind
    for child in children:
        yield from _leaves(child)


def _error(kind: type[errors.PerchError]) -> tuple[str, ...]:
    meaning, advice = _HELP[kind.code]
    fallback = 400 if kind.fault == "client" else 500
    status = str(_HTTP.get(kind.code, fallback)) if kind.code in _BEFORE_UPGRADE else _NONE
    close = str(CLOSE_CODES.get(kind.code, CLOSE_INTERNAL))
    return f"`{kind.code}`", "yes" if kind.retryable else "no", status, close, meaning, advice


# --- events ------------------------------------------------------------------------------------------

_TYPES = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false"}
_MORE = {
    "utterance_end": "The segment has ended; follows its final.",
    "notice": "Something worth showing that needs no action; the codes are below.",
    "pong": "Answers `ping`, in the order of the other events.",
}
"""For the events whose schema has no description."""


def events_table() -> str:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    kinds = [option["$ref"].rpartition("/")[2] for option in schema["oneOf"]]
    return _table(("Event", "Fields", "Meaning"), [_event(kind, schema["$defs"]) for kind in kinds])


def _event(kind: str, definitions: dict[str, Any]) -> tuple[str, ...]:
    definition = definitions[kind]
    fields = [
        f"`{name}` {_json_type(field, definitions)}"
        for name, field in definition["properties"].items()
        if name != "type"
    ]
    return f"`{kind}`", ", ".join(fields) or _NONE, definition.get("description") or _MORE[kind]


def _json_type(field: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in field:
        target = field["$ref"].rpartition("/")[2]
        return "(seconds)" if target == "seconds" else _json_type(definitions[target], definitions)
    if "oneOf" in field:
        kinds = [_json_type(option, definitions).strip("()") for option in field["oneOf"]]
        return f"({' or '.join(kinds)})"
    if "const" in field:
        return f"= `{json.dumps(field['const'])}`"
    if "enum" in field:
        return f"({' or '.join(str(choice) for choice in field['enum'])})"
    kinds = field.get("type", "object")
    names = [_TYPES.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return f"({' or '.join(names)})"


# --- command line ------------------------------------------------------------------------------------


def cli_sections() -> str:
    return "\n".join(_verb(verb, summary) for verb, summary in VERBS.items())


def _verb(verb: str, summary: str) -> str:
    return _described(f"./run {verb}", summary, parser_of(verb))


def _described(command: str, summary: str, parser: argparse.ArgumentParser) -> str:
    """The options of one command, then those of the commands under it."""
    actions = [action for action in parser._actions if action.dest != "help"]  # noqa: SLF001
    under = [action for action in actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001
    rows = [_argument(action) for action in actions if action not in under]
    table = f"\n{_table(('Argument', 'Meaning'), rows)}" if rows else ""
    text = f"## `{command}`\n\n{summary[0].upper()}{summary[1:]}.\n{table}"
    for action in under:
        helps = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
        for name, below in action.choices.items():
            text += "\n" + _described(f"{command} {name}", helps[name], below)
    return text


def parser_of(verb: str) -> argparse.ArgumentParser:
    """The options of ``perch verb``."""
    parser = argparse.ArgumentParser(prog=f"perch {verb}")
    import_module(f"perch.cli.{verb}").add_arguments(parser)
    return parser


def _argument(action: argparse.Action) -> tuple[str, ...]:
    choices = "|".join(map(str, action.choices)) if action.choices else ""
    value = choices or (action.metavar if isinstance(action.metavar, str) else action.dest.upper())
    takes_value = action.nargs != 0
    if not action.option_strings:
        name = f"`{value}{' …' if action.nargs == '*' else ''}`"
    else:
        name = f"`{', '.join(action.option_strings)}{f' {value}' if takes_value else ''}`"
    text = (action.help or "") % vars(action)  # as argparse fills it in
    return name, f"{text[:1].upper()}{text[1:]}."


# --- pages -------------------------------------------------------------------------------------------


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


# --- metrics -----------------------------------------------------------------------------------------


def metrics_table() -> str:
    sample = Snapshot(endpoints=(EndpointSample("", 0, "closed"),))
    families = text_string_to_metric_families(Metrics().render(sample)[0].decode())
    rows = [_metric(family) for family in families if family.name.startswith("perch_")]
    return _table(("Metric", "Kind", "Labels", "Meaning"), sorted(rows))


def _metric(family: Metric) -> tuple[str, ...]:
    labels: dict[str, list[str]] = {}
    for sample in family.samples:
        for label, value in sample.labels.items():
            if value not in labels.setdefault(label, []):
                labels[label].append(value)
    labels.pop("le", None)
    known = [f"`{label}`{_values(values)}" for label, values in labels.items()]
    name = f"{family.name}_total" if family.type == "counter" else family.name
    name = f"{name}_info" if family.type == "info" else name
    return f"`{name}`", family.type, ", ".join(known) or _NONE, family.documentation


def _values(values: list[str]) -> str:
    """The values a label has, where they are few enough to read."""
    return f" ({', '.join(sorted(values))})" if 1 < len(values) <= _FEW else ""


_FEW = 6

PARTS: dict[str, tuple[str, Callable[[], str]]] = {
    "settings.md": ("settings", settings_tables),
    "errors.md": ("errors", errors_tables),
    "protocol.md": ("events", events_table),
    "cli.md": ("verbs", cli_sections),
    "metrics.md": ("metrics", metrics_table),
}
"""Page → the name of its generated part, and what makes it."""


def page(name: str, text: str) -> str:
    """``text`` of the page ``name`` with its generated part made anew."""
    marker, make = PARTS[name]
    begin, end = f"<!-- {marker}: made by scripts/make_docs.py -->", f"<!-- end of {marker} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    made, count = pattern.subn(lambda _: f"{begin}\n\n{make()}\n{end}", text)
    if count != 1:
        raise SystemExit(f"{name} needs one {begin} … {end}")
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the generated parts of docs/reference.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page is out of date")
    parser.add_argument("--folder", type=Path, default=REFERENCE, help="where the pages are")
    arguments = parser.parse_args()
    stale = False
    for name in PARTS:
        path = arguments.folder / name
        before = path.read_text(encoding="utf-8")
        after = page(name, before)
        if before == after:
            continue
        stale = True
        if arguments.check:
            diff = difflib.unified_diff(before.splitlines(), after.splitlines(), name, "made", lineterm="")
            print("\n".join(diff))
        else:
            path.write_text(after, encoding="utf-8")
            print(f"{path} made anew")
    return 1 if stale and arguments.check else 0


if __name__ == "__main__":
    sys.exit(main())
