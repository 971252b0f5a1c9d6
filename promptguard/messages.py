"""A conversation as an API takes it becomes the parts that must be analysed, each in its context.

Understood are the messages of OpenAI's chat completions, the input items of its responses API, and
Anthropic's messages, as mappings or as the objects their clients return. Roles and blocks may be mixed.

What is analysed is everything that came from outside and is new: the last user turn, and the documents
and tool results within or after it. The last user turn starts after the last assistant turn that is
*final*, one that called no tool: an agent's loop of calls and results belongs to the turn that began it.
A conversation that ends with a final assistant turn is judged on the turn which that one answers.

The system prompt is what the conversation's system and developer messages and ``system=`` say, joined by
blank lines; ``context.system_prompt`` counts only where they say nothing. So with tools: ``tools=`` before
``context.tools``. Turns in ``context.history`` come before the conversation's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeAlias

from promptguard.errors import InputError
from promptguard.policy import severity
from promptguard.types import SCHEMA_VERSION, Analysis, Context, ContextLike, Decision, Message, Reason, Source, Tool

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_CALL_ITEMS = ("function_call", "custom_tool_call", "mcp_call")
_ITEMS = (*_CALL_ITEMS, "function_call_output", "custom_tool_call_output", "reasoning")
_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
_WITHOUT_TEXT = {
    "image": "[image]", "image_url": "[image]", "input_image": "[image]", "input_audio": "[audio]",
    "video_url": "[video]", "file": "[file]", "input_file": "[file]", "container_upload": "[file]",
}  # fmt: skip
_DOCUMENTS = ("document", "search_result")
_CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_THOUGHTS = ("thinking", "redacted_thinking")
_READABLE = (*_TEXT, *_WITHOUT_TEXT, *_DOCUMENTS)
_BLOCKS = (*_READABLE, *_CALLS, "tool_result", "*_tool_result", *_THOUGHTS)
_Read: TypeAlias = tuple[list[str], bool]  # the texts in something, and whether it holds more than text
# Fields that hold a term of the format and no prose; read all the same if they hold a space.
_FORMAL = frozenset(("type", "format", "required", "$schema", "$ref", "id", "tool_use_id", "file_id", "page_age"))


@dataclass(frozen=True, slots=True)
class Part:
    """A text to be analysed and the situation it arrived in.

    Attributes:
        where: its place in the conversation, for example ``messages[4].content[1]`` or ``tools[0]``.
        text: the text; never shown in a repr.
        context: the context, with the part's own source and, as history, all turns before it.
    """

    where: str
    text: str = field(repr=False)
    context: Context


@dataclass(frozen=True, slots=True)
class ConversationAnalysis:
    """The verdict on a conversation: that on its worst part.

    Attributes:
        analyses: the analysis of each part, by its place, in the order of the conversation; at least one.
        not_read: places of new images, files and the like, which this library does not read and which
            therefore do not count in the decision.
    """

    analyses: Mapping[str, Analysis]
    not_read: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.analyses:
            raise InputError("a ConversationAnalysis needs the analysis of at least one part")
        object.__setattr__(self, "analyses", dict(self.analyses))

    @property
    def where(self) -> str:
        """Place of the part that decides: the most severe decision, then the highest risk, then the first."""
        return max(self.analyses, key=lambda w: (severity(self.analyses[w].decision), self.analyses[w].risk))

    @property
    def worst(self) -> Analysis:
        """The analysis that decides."""
        return self.analyses[self.where]

    @property
    def decision(self) -> Decision:
        """The most severe decision on any part."""
        return self.worst.decision

    @property
    def reason(self) -> Reason:
        """Why the worst part was decided as it was."""
        return self.worst.reason

    @property
    def risk(self) -> float:
        """Risk of the worst part, in [0, 1]; not of the conversation as a whole."""
        return self.worst.risk

    @property
    def intents(self) -> tuple[str, ...]:
        """Intents of the worst part, most likely first; empty means benign."""
        return self.worst.intents

    @property
    def flagged(self) -> bool:
        """Whether the decision is anything but *allow*."""
        return self.worst.flagged

    def to_dict(self) -> dict[str, Any]:
        """The analysis as fresh, JSON-ready values, under the names of the attributes."""
        return {
            "schema_version": SCHEMA_VERSION,
            "where": self.where,
            "intent": self.worst.intent,
            "intents": list(self.intents),
            "risk": self.risk,
            "decision": self.decision.value,
            "reason": self.reason.value,
            "analyses": {place: analysis.to_dict() for place, analysis in self.analyses.items()},
            "not_read": list(self.not_read),
        }


class _Piece(NamedTuple):
    """The smallest unit of a conversation: a block, a call, a message of one string."""

    where: str
    role: str  # system, user, assistant, tool or document
    text: str  # what stands in the history: for a block without text a note such as "[image]"
    source: Source | None = None  # None: not analysed
    call: bool = False
    not_read: bool = False  # has something besides its text, or no text at all


def parts(
    messages: Sequence[Mapping[str, Any]],
    *,
    system: str | Sequence[Mapping[str, Any]] | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    context: ContextLike = None,
    include_tools: bool = False,
) -> tuple[Part, ...]:
    """Find what must be analysed in a conversation, and put each part into its context.

    A tool result is one part however many blocks it has; the blocks of a user message are a part each.
    Images, audio and files have no text here: ``not_read`` lists them.

    Args:
        messages: the conversation, oldest message first.
        system: the system prompt, a string or text blocks, where it stands outside the messages.
        tools: tool definitions as the API takes them; their names and descriptions go into the context.
        context: everything else that is known. Its ``source``, if any, becomes that of the user's own
            text, which otherwise is "user"; tool results and documents keep theirs.
        include_tools: whether the definitions are analysed, too, as content from a tool: name,
            description, and all prose in the schema. Their context names neither turns nor tools.

    Returns:
        The parts, definitions of tools first, then in the order of the conversation; at least one.

    Raises:
        InputError: for a malformed conversation, naming the place and what is accepted but nothing of the
            content; and if there is nothing to analyse.
    """
    base = Context.of(context)
    pieces = _pieces(messages)
    definitions = [_definition(tool, f"tools[{i}]") for i, tool in enumerate(_sequence(tools, "tools"))]
    prompts = [*_texts(system, "system", _TEXT)[0], *(p.text for p in pieces if p.role == "system")]
    prompt = "\n\n".join(text for text in prompts if text.strip()) or base.system_prompt
    base = replace(base, system_prompt=prompt, tools=tuple(tool for tool, _ in definitions) or base.tools)
    found = []
    if include_tools:
        alone = replace(base, source="tool", history=(), tools=())
        found += [Part(f"tools[{i}]", _described(*both), alone) for i, both in enumerate(definitions)]
    turns = [p for p in pieces if p.role != "system"]
    new = _new(turns)
    history, said = list(base.history), list[str]()
    for i, piece in enumerate(turns):
        if piece.role == "assistant":  # what it says and calls between two turns of others is one turn
            said.append(piece.text)
            continue
        if any(said):
            history.append(Message("assistant", "\n".join(filter(None, said))))
        said.clear()
        if i in new and piece.source is not None:
            source = base.source or piece.source if piece.source == "user" else piece.source
            found.append(Part(piece.where, piece.text, replace(base, source=source, history=tuple(history))))
        history.append(Message(piece.role, piece.text))
    if not found:
        raise InputError("messages hold nothing to analyse; needed: a new text of the user, document or tool result")
    return tuple(found)


def not_read(messages: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Places of the new images, audio, files and encrypted results in a conversation, which are not read.

    Args:
        messages: the conversation, as for ``parts``.

    Returns:
        Places such as ``messages[2].content[0]``, in order.

    Raises:
        InputError: for a malformed conversation.
    """
    turns = [p for p in _pieces(messages) if p.role != "system"]
    return tuple(turns[i].where for i in _new(turns) if turns[i].not_read and turns[i].role != "assistant")


