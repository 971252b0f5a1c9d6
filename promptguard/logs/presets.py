"""What a logged row says: texts to analyse, their context, and who asked when, by the format of the log.

A preset is a table: for each field the paths it may stand at, the first that holds something counts. A path is keys
joined by dots; a key may hold dots itself (``attributes.gen_ai.request.model``), a whole number is a place in a list,
and a string that holds JSON is looked into. ``--map`` puts paths of the user's own in front.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from promptguard import messages
from promptguard.errors import InputError
from promptguard.types import Context, Message, Tool

FIELDS = (
    "text", "messages", "system_prompt", "tools", "history", "context", "source", "user_role", "purpose",
    "id", "time", "user", "session", "application", "key", "model", "input_tokens", "output_tokens",
)  # fmt: skip
"""Fields that a map may name."""

TURNS = ("last", "all")
"""What of a conversation is analysed: the user's last turn, or also the new tool results and documents."""

_TEXTS = ("text", "messages", "system_prompt", "tools", "history", "context", "purpose")
_ABOUT = ("id", "user", "session", "application", "key", "model")
_LONGEST_KEPT = 256
"""Characters of a string in ``original``; a longer one is left out, as it may be somebody's text."""

_ANSWERS = frozenset(
    "response output outputs completion completions choices answer result reply request body input messages prompt "
    "attributes proxy_server_request kwargs generation".split()
)
"""Keys that hold what was asked and answered in one log or another: never in ``original``."""


@dataclass(frozen=True, slots=True)
class Row:
    """A logged row as it is scored.

    Attributes:
        parts: texts and their contexts, at least one; never shown in a repr.
        about: id, time, user, session, application, key, model, input_tokens, output_tokens, original.
        preset: name of the preset that read it.
    """

    parts: tuple[tuple[str, Context], ...] = field(repr=False)
    about: Mapping[str, Any] = field(repr=False)
    preset: str


@dataclass(frozen=True, slots=True)
class Preset:
    """The table of one format.

    Attributes:
        name: as in ``--preset``.
        recognises: whether a row is of this format.
        paths: for each field, where it may stand.
    """

    name: str
    recognises: Callable[[Mapping[str, Any]], bool]
    paths: Mapping[str, tuple[str, ...]]


def _under(prefixes: Sequence[str], *names: str) -> tuple[str, ...]:
    return tuple(prefix + name for name in names for prefix in prefixes)


_BODY = ("", "body.", "request.", "request.body.", "kwargs.")
"""Where the body of a request stands in a log."""

_ID = ("id", "request_id", "custom_id", "call_id", "uuid", "response.id")
_TIME = ("time", "timestamp", "created_at", "created", "start_time", "startTime", "date", "datetime", "ts")
_USER = ("user", "user_id", "userId", "end_user", "actor")
_SESSION = ("session", "session_id", "sessionId", "conversation_id", "conversation", "thread_id")
_APPLICATION = ("application", "app", "application_id", "app_id", "service")
_KEY = ("key_id", "api_key_id", "key_alias", "api_key_alias", "key")
_USAGE = ("usage.", "response.usage.", "response.body.usage.", "")
_COMMON = {
    "id": _ID,
    "time": _TIME,
    "session": (*_under(_BODY, "metadata.session_id", "metadata.conversation_id"), *_SESSION),
    "application": (*_APPLICATION, *_under(_BODY, "metadata.application", "metadata.app")),
    "key": _KEY,
    "model": _under(_BODY, "model"),
    "user_role": ("user_role", *_under(_BODY, "metadata.user_role")),
    "source": ("source",),
    "input_tokens": _under(_USAGE, "input_tokens", "prompt_tokens"),
    "output_tokens": _under(_USAGE, "output_tokens", "completion_tokens"),
}

