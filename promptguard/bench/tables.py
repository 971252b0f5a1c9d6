"""The figures as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from promptguard.bench.intervals import FALSE_POSITIVE_RATES
from promptguard.bench.span_quality import SPAN_FIGURES


def table(result: Mapping[str, Any]) -> str:
    """The figures as Markdown tables, in per cent except AUROC, average precision and the errors of risk.

    Args:
        result: what ``evaluate`` returned; what ``ablations`` returned under ``ablations`` is printed, too.

    Returns:
        Text that ends with a newline.
    """
    settings = result["settings"]
    parts = [
        f"model {settings['model'] or 'unknown'}; prior {settings['prior']}; bootstrap {settings['bootstrap']}",
        f"{settings['thresholds']}; {settings['errors']}.",
        _slice_table({"all": result["overall"]}, "overall"),
    ]
    parts += [_slice_table(rows, name) for name, rows in result["by"].items()]
    parts += [_intent_table(result["intents"]), _calibration_table(result["calibration"])]
    parts += [_group_table(result["groups"]), _transfer_table(result["transfer"]), _mode_table(result["modes"])]
    parts += [_window_table(result["windows"]), _span_table(result["spans"])]
    if "ablations" in result:
        parts.append(_ablation_table(result["ablations"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _slice_table(rows: Mapping[str, Any], name: str) -> str:
    head = [name, "n", "risky", "errors", "AUROC", "AP", "recall @ .1 %", "@ .5 %", "@ 1 %", "@ 5 %"]
    head += ["recall at mode", "false alarms at mode", "exact labels"]
    body = []
    for key, part in rows.items():
        cells = [key, str(part["n"]), str(part["risky"]), str(part["errors"])]
        cells += [_number(part["auroc"]), _number(part["average_precision"])]
        cells += [_share(part["recall_at_fpr"][str(rate)]) for rate in FALSE_POSITIVE_RATES]
        cells += [_share(part["recall"]), _share(part["false_alarm_rate"]), _percent(part["exact_labels"]["value"])]
        body.append(cells)
    return _markdown(head, body)


def _intent_table(intents: Mapping[str, Any]) -> str:
    head = ["intent", "n", "AUROC", "AP", "precision", "recall", "F1"]
    body = [
        [name, str(part["n"]), _number(part["auroc"]), _number(part["average_precision"])]
        + [_percent(part[figure]) for figure in ("precision", "recall", "f1")]
        for name, part in intents["each"].items()
    ]
    body.append([f"macro over {intents['macro_f1_over']}", "", "", "", "", "", _percent(intents["macro_f1"])])
    return _markdown(head, body)


def _calibration_table(figures: Mapping[str, Any]) -> str:
    line = f"Calibration at prior {figures['prior']}: ECE {_number(figures['ece'])}, worst bin "
    line += f"{_decimal(figures['mce'])}, Brier {_decimal(figures['brier'])}, effective n {figures['effective_n']:.0f}"
    body = [
        [str(row["n"]), _decimal(row["mass"]), _decimal(row["mean_risk"]), _decimal(row["risky_share"])]
        for row in figures["reliability"]
    ]
    return f"{line}\n\n{_markdown(['n', 'mass', 'mean risk', 'risky share'], body)}"


def _group_table(groups: Mapping[str, Any]) -> str:
    if not groups["overall"]["n"]:
        return ""
    head = ["groups", "n", "every record right", "couples ranked", "group ranked", "every label set exact"]
    rows = {"all": groups["overall"]}
    for name in ("by_kind", "by_factor", "by_source"):
        rows |= {f"{name[3:]}: {key}": part for key, part in groups[name].items()}
    body = [
        [key, str(part["n"]), _share(part["right"]), _share(part["ranked"])]
        + [_percent(part[figure]["value"]) for figure in ("strict", "exact")]
        for key, part in rows.items()
    ]
    return _markdown(head, body)


def _transfer_table(figures: Mapping[str, Any]) -> str:
    if not figures["by_source"]:
        return ""
    head = [f"transfer: recall at 1 % of {figures['benign']} ordinary benign records", "family", "risky", "recall"]
    body = [[name, row["family"], str(row["n"]), _share(row)] for name, row in figures["by_source"].items()]
    for family, part in figures["summary"].items():
        body.append([f"mean of {part['sources']}", family, "", _share(part["mean"])])
        body.append([f"worst of {part['sources']}: {part['worst']['source']}", family, "", _share(part["worst"])])
    return _markdown(head, body)


def _mode_table(modes: Mapping[str, Any]) -> str:
    if not any(part["by_kind"] for part in modes.values()):
        return ""
    head = ["ordinary benign records above the threshold", "n"]
    head += [f"{mode} ({_percent(part['nominal'])})" for mode, part in modes.items()]
    some = next(iter(modes.values()))
    body = [["all, in the mix of the modes", "", *(_share(part["traffic"]) for part in modes.values())]]
    for name in ("by_kind", "by_source"):
        for key, row in some[name].items():
            cells = (_share(part[name][key]) for part in modes.values())
            body.append([f"{name[3:]}: {key}", str(row["n"]), *cells])
    largest = (f"{part['largest']['ratio']:.1f} ({part['largest']['kind']})" for part in modes.values())
    return _markdown(head, [*body, ["largest ratio of a kind to the mode's rate", "", *largest]])


def _window_table(figures: Mapping[str, Any]) -> str:
    body = []
    modes: list[str] = []
    for name, rows in figures.items():
        for key, row in rows.items():
            modes = list(row["at_modes"])
            cells = [_share(row["false_alarm_rate"]), *(_share(row["at_modes"][mode]) for mode in modes)]
            body.append([name, key, str(row["n"]), *cells, _number(row["mean_risk"])])
    head = [
        "ordinary benign",
        "windows",
        "n",
        "false alarms at mode",
        *(f"above {mode}" for mode in modes),
        "mean risk",
    ]
    return _markdown(head, body) if body else ""


def _span_table(spans: Mapping[str, Any]) -> str:
    if not spans["overall"]["n"]:
        return ""
    head = ["spans (tokens)", "n", "precision", "recall", "F1", "overlaps", "contains 90 %", "contains 100 %"]
    head.append("redacted is clean")
    rows = {"all": spans["overall"], "content": spans["content"], "content, flagged": spans["content_flagged"]}
    body = [
        [key, str(part["n"]), *(_share(part[figure]) for figure in SPAN_FIGURES)]
        for key, part in (rows | spans["by_source"]).items()
    ]
    clean = spans["clean"]
    note = f"Clean texts with marks: {clean['n']}, with a predicted span {_percent(clean['with_a_span'])}"
    return f"{_markdown(head, body)}\n\n{note}, characters marked {_percent(clean['characters_marked'])}"


def _ablation_table(figures: Mapping[str, Any]) -> str:
    rows = {"full context": figures["full"]}
    rows |= {f"{name} {kind}": part for kind in ("withheld", "swapped") for name, part in figures[kind].items()}
    head = ["context", "AUROC", "recall", "false alarms", "every record right", "couples ranked"]
    head += ["changed", "AUROC full", "AUROC then", "verdicts moved"]
    body = []
    for key, part in rows.items():
        groups, changed = part["groups"], part.get("changed", {})
        cells = [key, _decimal(part["auroc"]), _percent(part["recall"]), _percent(part["false_alarm_rate"])]
        cells += [_percent(groups["right"]), _percent(groups["ranked"]), str(changed.get("n", ""))]
        cells += [_decimal(changed.get("auroc_full")), _decimal(changed.get("auroc"))]
        body.append([*cells, _percent(changed.get("verdicts_moved"))])
    return _markdown(head, body)


def _markdown(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *(line(row) for row in body)])


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _number(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return _decimal(figure["value"]) + interval


def _share(figure: Mapping[str, Any]) -> str:
    interval = "" if figure["low"] is None else f" [{_percent(figure['low'])}, {_percent(figure['high'])}]"
    return _percent(figure["value"]) + interval