def _new(turns: Sequence[_Piece]) -> range:
    """Indices of what is new: from the start of the last user turn to the last piece from outside."""
    start = stop = index = 0
    answered = False
    for assistant, run in groupby(turns, key=lambda piece: piece.role == "assistant"):
        pieces = list(run)
        if assistant:
            answered = not any(piece.call for piece in pieces)
        else:
            start = index if answered else start
            stop = index + len(pieces)
        index += len(pieces)
    return range(start, stop)


def _pieces(messages: Sequence[Mapping[str, Any]]) -> list[_Piece]:
    found: list[_Piece] = []
    for i, value in enumerate(_sequence(messages, "messages")):
        where = f"messages[{i}]"
        message, kind = _mapping(value, where)
        role = message.get("role")
        if role in _ROLES:
            found += _message(message, where, "system" if role == "developer" else role)
            continue
        if role is not None or kind not in _ITEMS:
            raise InputError(f"{where} must have a role of {', '.join(_ROLES)}, or a type of {', '.join(_ITEMS)}")
        if kind in _CALL_ITEMS:
            found.append(_call(message, where))
        if kind.endswith("_output") or message.get("output") is not None:
            found.append(_content(_texts(message.get("output"), f"{where}.output"), where, "tool"))
    return found


def _message(message: Mapping[str, Any], where: str, role: str) -> Iterator[_Piece]:
    content = message.get("content")
    if role == "system":
        yield from (_said(text, where, role) for text in _texts(content, f"{where}.content", _TEXT)[0])
    elif role in ("tool", "function"):
        yield _content(_texts(content, f"{where}.content"), where, "tool")
    elif isinstance(content, str):
        yield _said(content, where, role)
    elif content is not None or role != "assistant":
        for j, block in enumerate(_sequence(content, f"{where}.content", "a string or a list of blocks")):
            yield from _block(block, f"{where}.content[{j}]", role)
        if not content:
            yield _said("", where, role)
    if role == "assistant":
        if message.get("refusal") is not None:
            yield _said(_field(message, "refusal", where), where, role)
        for j, value in enumerate(_sequence(message.get("tool_calls") or (), f"{where}.tool_calls")):
            place = f"{where}.tool_calls[{j}]"
            call, kind = _mapping(value, place)
            yield _call(_mapping(call.get(kind or "function"), f"{place}.{kind or 'function'}")[0], place)
        if message.get("function_call") is not None:
            yield _call(_mapping(message["function_call"], f"{where}.function_call")[0], f"{where}.function_call")