_OPENAI: Mapping[str, tuple[str, ...]] = {
    **_COMMON,
    "messages": _under(_BODY, "messages"),
    "tools": _under(_BODY, "tools", "functions"),
    "user": (*_under(_BODY, "user", "safety_identifier", "metadata.user_id"), *_USER),
}
_RESPONSES: Mapping[str, tuple[str, ...]] = {
    **_COMMON,
    "messages": _under(_BODY, "input"),
    "system_prompt": _under(_BODY, "instructions"),
    "tools": _under(_BODY, "tools"),
    "session": (*_under(_BODY, "conversation.id", "conversation"), *_COMMON["session"]),
    "user": (*_under(_BODY, "user", "safety_identifier", "metadata.user_id"), *_USER),
}
_ANTHROPIC: Mapping[str, tuple[str, ...]] = {
    **_COMMON,
    "messages": _under(_BODY, "messages"),
    "system_prompt": _under(_BODY, "system"),
    "tools": _under(_BODY, "tools"),
    "user": (*_under(_BODY, "metadata.user_id"), *_USER),
}
_LITELLM: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "proxy_server_request.messages", "proxy_server_request.body.messages"),
    "tools": ("model_parameters.tools", "proxy_server_request.tools", "proxy_server_request.body.tools"),
    "id": ("request_id", "id", "litellm_call_id"),
    "time": ("startTime", "start_time"),
    "user": ("end_user", "metadata.user_api_key_end_user_id", "metadata.user_api_key_user_id", "user"),
    "session": ("session_id", "trace_id", "litellm_trace_id"),
    "application": ("metadata.user_api_key_team_alias", "metadata.user_api_key_team_id", "team_id", "model_group"),
    "key": ("metadata.user_api_key_alias", "metadata.user_api_key_hash", "api_key"),
    "model": ("model",),
    "input_tokens": ("prompt_tokens",),
    "output_tokens": ("completion_tokens",),
}
_LANGFUSE: Mapping[str, tuple[str, ...]] = {
    "messages": ("input.messages", "input.input", "input.prompt", "input.args.0", "input"),
    "tools": ("input.tools", "tool_definitions", "model_parameters.tools"),
    "id": ("id",),
    "time": ("start_time", "startTime", "timestamp"),
    "user": ("user_id", "userId", "trace.userId"),
    "session": ("session_id", "sessionId", "trace_id", "traceId"),
    "application": ("trace_name", "traceName", "name"),
    "model": ("provided_model_name", "providedModelName", "model"),
    "input_tokens": ("usage_details.input", "usageDetails.input", "promptTokens", "usage.input", "inputTokens"),
    "output_tokens": (
        "usage_details.output", "usageDetails.output", "completionTokens", "usage.output", "outputTokens",
    ),
}  # fmt: skip
_SPAN = ("attributes.", "Attributes.", "SpanAttributes.", "")
_RESOURCE = (*_SPAN, "resource.attributes.", "ResourceAttributes.")
_OTEL: Mapping[str, tuple[str, ...]] = {
    "messages": _under(_SPAN, "gen_ai.input.messages", "gen_ai.prompt"),
    "system_prompt": _under(_SPAN, "gen_ai.system_instructions"),
    "tools": _under(_SPAN, "gen_ai.tool.definitions"),
    "id": ("span_id", "spanId", "SpanId", "context.span_id", "id"),
    "time": ("start_time", "startTimeUnixNano", "start_time_unix_nano", "Timestamp", "timestamp", "time"),
    "user": _under(_SPAN, "user.id", "enduser.id", "user"),
    "session": (*_under(_SPAN, "gen_ai.conversation.id", "session.id"), "trace_id", "traceId", "TraceId"),
    "application": (*_under(_RESOURCE, "service.name"), *_under(_SPAN, "gen_ai.agent.name")),
    "model": _under(_SPAN, "gen_ai.request.model", "gen_ai.response.model"),
    "input_tokens": _under(_SPAN, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens"),
    "output_tokens": _under(_SPAN, "gen_ai.usage.output_tokens", "gen_ai.usage.completion_tokens"),
}
_PLAIN: Mapping[str, tuple[str, ...]] = {
    **_COMMON,
    "text": ("text", "prompt", "query", "question", "user_message", "message", "content", "input", "instruction"),
    "system_prompt": ("system_prompt", "system", "system_message", "context.system_prompt"),
    "history": ("history", "context.history"),
    "tools": ("tools", "context.tools"),
    "purpose": ("purpose", "context.purpose"),
    "source": ("source", "channel", "context.source"),
    "user_role": ("user_role", "context.user_role"),
    "user": _USER,
    "session": (*_SESSION, "context.session"),
    "application": (*_APPLICATION, "context.application"),
    "model": ("model", "model_name", "model_id"),
    "input_tokens": ("input_tokens", "prompt_tokens", "tokens_in"),
    "output_tokens": ("output_tokens", "completion_tokens", "tokens_out"),
}


def _any(row: Mapping[str, Any], paths: Iterable[str]) -> bool:
    return any(_at(row, path) is not None for path in paths)


def _is_otel(row: Mapping[str, Any]) -> bool:
    attributes = next((row[key] for key in ("attributes", "Attributes", "SpanAttributes") if key in row), row)
    return isinstance(attributes, Mapping) and any(str(key).startswith("gen_ai") for key in attributes)


def _is_langfuse(row: Mapping[str, Any]) -> bool:
    names = ("trace_id", "traceId", "trace_name", "provided_model_name", "providedModelName", "bookmarked", "htmlPath")
    return "input" in row and any(name in row for name in names) and "instructions" not in row


def _is_litellm(row: Mapping[str, Any]) -> bool:
    names = ("call_type", "proxy_server_request", "model_map_information", "hidden_params", "litellm_call_id")
    return any(name in row for name in names) and _any(row, _LITELLM["messages"])


def _is_anthropic(row: Mapping[str, Any]) -> bool:
    if not _any(row, _ANTHROPIC["messages"]):
        return False
    version = _any(row, _under(_BODY, "anthropic_version", "system"))
    return version or str(_first(row, _ANTHROPIC["model"]) or "").startswith("claude")


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("otel", _is_otel, _OTEL),
        Preset("litellm", _is_litellm, _LITELLM),
        Preset("langfuse", _is_langfuse, _LANGFUSE),
        Preset("anthropic", _is_anthropic, _ANTHROPIC),
        Preset("openai", lambda row: _any(row, _OPENAI["messages"]), _OPENAI),
        Preset(
            "openai-responses",
            lambda row: (
                _any(row, _RESPONSES["messages"])
                and ("input" not in row or _any(row, ("model", "instructions", "tools", "previous_response_id")))
            ),
            _RESPONSES,
        ),
        Preset("plain", lambda row: _any(row, _PLAIN["text"]), _PLAIN),
    )
}
"""The formats that are known, in the order they are tried."""

