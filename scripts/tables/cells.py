"""What all tables are made of."""

from __future__ import annotations

from typing import Any


def rows_of(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def percent(value: Any) -> str:
    """A share, with its interval if it has one."""
    if isinstance(value, dict):
        interval = f" ({100 * value['low']:.0f}–{100 * value['high']:.0f})" if value.get("low") is not None else ""
        return percent(value.get("value")) + interval
    return "–" if value is None else f"{100 * value:.1f} %"


def decimal(value: Any) -> str:
    if isinstance(value, dict):
        interval = f" ({value['low']:.2f}–{value['high']:.2f})" if value.get("low") is not None else ""
        return decimal(value.get("value")) + interval
    return "–" if value is None else f"{value:.3f}"


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def recall_at(row: dict[str, Any], rate: str) -> Any:
    found = row["recall_at_fpr"]
    return found.get(rate) if isinstance(found, dict) else None


def times_ours(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f}–{row['high']:.2f})"


def circumstances(quality: dict[str, Any]) -> str:
    facts = quality["provenance"]
    return (
        f"{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {quality['settings']['model']}, {quality['overall']['n']:,} records, "
        f"mode {quality['settings']['mode']}; "
        f"`python {facts['command']}`\n"
    )