def _block(value: object, where: str, role: str) -> Iterator[_Piece]:
    block, kind = _mapping(value, where)
    if kind in _TEXT:
        yield _said(_field(block, _TEXT[kind], where), where, role)
    elif kind in _WITHOUT_TEXT:
        yield _Piece(where, role, _WITHOUT_TEXT[kind], not_read=True)
    elif kind in _CALLS:
        yield _call(block, where)
    elif kind in ("tool_result", "mcp_tool_result"):
        yield _content(_texts(block.get("content"), f"{where}.content"), where, "tool")
    elif kind in _DOCUMENTS:
        yield _content(_document(block, where), where, "document")
    elif kind.endswith("_tool_result"):
        # Results of tools the provider runs: every one has a shape of its own, so all prose in it is read.
        yield _content(_prose(block.get("content")), where, "tool")
    elif kind not in _THOUGHTS:  # the assistant's own, seen by nobody: neither analysed nor history
        raise InputError(f"{where}.type must be one of {', '.join(_BLOCKS)}")


def _said(text: str, where: str, role: str) -> _Piece:
    return _Piece(where, role, text, "user" if role == "user" else None)


def _call(call: Mapping[str, Any], where: str) -> _Piece:
    given: object = next((call[key] for key in ("arguments", "input") if call.get(key) is not None), {})
    try:
        arguments = json.loads(given) if isinstance(given, str) else given
        written = json.dumps(arguments, ensure_ascii=False, default=lambda value: type(value).__name__)
    except (ValueError, TypeError, RecursionError):
        written = given if isinstance(given, str) else ""  # a model may write arguments that are no JSON
    return _Piece(where, "assistant", f"<tool_call>{_field(call, 'name', where)}({written})</tool_call>", call=True)