AUTO = "auto"


class Mapper:
    """Turns logged rows into texts with contexts.

    Args:
        preset: a name in ``PRESETS``, or ``auto`` to recognise each row's.
        map: paths of the user's own, by field: they come before the preset's.
        turns: what of a conversation is analysed, one of ``TURNS``.
        applications: those with a policy of their own, which the contexts of their rows then name.

    Raises:
        InputError: a preset, field or turn is unknown.
    """

    def __init__(
        self,
        preset: str = AUTO,
        map: Mapping[str, str] | None = None,
        turns: str = "last",
        applications: Collection[str] = (),
    ) -> None:
        if preset != AUTO and preset not in PRESETS:
            raise InputError(f"preset must be one of {', '.join((AUTO, *PRESETS))}")
        if turns not in TURNS:
            raise InputError(f"turns must be one of {', '.join(TURNS)}")
        self._own = dict(map or {})
        unknown = sorted(set(self._own) - set(FIELDS))
        if unknown:
            raise InputError(f"a map names no field {unknown[0]!r:.40}; fields: {', '.join(FIELDS)}")
        self._preset, self._turns, self._applications = preset, turns, frozenset(applications)

    def row(self, logged: Mapping[str, Any]) -> Row:
        """Read a row.

        Args:
            logged: its keys and values.

        Returns:
            What is scored.

        Raises:
            InputError: there is no text, or a field is of an unusable type; nothing of the content is quoted.
        """
        logged = _attributes(logged)
        preset = self._chosen(logged)
        found = {name: self._value(logged, preset, name) for name in FIELDS}
        parts = self._parts(found)
        about: dict[str, Any] = {name: _short(found[name]) for name in _ABOUT}
        about["time"] = _time(found["time"])
        about["input_tokens"], about["output_tokens"] = _count(found["input_tokens"]), _count(found["output_tokens"])
        about["original"] = self._original(logged, preset)
        application = about["application"]
        if application in self._applications:
            parts = tuple((text, replace(context, application=application)) for text, context in parts)
        return Row(parts, about, preset.name)

    def _chosen(self, logged: Mapping[str, Any]) -> Preset:
        if self._preset != AUTO:
            return PRESETS[self._preset]
        for preset in PRESETS.values():
            if preset.recognises(logged):
                return preset
        if self._own.keys() & {"text", "messages"}:
            return PRESETS["plain"]
        raise InputError("no preset recognises this row; name one, or say where the text is with map text=PATH")

    def _value(self, logged: Mapping[str, Any], preset: Preset, name: str) -> Any:
        own = self._own.get(name)
        if own is not None:
            value = _at(logged, own)
            return (
                value if value is not None or name in ("text", "messages") else _first(logged, preset.paths.get(name))
            )
        if name in ("text", "messages") and self._own.keys() & {"text", "messages"}:
            return None
        return _first(logged, preset.paths.get(name))

    def _parts(self, found: Mapping[str, Any]) -> tuple[tuple[str, Context], ...]:
        context = _context(found)
        text, turns = found["text"], _json(found["messages"])
        if isinstance(text, str):
            return ((text, _with(context, found)),)
        if text is not None:
            turns = text
        if turns is None:
            raise InputError("the row has no text")
        if isinstance(turns, str | Mapping):
            turns = [turns]
        if not isinstance(turns, Sequence):
            raise InputError(f"the text must be a string or a list of messages, not {type(turns).__name__}")
        made = messages.parts(
            [_otel_message(turn) for turn in _plain_items(turns)],
            system=_system(found["system_prompt"]),
            tools=[_tool(tool) for tool in _list(found["tools"], "tools")],
            context=context,
        )
        if self._turns == "all":
            return tuple((part.text, part.context) for part in made)
        asked = [part for part in made if part.context.source not in ("tool", "document")] or list(made)
        return ((asked[-1].text, asked[-1].context),)

    def _original(self, logged: Mapping[str, Any], preset: Preset) -> str | None:
        used = _first_keys(preset) | {path.split(".")[0] for n in _TEXTS if (path := self._own.get(n))} | _ANSWERS
        kept = {key: _pruned(value) for key, value in logged.items() if key not in used and not _is_genai(key)}
        kept = {key: value for key, value in kept.items() if value is not None}
        return json.dumps(kept, ensure_ascii=False, default=str) if kept else None


