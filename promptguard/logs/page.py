"""The report as one HTML file that needs nothing else, and its numbers as JSON beside it.

No script, no font, no picture and no address: a content security policy in the page forbids the browser to fetch
anything, and the template engine escapes everything that comes from the logs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from promptguard.errors import InputError, MissingExtraError
from promptguard.logs import charts
from promptguard.logs.behaviour import KINDS
from promptguard.logs.figures import SHOWN, figures
from promptguard.logs.money import Prices

try:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
except ImportError as missing:
    raise MissingExtraError("report", "the report") from missing

_ROWS_LISTED = 12


def report(
    folder: Path | str, html_path: Path | str, *, prices: Path | str | None = None, texts: bool = False
) -> dict[str, Any]:
    """Write the report of a scan: one HTML file, and its numbers as JSON beside it.

    Args:
        folder: the folder a scan wrote.
        html_path: the file to write; the JSON gets the same name with the ending ``.json``.
        prices: a TOML file with token prices and impacts; None for the example that comes with the package,
            with which the report says that its money is an example.
        texts: show example texts whole, if the scan copied them; otherwise what their spans mark is removed.

    Returns:
        The numbers, as written.

    Raises:
        InputError: there is no finished scan in the folder, or the prices cannot be used.
    """
    from promptguard.logs import read_manifest, read_scan

    page = Path(html_path)
    if page.suffix == ".json":
        raise InputError("the report is HTML: give a name that ends in .html; the JSON is written beside it")
    paid = Prices.load(prices)
    numbers = figures(read_scan(folder), read_manifest(folder), paid, texts=texts)
    _write(page, render(numbers))
    _write(page.with_suffix(".json"), json.dumps(numbers, ensure_ascii=False) + "\n")
    return numbers


def render(numbers: Mapping[str, Any]) -> str:
    """The page of a report's numbers.

    Args:
        numbers: what ``promptguard.logs.figures.figures`` gives.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    currency = numbers["money"]["currency"]
    environment.filters |= {
        "number": lambda value: "–" if value is None else f"{value:,.0f}",
        "share": _share,
        "money": lambda value: _money(value, currency),
        "plain": _plain,
        "sum": lambda value: f"{_money(value['value'], currency)} ({_plain(value['low'])}–{_plain(value['high'])})",
        "words": lambda value: str(value).replace("_", " "),
        "day": lambda value: "–" if value is None else value[:16].replace("T", " "),
    }
    time, thresholds = numbers["time"], numbers["thresholds"]["rows"]
    buckets = [{**b, "review": b["flagged"] - b["blocked"], "block": b["blocked"]} for b in time["buckets"]]
    worst = max(buckets, key=lambda b: b["flagged"], default=None)
    seen = "" if worst is None else f"Most in the {time['unit']} from {worst['start'][:16]}: {worst['flagged']:,} rows."
    flagged = charts.columns(
        buckets,
        [("block", "block"), ("review", "review")],
        name="flagged",
        title=f"Flagged rows by {time['unit']}",
        description=seen,
    )
    every = charts.columns(
        buckets,
        [("rows", "rows")],
        name="every",
        title=f"All rows by {time['unit']}",
        description=f"{numbers['counts']['rows']:,} rows in all.",
    )
    curve = charts.curve(
        [(row["risk"], row["share"]) for row in thresholds],
        [(row["risk"], row["mode"]) for row in thresholds if row["mode"]],
        name="curve",
        title="Share of rows flagged, by threshold",
        description="The share falls as the threshold rises; the table below has the numbers.",
    )
    return environment.get_template("report.html.jinja").render(
        n=numbers,
        buckets=buckets,
        flagged_chart=Markup(flagged),  # noqa: S704 - made of numbers and escaped text
        rows_chart=Markup(every),  # noqa: S704
        curve=Markup(curve),  # noqa: S704
        summary=summary(numbers),
        kinds=KINDS,
        not_found=[title.lower() for kind, title in KINDS.items() if not numbers["behaviour"]["counts"][kind]],
        most=SHOWN,
        listed=_ROWS_LISTED,
        cuts={
            "application": "Application",
            "source": "Source",
            "user_role": "User group",
            "model": "Model",
            "file": "File",
        },
        absent={
            "no_time": "a time",
            "no_user": "a user",
            "no_session": "a session",
            "no_application": "an application",
            "no_model": "a model",
            "no_source": "a source",
            "no_user_role": "a user group",
            "no_tokens": "token counts",
        },
    )


