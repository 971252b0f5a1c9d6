"""A context becomes tokens: fields behind markers nobody can type, in a budget of their own.

The context is read apart from the text (text attends to context, context never to text), so its
tokens must not depend on the text. They do in one case only: a system prompt longer than its budget
is represented by the passages that matter for this text and this role.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache

from promptguard.tokenizer import SEP, Tokenizer
from promptguard.types import SOURCES, Context

# Ids of BERT's [unusedN] pieces. They are inserted as ids: no text can produce them.
_SOURCE = {source: 1 + i for i, source in enumerate(SOURCES)}
_ROLE, _SYSTEM, _TOOL, _USER_TURN, _ASSISTANT_TURN, _OTHER_TURN, _CUT = 8, 9, 10, 11, 12, 13, 14
_TURN = {"user": _USER_TURN, "assistant": _ASSISTANT_TURN}

# Share of the budget a field keeps however long the others are; what one leaves the next may use.
_GUARANTEED = (("system", 0.44), ("history", 0.28), ("tools", 0.19))
_ROLE_TOKENS = 24
_TURN_TOKENS = 48
_TURNS = 12
# A token stands for at least one character: reading more of a field than this cannot matter.
_FIELD_CHARACTERS = 4000

_PASSAGE = re.compile(r"[^\n.!?;]+[\n.!?;]*")
_WORD = re.compile(r"\w{3,}")
_RULE_STEMS = frozenset(
    "never must only alwa allow may cann dont refus excep unles confi secre permi forbi restr shoul "
    "prohi autho entit requi nur niema darf jamai uniqu nunca solo siemp".split()
)


@dataclass(frozen=True, slots=True)
class _Passage:
    """A sentence of a system prompt; the first five letters of its words stand for them."""

    ids: tuple[int, ...] = field(repr=False)
    stems: frozenset[str] = field(repr=False)
    rule: bool


class ContextEncoder:
    """Turns contexts into token ids.

    Args:
        tokenizer: the bundle's tokenizer.
        budget: most tokens a context may take, separator included.
    """

    def __init__(self, tokenizer: Tokenizer, budget: int) -> None:
        self._tokenizer = tokenizer
        self._budget = budget
        self._ids = lru_cache(maxsize=4096)(self._ids_uncached)
        self._passages = lru_cache(maxsize=64)(self._passages_uncached)

    def ids(self, context: Context, text: str) -> tuple[int, ...]:
        """Token ids of a context; empty where nothing is known of it.

        Args:
            context: the context.
            text: the text under analysis; consulted only to choose passages of a system prompt
                that is longer than its share of the budget.

        Returns:
            At most ``budget`` ids, the last of them the separator.
        """
        head: list[int] = []
        if context.source is not None:
            head.append(_SOURCE[context.source])
        if context.user_role:
            head += [_ROLE, *self._ids(context.user_role[:_FIELD_CHARACTERS])[:_ROLE_TOKENS]]
        system = context.system_prompt or context.purpose or ""
        turns = [self._turn(m.role, m.content) for m in context.history[-_TURNS:]]
        tools = [self._tool(t.name, t.description) for t in context.tools]
        if not (head or system.strip() or turns or tools):
            return ()
        need = {
            "system": self._system_length(system),
            "history": sum(map(len, turns)),
            "tools": sum(map(len, tools)),
        }
        share = _allot(need, self._budget - len(head) - 1)
        ids = head
        if system.strip():
            ids += self._system(system, share["system"], f"{text[:_FIELD_CHARACTERS]} {context.user_role or ''}")
        ids += _fit_tools(tools, share["tools"])
        ids += _fit_turns(turns, share["history"])
        return (*ids, SEP)

    def _ids_uncached(self, field: str) -> tuple[int, ...]:
        return tuple(self._tokenizer.ids(field))

    def _turn(self, role: str, content: str) -> list[int]:
        """Marker and ids of a turn; of a long one its beginning and its end."""
        if len(content) > 2 * _FIELD_CHARACTERS:
            content = content[:_FIELD_CHARACTERS] + " " + content[-_FIELD_CHARACTERS:]
        ids = self._tokenizer.ids(content)
        if len(ids) > _TURN_TOKENS:
            half = _TURN_TOKENS // 2
            ids = [*ids[:half], _CUT, *ids[-half:]]
        return [_TURN.get(role, _OTHER_TURN), *ids]

    def _tool(self, name: str, description: str) -> list[int]:
        shown = f"{name}: {description}" if description else name
        return [_TOOL, *self._ids(shown[:_FIELD_CHARACTERS])]

    def _system_length(self, system: str) -> int:
        """Tokens a system prompt would take whole, its marker included."""
        if not system.strip():
            return 0
        return 1 + sum(len(p.ids) for p in self._passages(system))

    def _passages_uncached(self, system: str) -> tuple[_Passage, ...]:
        found = []
        for match in _PASSAGE.finditer(system):
            ids = tuple(self._tokenizer.ids(match.group()))
            if ids:
                stems = _stems(match.group())
                found.append(_Passage(ids, stems, bool(stems & _RULE_STEMS)))
        return tuple(found)

    def _system(self, system: str, budget: int, query: str) -> list[int]:
        """Marker and ids of a system prompt; of one longer than the budget the passages that matter."""
        passages = self._passages(system)
        whole = 1 + sum(len(p.ids) for p in passages) <= budget
        chosen = range(len(passages)) if whole else _choose(passages, _stems(query), budget - 2)
        ids = [_SYSTEM]
        previous = -1
        for i in chosen:
            if i != previous + 1:
                ids.append(_CUT)
            # As priced by _choose: one long passage may not take everything.
            ids += passages[i].ids if whole else passages[i].ids[: budget // 2]
            previous = i
        return ids[:budget]


def _stems(text: str) -> frozenset[str]:
    """The first five letters of each word, so that its other forms count as the same."""
    return frozenset(word[:5] for word in _WORD.findall(text.lower()))


def _allot(need: dict[str, int], budget: int) -> dict[str, int]:
    """Divide a budget: to each what is guaranteed to it, then what is left to whoever lacks."""
    share = {name: min(need[name], int(budget * part)) for name, part in _GUARANTEED}
    left = budget - sum(share.values())
    for name, _ in _GUARANTEED:
        more = min(left, need[name] - share[name])
        share[name] += more
        left -= more
    return share


def _choose(passages: tuple[_Passage, ...], query: frozenset[str], budget: int) -> list[int]:
    """Pick passages: the first (what the application is for), then rules and shared words.

    A word weighs by how few passages hold it (inverse document frequency, Spärck Jones 1972).
    """
    frequency = Counter(stem for p in passages for stem in p.stems)
    scores = []
    for i, passage in enumerate(passages):
        shared = sum(math.log1p(len(passages) / frequency[s]) for s in sorted(passage.stems & query))
        scores.append((shared * (1.5 if passage.rule else 1.0) + (0.5 if passage.rule else 0.0), i))
    order = [0, *(i for _, i in sorted(scores, key=lambda s: (-s[0], s[1])) if i != 0)]
    chosen, left = [], budget
    for i in order:
        # +1 for the mark of omission before a passage; one long passage may not take everything.
        cost = min(len(passages[i].ids), budget // 2) + 1
        if cost <= left:
            chosen.append(i)
            left -= cost
    return sorted(chosen)


def _fit_tools(tools: list[list[int]], budget: int) -> list[int]:
    """Every tool's name stays as long as there is room; descriptions are cut evenly."""
    if sum(map(len, tools)) <= budget:
        return [i for tool in tools for i in tool]
    ids: list[int] = []
    for n, tool in enumerate(tools):
        room = (budget - len(ids)) // (len(tools) - n)
        ids += tool[: max(room, 4)]
    return ids[:budget]


def _fit_turns(turns: list[list[int]], budget: int) -> list[int]:
    """The latest turns that fit, oldest first."""
    ids: list[int] = []
    for turn in reversed(turns):
        room = budget - len(ids)
        if room < min(4, len(turn)):
            break
        ids = turn[:room] + ids
    return ids