@lru_cache(maxsize=64)
def _keys(name: str) -> frozenset[str]:
    paths = PRESETS[name].paths
    return frozenset(path.split(".")[0] for field_name in _TEXTS for path in paths.get(field_name, ()))


def _first_keys(preset: Preset) -> frozenset[str]:
    return _keys(preset.name)


def _is_genai(key: str) -> bool:
    return key.startswith(("gen_ai.input", "gen_ai.output", "gen_ai.prompt", "gen_ai.completion", "gen_ai.system_"))


def _pruned(value: Any) -> Any:
    """A value without long strings, and without what is asked and answered in nested objects; None if nothing is left.

    Raises:
        InputError: it is nested too deeply.
    """
    try:
        return _pruned_inside(value)
    except RecursionError:
        raise InputError("the row is nested too deeply") from None


def _pruned_inside(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= _LONGEST_KEPT else None
    if isinstance(value, Mapping):
        inside = {str(k): _pruned_inside(v) for k, v in value.items() if k not in _ANSWERS and not _is_genai(str(k))}
        return {k: v for k, v in inside.items() if v is not None} or None
    if isinstance(value, list | tuple):
        return [v for item in value if (v := _pruned_inside(item)) is not None] or None
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:_LONGEST_KEPT]


# --- paths ----------------------------------------------------------------------------------------


def _first(row: Mapping[str, Any], paths: Iterable[str] | None) -> Any:
    for path in paths or ():
        value = _at(row, path)
        if value is not None and value != "":
            return value
    return None