def _content(read: _Read, where: str, source: Literal["tool", "document"]) -> _Piece:
    """One piece of all texts of a tool result or document: an attack may be spread over them."""
    texts, more = read
    if more and not texts:
        return _Piece(where, source, f"[{source}]", not_read=True)
    return _Piece(where, source, "\n".join(texts), source, not_read=more)


def _texts(content: object, where: str, accepted: Iterable[str] = _READABLE) -> _Read:
    if content is None or isinstance(content, str):
        return [content] if content else [], False
    texts, more = list[str](), False
    for i, value in enumerate(_sequence(content, where, "a string or a list of blocks")):
        place = f"{where}[{i}]"
        block, kind = _mapping(value, place)
        if kind not in accepted:
            raise InputError(f"{place}.type must be one of {', '.join(accepted)}")
        if kind in _TEXT:
            texts.append(_field(block, _TEXT[kind], place))
        elif kind in _DOCUMENTS:
            inner, inner_more = _document(block, place)
            texts, more = texts + inner, more or inner_more
        else:
            more = True
    return texts, more


def _document(block: Mapping[str, Any], where: str) -> _Read:
    source, kind, place = block, block["type"], where
    if kind == "document":
        place = f"{where}.source"
        source, kind = _mapping(block.get("source"), place)
    if kind in ("content", "search_result"):
        body, more = _texts(source.get("content"), f"{place}.content", (*_TEXT, *_WITHOUT_TEXT))
    elif kind == "text":
        body, more = [_field(source, "data", place)], False
    elif kind in ("base64", "url", "file"):
        body, more = [], True
    else:
        raise InputError(f"{place}.type must be one of text, content, base64, url, file")
    heading = [_field(block, key, where, "") for key in ("title", "context")]
    return [text for text in (*heading, *body) if text], more


def _prose(value: object) -> _Read:
    """All strings in a JSON value, in order, but for terms of its format."""
    texts: list[str] = []
    more = False
    stack: list[tuple[str, object]] = [("", value)]
    while stack:  # no recursion: the depth is somebody else's choice
        key, value = stack.pop()
        if isinstance(value, str):
            if value and (key not in _FORMAL or " " in value):
                texts.append(value)
        elif isinstance(value, Mapping):
            encoded = {"encrypted_content", "data" if value.get("type") == "base64" else "encrypted_content"}
            more = more or not encoded.isdisjoint(value)
            for name, item in reversed(list(value.items())):
                if key == "properties":  # a schema's: the names are the author's words, not terms of the format
                    stack += [("", item), ("", name)]
                elif name not in encoded:
                    stack.append((name, item))
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            stack.extend((key, item) for item in reversed(value))
    return texts, more


def _definition(value: object, where: str) -> tuple[Tool, Mapping[str, Any]]:
    """A tool for the context, and its definition."""
    tool, kind = _mapping(value, where)
    body = _mapping(tool[kind], f"{where}.{kind}")[0] if kind in ("function", "custom") and kind in tool else tool
    name = _field(body, "name", where, None if kind in ("", "function", "custom") else kind)  # a provider's may lack it
    return Tool(name, _field(body, "description", where, "")), body


def _described(tool: Tool, definition: Mapping[str, Any]) -> str:
    """All the prose of a tool's definition."""
    rest, _ = _prose({key: item for key, item in definition.items() if key not in ("name", "description")})
    return "\n".join(text for text in (tool.name, tool.description, *rest) if text)


def _sequence(value: object, where: str, accepted: str = "a list") -> Sequence[Any]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InputError(f"{where} must be {accepted}, not {type(value).__name__}")
    return value


def _mapping(value: object, where: str) -> tuple[Mapping[str, Any], str]:
    """A mapping and its type, empty if it states none."""
    if not isinstance(value, Mapping) and hasattr(value, "model_dump"):
        value = value.model_dump()  # what the providers' clients return: a model of pydantic
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be a mapping, not {type(value).__name__}")
    kind = value.get("type")
    return value, kind if isinstance(kind, str) else ""


def _field(block: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = default if block.get(key) is None else block[key]
    if not isinstance(value, str):
        raise InputError(f"{where}.{key} must be a string, not {type(value).__name__}")
    return value
