"""What a person sees in a terminal of a bundle: what it is, what it was made of, and how two of them differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from promptguard.bundle import Bundle
from promptguard.policy import FALSE_POSITIVE_RATES, MODES
from promptguard.terminal import count, pairs, visible

_WINDOWS = ("window_tokens", "overlap_tokens", "context_tokens")


def facts(bundle: Bundle) -> dict[str, Any]:
    """What a manifest says that a person would ask for, and the sizes of the files.

    Args:
        bundle: the bundle.

    Returns:
        JSON-ready values; a figure that the manifest does not hold is None.
    """
    manifest = bundle.manifest
    splits = ((manifest.get("training") or {}).get("data") or {}).get("splits") or {}
    return {
        "id": bundle.id,
        "name": manifest["name"],
        "version": manifest["version"],
        "hash": bundle.id.rpartition("+")[2],
        "schema": manifest["schema"],
        "precision": manifest.get("precision"),
        "derived_from": manifest.get("derived_from"),
        "files": {
            name: {"bytes": bundle.path(name).stat().st_size, "sha256": digest}
            for name, digest in sorted(manifest["files"].items())
        },
        **{name: manifest.get(name) for name in _WINDOWS},
        "prior": bundle.prior,
        "thresholds": bundle.thresholds.to_dict(),
        "thresholds_from": manifest.get("thresholds_from"),
        "calibration": manifest.get("calibration"),
        "data": {
            name: {
                "records": split.get("records"),
                "sources": len(split.get("sources") or {}),
                "licences": dict(split.get("licences") or {}),
                "sha256": split.get("sha256"),
            }
            for name, split in splits.items()
        },
    }


def show_facts(out: Console, known: Mapping[str, Any]) -> None:
    """Print what ``facts`` gave."""
    out.print()
    table = pairs()
    table.add_row("name", visible(str(known["name"])))
    table.add_row("version", visible(str(known["version"])))
    table.add_row("hash", known["hash"])
    table.add_row("precision", visible(str(known["precision"])))
    if known["derived_from"]:
        table.add_row("derived from", visible(str(known["derived_from"])))
    table.add_row("windows", f"{known['window_tokens']} tokens, overlapping by {known['overlap_tokens']}")
    table.add_row("context", f"{known['context_tokens']} tokens")
    table.add_row("prior", f"{known['prior']:g}")
    out.print(table)
    _files(out, known["files"])
    _thresholds(out, known["thresholds"], known["thresholds_from"])
    _calibration(out, known["calibration"])
    if known["data"]:
        _data(out, known["data"])
    out.print()


def _files(out: Console, files: Mapping[str, Any]) -> None:
    table = _table(out, "files", "", "size", "SHA-256")
    for name, file in files.items():
        table.add_row(visible(name), _size(file["bytes"]), file["sha256"][: 64 if out.width >= 100 else 16])
    out.print(table)


def _thresholds(out: Console, thresholds: Mapping[str, Any], fitted: Mapping[str, Any] | None) -> None:
    flagged = "by definition" if fitted is None else "as labelled"
    table = _table(out, "thresholds of risk", "", "flags from", f"benign traffic flagged, {flagged}")
    for mode in MODES:
        share = f"{FALSE_POSITIVE_RATES[mode]:.1%}"
        if fitted is not None:
            found = fitted["modes"][mode]["false_positives"]
            share = f"{found['value']:.2%} (95 %: {found['low']:.2%}–{found['high']:.2%})"
        table.add_row(mode, f"{thresholds['risk'][mode]:.4f}", share)
    out.print(table)
    table = _table(out, "thresholds of intents", "", "listed from")
    for name, value in thresholds["intents"].items():
        table.add_row(name, f"{value:.4f}")
    out.print(table)


def _calibration(out: Console, figures: Mapping[str, Any] | None) -> None:
    table = _table(out, "calibration", "", "")
    if not figures:
        table.add_row("none: probabilities and thresholds are provisional")
    for name, value in (figures or {}).items():
        table.add_row(visible(name.replace("_", " ")), visible(_figure(value)))
    out.print(table)


def _data(out: Console, splits: Mapping[str, Any]) -> None:
    table = _table(out, "data", "", "records", "sources", "licences")
    for name, split in splits.items():
        ranked = sorted(split["licences"].items(), key=lambda item: (-item[1], item[0]))
        licences = ", ".join(f"{licence} {number:,}" for licence, number in ranked)
        table.add_row(visible(name), f"{split['records']:,}", f"{split['sources']:,}", visible(licences))
    out.print(table)


def show_parity(out: Console, source: str, derived: str, figures: Mapping[str, float]) -> None:
    """Print how far a derived bundle is from its source."""
    table = pairs()
    out.print()
    table.add_row("compared", visible(f"{source} and {derived}, on {count(int(figures['texts']), 'text')}"))
    table.add_row("largest difference in risk", f"{figures['largest_difference_in_risk']:.5f}")
    table.add_row("mean difference in risk", f"{figures['mean_difference_in_risk']:.5f}")
    table.add_row("equal decisions", f"{figures['equal_decisions']:.1%}")
    out.print(table)


def _table(out: Console, title: str, *heads: str) -> Table:
    out.print()
    out.print(Text(title, style="bold"))
    table = Table(box=None, padding=(0, 1, 0, 1), show_header=any(heads), header_style="dim")
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if head in ("size", "records", "sources") else "left", no_wrap=not place)
    return table


def _figure(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_figure(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " / ".join(_figure(item) for item in value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 100_000 else f"{size / 1e3:,.1f} kB"