def _at(value: Any, path: str) -> Any:
    """The value at a path, None if there is none; the longest key that fits counts."""
    if isinstance(value, dict):
        if path in value:
            return value[path]
        for key, rest in _splits(path):
            inner = value.get(key)
            if inner is not None:
                found = _at(inner, rest)
                if found is not None:
                    return found
        return None
    if isinstance(value, str):
        inner = _json(value)
        return None if isinstance(inner, str) else _at(inner, path)
    if isinstance(value, list):
        head, _, rest = path.partition(".")
        if head.isascii() and head.isdigit() and int(head) < len(value):
            return _at(value[int(head)], rest) if rest else value[int(head)]
    return None


@lru_cache(maxsize=4096)
def _splits(path: str) -> tuple[tuple[str, str], ...]:
    """A path as a key and the rest, the longest key first."""
    parts = path.split(".")
    return tuple((".".join(parts[:i]), ".".join(parts[i:])) for i in range(len(parts) - 1, 0, -1))


def _json(value: Any) -> Any:
    """What a string that holds a JSON object or list says; any other value as it is."""
    if not isinstance(value, str) or value[:1] not in ("{", "["):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value  # a text that begins with a bracket


# --- fields ---------------------------------------------------------------------------------------


def _context(found: Mapping[str, Any]) -> Context:
    """What a row says of the situation, but for what a conversation brings itself."""
    given = _json(found["context"])
    base = Context.of(None if given == "" else given)
    history = [_turn(turn) for turn in _list(found["history"], "history")]
    source = found["source"]
    return Context(
        system_prompt=base.system_prompt,
        source=source if source is not None and source in _sources() else base.source,
        user_role=_short(found["user_role"]) or base.user_role,
        history=tuple(history) or base.history,
        tools=base.tools,
        purpose=_text(found["purpose"], "purpose") or base.purpose,
    )


def _with(context: Context, found: Mapping[str, Any]) -> Context:
    """The context of a bare text, with the row's system prompt and tools."""
    tools = tuple(
        Tool(str(tool.get("name")), str(tool.get("description") or "")) for tool in map(_definition, _tools(found))
    )
    system = _system(found["system_prompt"])
    if system is not None and not isinstance(system, str):
        system = "\n\n".join(str(block.get("text") or "") for block in system)
    return Context(
        system_prompt=system or context.system_prompt,
        source=context.source,
        user_role=context.user_role,
        history=context.history,
        tools=tools or context.tools,
        purpose=context.purpose,
    )


def _tools(found: Mapping[str, Any]) -> list[Any]:
    return [_tool(tool) for tool in _list(found["tools"], "tools")]


def _definition(tool: Any) -> Mapping[str, Any]:
    inner = tool.get("function")
    return inner if isinstance(inner, Mapping) else tool


def _sources() -> tuple[str, ...]:
    from promptguard.types import SOURCES

    return SOURCES


def _list(value: Any, name: str) -> list[Any]:
    value = _json(value)
    if value is None or value == "":
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a list, not {type(value).__name__}")
    return [_json(item) for item in value]


def _turn(value: Any) -> Message:
    if isinstance(value, str):
        return Message("user", value)
    if isinstance(value, Mapping):
        role, content = value.get("role"), value.get("content")
        if isinstance(role, str) and isinstance(content, str):
            return Message(role, content)
    raise InputError("history must hold strings, or objects with the strings role and content")


def _tool(value: Any) -> Any:
    if isinstance(value, str):
        return {"name": value}
    if not isinstance(value, Mapping):
        raise InputError(f"tools must hold names or objects, not {type(value).__name__}")
    return value


def _plain_items(turns: Sequence[Any]) -> list[Any]:
    """Turns, those that are bare strings as the user's."""
    return [{"role": "user", "content": turn} if isinstance(turn, str) else turn for turn in map(_json, turns)]


def _system(value: Any) -> Any:
    value = _json(value)
    if isinstance(value, list):  # blocks of Anthropic's have a text, parts of OpenTelemetry's a content
        return [
            {"type": "text", "text": block if isinstance(block, str) else block.get("text") or block.get("content")}
            for block in value
            if isinstance(block, str | Mapping)
        ]
    return _text(value, "the system prompt")