def summary(numbers: Mapping[str, Any]) -> dict[str, list[str]]:
    """What the numbers say, in sentences.

    Args:
        numbers: what ``promptguard.logs.figures.figures`` gives.

    Returns:
        Sentences for everybody, for those who look after security and for those who look after money.
    """
    counts, money, found = numbers["counts"], numbers["money"], numbers["behaviour"]
    time, seen = numbers["time"], numbers["coverage"]["numbers"]
    period = f" from {time['first'][:10]} to {time['last'][:10]}" if time["first"] else ""
    everybody = [
        f"{counts['rows']:,} rows{period} were scanned: {_several(seen['application'], 'application')}, "
        f"{_several(seen['model'], 'model')}, {_several(numbers['actors']['number'], 'actor')}. "
        f"{_several(counts['errors'], 'row')} could not be read.",
        f"{counts['flagged']:,} rows ({_share(counts['flagged'] / max(1, counts['scored']))}) were flagged: "
        f"{counts['blocked']:,} as block, {counts['reviewed']:,} as review.",
    ]
    security = []
    if numbers["intents"]:
        most = ", ".join(f"{row['intent'].replace('_', ' ')} ({row['rows']:,})" for row in numbers["intents"][:3])
        security.append(f"Most frequent among the flagged rows: {most}.")
    # A share of a few rows says little.
    applications = [r for r in numbers["by"]["application"]["rows"] if r["name"] is not None and r["rows"] >= 100]
    if counts["flagged"] and applications:
        worst = max(applications, key=lambda row: (row["share_flagged"], row["rows"]))
        security.append(
            f"The application with the largest share of flagged rows is {worst['name']}: "
            f"{worst['flagged']:,} of {worst['rows']:,} ({_share(worst['share_flagged'])})."
        )
    if numbers["actors"]["rows"]:
        share = sum(row["flagged"] for row in numbers["actors"]["rows"][:10]) / counts["flagged"]
        security.append(
            f"{_several(numbers['actors']['with_flagged'], 'actor')} sent flagged rows; "
            f"the ten with the most sent {_share(share)} of them."
        )
    if numbers["clusters"]["clusters"]:
        largest = numbers["clusters"]["clusters"][0]
        security.append(
            f"The largest cluster of similar attacks holds {largest['rows']:,} rows of "
            f"{_several(largest['actors'], 'actor')}."
        )
    kinds = ", ".join(f"{KINDS[kind]} ({number:,})" for kind, number in found["counts"].items() if number)
    security.append(f"Behaviour worth a look: {kinds}." if kinds else "No unusual behaviour was found.")
    spend, loss, currency = money["spend"], money["loss"], money["currency"]
    finance = []
    if spend["rows_priced"]:
        finance.append(
            f"The priced rows cost {_money(spend['total'], currency)} in tokens; flagged rows "
            f"{_sum(spend['flagged'], currency)}, unusual behaviour {_money(found['spend'], currency)}."
        )
    if spend["rows_not_priced"]:
        finance.append(
            f"{_several(spend['rows_not_priced'], 'row')} without a price: no token counts, or a model without one."
        )
    finance.append(
        f"Expected loss from attempts in flagged rows, if nothing stopped them: {_sum(loss['flagged'], currency)}; "
        f"in rows that were allowed: {_sum(loss['allowed'], currency)}."
    )
    return {"everybody": everybody, "security": security, "finance": finance}


def _several(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.1 else f"{100 * value:.2g} %"


def _plain(value: float) -> str:
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.01 else "<0.01"


def _money(value: float | None, currency: str) -> str:
    return "–" if value is None else f"{currency} {_plain(value)}"


def _sum(value: Mapping[str, float], currency: str) -> str:
    return f"{_money(value['value'], currency)} (95 % interval {_plain(value['low'])}–{_plain(value['high'])})"


def _write(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, encoding="utf-8")
    os.replace(partial, path)