def _text(value: Any, name: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{name} must be a string, not {type(value).__name__}")
    return value


def _short(value: Any) -> str | None:
    """An id or a name, whatever its type."""
    if value is None or isinstance(value, str):
        return value or None
    if isinstance(value, bool | Mapping | list):
        return None
    return str(value)


def _count(value: Any) -> int | None:
    if isinstance(value, str):
        value = float(value) if value.replace(".", "", 1).isascii() and value.replace(".", "", 1).isdigit() else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**63:
        return None
    return int(value)


def _time(value: Any) -> datetime.datetime | None:
    """A time in UTC, from ISO 8601 or from seconds, milli-, micro- or nanoseconds since 1970; None if it is neither."""
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            value = _number(value)
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        for unit in (1, 1e3, 1e6, 1e9):
            if 0 < value / unit < 2e10:
                return datetime.datetime.fromtimestamp(value / unit, datetime.UTC)
        return None
    if not isinstance(value, datetime.datetime):
        return None
    try:
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)
    except OverflowError:  # the first or last hours of the calendar
        return None


def _number(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


# --- OpenTelemetry ----------------------------------------------------------------------------------


def _attributes(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The row with attributes that are written as lists of keys and typed values made into mappings."""
    made = dict(row)
    for name in ("attributes", "resource"):
        value = _json(made.get(name))
        if name == "resource" and isinstance(value, Mapping) and "attributes" in value:
            made[name] = {**value, "attributes": _flat(value["attributes"])}
        elif name == "attributes" and value is not None:
            flat = _flat(value)
            made[name] = _indexed(flat) if isinstance(flat, Mapping) else flat
    return _indexed(made)


def _indexed(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    """Attributes with the messages of ``gen_ai.prompt.0.role``, ``gen_ai.prompt.0.content`` … put together.

    That is how instrumentations wrote them before the conventions had ``gen_ai.input.messages``.
    """
    if "gen_ai.prompt.0.role" not in attributes:
        return attributes
    turns: list[dict[str, Any]] = []
    while (role := attributes.get(f"gen_ai.prompt.{len(turns)}.role")) is not None:
        turns.append({"role": role, "content": _json(attributes.get(f"gen_ai.prompt.{len(turns)}.content"))})
    return {**attributes, "gen_ai.input.messages": turns}


def _flat(attributes: Any) -> Any:
    if not isinstance(attributes, list):
        return attributes
    return {
        str(item["key"]): _any_value(item["value"])
        for item in attributes
        if isinstance(item, Mapping) and "key" in item and "value" in item
    }


def _any_value(value: Any) -> Any:
    """A value as OTLP's JSON types it."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    kind, inner = next(iter(value.items()))
    if kind == "arrayValue" and isinstance(inner, Mapping):
        return [_any_value(item) for item in inner.get("values") or []]
    if kind == "kvlistValue" and isinstance(inner, Mapping):
        return _flat(inner.get("values") or [])
    if kind == "intValue":
        return _count(inner)
    return inner if kind in ("stringValue", "boolValue", "doubleValue", "bytesValue") else value


def _otel_message(message: Any) -> Any:
    """A message of OpenTelemetry's, which has parts, as one that ``promptguard.messages`` reads; others as they are."""
    if not isinstance(message, Mapping) or "parts" not in message or "content" in message:
        return message
    role, parts = message.get("role"), message["parts"]
    blocks = [_block(part, role) for part in parts] if isinstance(parts, list) else parts
    return {"role": "user" if role == "tool" else role, "content": blocks}


def _block(part: Any, role: Any) -> Any:
    if isinstance(part, str):
        part = {"type": "text", "content": part}
    if not isinstance(part, Mapping):
        raise InputError(f"a part of a message must be an object, not {type(part).__name__}")
    kind, content = part.get("type"), part.get("content")
    if kind == "text" and role == "tool":
        return {"type": "tool_result", "content": content}
    if kind == "text":
        return {"type": "text", "text": content}
    if kind == "tool_call":
        return {"type": "tool_use", "name": part.get("name"), "input": part.get("arguments")}
    if kind == "tool_call_response":
        answer = part.get("response", part.get("result"))
        written = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, default=str)
        return {"type": "tool_result", "content": written}
    if kind == "reasoning":
        return {"type": "thinking"}
    return {"type": "file"}  # an image, a file, or a kind of its own: nothing that is read
