"""Put the figures of result files into README.md and pages of docs/, between their markers.

    python scripts/write_tables.py

Nothing in those tables is typed by hand: ``<!-- table: NAME -->`` starts one, ``<!-- end -->`` ends it.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ("model-card.md", "training-runs.md", "logs.md", "scale.md", "options.md", "bench.md", "speed.md")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / name for name in DOCS))
BASELINES = {
    "words of the text": "TF-IDF + logistic regression: text",
    "words of the context": "the same: context",
    "words of both": "the same: text and context",
    "embeddings of the text": "embeddings + logistic regression: text",
    "embeddings of both": "the same: text and context",
}
"""How the tables call the baselines; length and keywords keep their names."""


def main() -> None:
    quality = json.loads((RESULTS / "quality.json").read_text())
    withheld = json.loads((RESULTS / "ablations.json").read_text())
    others = json.loads((RESULTS / "peers.json").read_text())
    side_by_side = json.loads((RESULTS / "architectures.json").read_text())
    tables = {
        "sources": slices(quality, "source", least=1),
        "intents": intents(quality),
        "channels": slices(quality, "channel"),
        "languages": slices(quality, "lang"),
        "lengths": slices(quality, "length"),
        "groups": groups(quality),
        "spans": spans(quality),
        "pooled": pooled(quality),
        "transfer": once_measured(transfer, quality, "transfer"),
        "modes": once_measured(modes, quality, "modes"),
        "windows": once_measured(windows, quality, "windows"),
        "wording": wording(json.loads((RESULTS / "wording.json").read_text())),
        "runs": runs(json.loads((RESULTS / "runs.json").read_text())),
        "runs_3": runs(json.loads((RESULTS / "runs_3.json").read_text())),
        "ablations": ablation(withheld),
        "ablations_circumstances": circumstances(withheld),
        "latency": latency(json.loads((RESULTS / "latency.json").read_text())),
        "architectures": architectures(side_by_side),
        "architectures_targets": architectures_targets(side_by_side),
        "architectures_context": architectures_context(side_by_side),
        "architectures_engines": architectures_engines(side_by_side),
        "architectures_circumstances": architectures_circumstances(side_by_side),
        "concurrency": concurrency(json.loads((RESULTS / "concurrency.json").read_text())),
        "options": options(json.loads((RESULTS / "options.json").read_text())),
        "speed_streams": speed_streams(json.loads((RESULTS / "speed.json").read_text())),
        "speed_throughput": speed_throughput(json.loads((RESULTS / "speed.json").read_text())),
        "size_checks": size_checks(json.loads((RESULTS / "size.json").read_text())),
        "size_answer": size_answer(json.loads((RESULTS / "size.json").read_text())),
        "scan": scan(json.loads((RESULTS / "scan.json").read_text())),
        "workers": workers(json.loads((RESULTS / "workers.json").read_text())),
        "million": million(RESULTS / "million.json"),
        "scale": scale(json.loads((RESULTS / "scan.json").read_text())),
        "circumstances": circumstances(quality),
        "parity": parity(json.loads((RESULTS / "parity.json").read_text())),
        "peers": peers(others),
        "peers_kinds": peers_kinds(others),
        "peers_equal": peers_equal(others),
        "peers_sources": peers_sources(others),
        "peers_circumstances": peers_circumstances(others),
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name, table in tables.items():
            pattern = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
            text = pattern.sub(lambda match, table=table: match.group(1) + table + match.group(2), text)
        page.write_text(text, encoding="utf-8")


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


def recall_at(row: dict[str, Any], rate: str) -> Any:
    found = row["recall_at_fpr"]
    return found.get(rate) if isinstance(found, dict) else None


def slices(quality: dict[str, Any], by: str, least: int = 20) -> str:
    """One row a slice of at least ``least`` records: fewer say nothing."""
    body = [
        [
            name,
            str(row["n"]),
            str(row["risky"]),
            decimal(row["auroc"]),
            percent(row["recall"]),
            percent(row["false_alarm_rate"]),
        ]
        for name, row in quality["by"][by].items()
        if row["n"] >= least
    ]
    return rows_of([by, "records", "risky", "AUROC", "caught", "false alarms"], body)


def intents(quality: dict[str, Any]) -> str:
    each = quality["intents"]["each"]
    body = [
        [
            name,
            str(row["n"]),
            decimal(row["auroc"]),
            decimal(row["average_precision"]),
            percent(row["precision"]),
            percent(row["recall"]),
            percent(row["f1"]),
        ]
        for name, row in each.items()
    ]
    body.append(["macro over ten", "", "", "", "", "", percent(quality["intents"]["macro_f1"])])
    return rows_of(["intent", "records", "AUROC", "average precision", "precision", "recall", "F1"], body)


def groups(quality: dict[str, Any]) -> str:
    kinds = quality["groups"]["by_kind"] | {f"factor {k}": v for k, v in quality["groups"]["by_factor"].items()}
    body = [[name, str(row["n"]), percent(row["ranked"]), percent(row["right"])] for name, row in kinds.items()]
    return rows_of(["groups", "number", "risky ranked above harmless", "every record right"], body)


def runs(results: dict[str, Any]) -> str:
    names = ("auroc", "auroc_public", "auroc_contextual", "auroc_twins")
    body = [
        [
            name,
            f"{run['settings']['steps'] or run['last_line_of_log']['step']:,}",
            str(run["last_line_of_log"]["seconds"]),
            *(f"{run[figure]:.3f}" for figure in names),
            f"{100 * run['ranked_right']:.1f} %",
            f"{100 * run['recall_at_1_percent_of_ordinary']:.1f} %",
        ]
        for name, run in results["runs"].items()
    ]
    head = ["run", "steps", "seconds", "AUROC", "public", "contextual", "harmless neighbours", "ranked right",
            "recall at 1 % of ordinary"]  # fmt: skip
    return rows_of(head, body)


def spans(quality: dict[str, Any]) -> str:
    found = quality["spans"]
    rows = {"all": found["overall"], "content": found.get("content"), "content, flagged": found.get("content_flagged")}
    names = ("token_precision", "token_recall", "token_f1", "contains_90", "contains_100", "redacted_clean")
    body = [
        [name, str(row["n"]), *(percent(row.get(figure)) for figure in names)]
        for name, row in (rows | found["by_source"]).items()
        if row
    ]
    head = ["", "attacks", "precision", "recall", "F1", "contains 90 %", "contains all", "clean once redacted"]
    return rows_of(head, body)


def once_measured(table: Callable[[Any], str], quality: dict[str, Any], part: str) -> str:
    """A table of a part of the results that an older results file may lack."""
    return table(quality[part]) if part in quality else "Not in the results file yet.\n"


def pooled(quality: dict[str, Any]) -> str:
    overall, pairs = quality["overall"], quality["groups"]["overall"]
    body = [["AUROC", decimal(overall["auroc"])], ["average precision", decimal(overall["average_precision"])]]
    body += [
        [f"recall at {100 * float(rate):g} % false positives", percent(found)]
        for rate, found in overall["recall_at_fpr"].items()
    ]
    prior = quality["settings"]["prior"]
    body.append([f"expected calibration error at {100 * prior:g} % risky", decimal(quality["calibration"]["ece"])])
    body.append(["groups, every record right", percent(pairs["right"])])
    return rows_of(["all records", ""], body)


def transfer(found: dict[str, Any]) -> str:
    body = [[name, row["family"], str(row["n"]), percent(row)] for name, row in found["by_source"].items()]
    for family, row in found["summary"].items():
        if row["sources"]:
            body.append([f"mean of {row['sources']} sources", family, "", percent(row["mean"])])
            body.append([f"worst of them, {row['worst']['source']}", family, "", percent(row["worst"])])
    head = ["source of attack", "family", "risky", f"recall at 1 % of {found['benign']:,} ordinary benign records"]
    return rows_of(head, body)


def modes(found: dict[str, Any], least: int = 100) -> str:
    """Kinds of traffic, and sources of at least ``least`` ordinary benign records: of fewer, 1 % is not one."""
    some = next(iter(found.values()))
    body = [["the mix that defines the modes", "", *(percent(part["traffic"]) for part in found.values())]]
    for by in ("by_kind", "by_source"):
        for name, row in some[by].items():
            if by == "by_kind" or row["n"] >= least:
                cells = (percent(part[by][name]) for part in found.values())
                body.append([name if by == "by_kind" else f"`{name}`", str(row["n"]), *cells])
    largest = (f"{part['largest']['ratio']:.1f} ({part['largest']['kind']})" for part in found.values())
    body.append(["largest ratio of a kind to the nominal rate", "", *largest])
    head = [f"{mode}: nominal {percent(part['nominal'])}" for mode, part in found.items()]
    return rows_of(["ordinary benign records", "number", *head], body)


def windows(found: dict[str, Any]) -> str:
    body = []
    for texts, rows in found.items():
        for name, row in rows.items():
            rates = (percent(row["at_modes"][mode]) for mode in ("balanced", "strict"))
            alarms = percent(row["false_alarm_rate"])
            body.append([texts, name, str(row["n"]), alarms, *rates, decimal(row["mean_risk"])])
    head = [
        "ordinary benign texts",
        "windows",
        "number",
        "false alarms",
        "risk at *balanced*",
        "at *strict*",
        "mean risk",
    ]
    return rows_of(head, body)


def wording(result: dict[str, Any]) -> str:
    rows = {**result["each"], **{f"**{name}**": row for name, row in result["kinds"].items()}, "**all**": result["all"]}
    body = [
        [
            name,
            str(row["n"]),
            str(row["prompts"]),
            percent(row["changed"]),
            percent(row["flips"]),
            f"{row['to_flagged']} / {row['to_allowed']}",
        ]
        for name, row in rows.items()
    ]
    head = ["change of the system prompt", "records", "prompts", "decision changed", "*allow* to flagged or back"]
    facts = result["provenance"]
    return (
        rows_of([*head, "to flagged / to *allow*"], body)
        + f"\n{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {result['settings']['model']}, mode {result['settings']['mode']}, {result['records']:,} records, "
        f"{result['flagged']:,} of them flagged as they are; `python {facts['command']}`\n"
    )


def ablation(quality: dict[str, Any]) -> str:
    found = quality["ablations"]
    rows = [("as it is", found["full"])]
    rows += [(f"{name} {kind}", row) for kind in ("withheld", "swapped") for name, row in found[kind].items()]
    body = [
        [name, decimal(row["auroc"]), percent(row["groups"]["ranked"]), percent(row["groups"]["right"])]
        for name, row in rows
    ]
    return rows_of(["context", "AUROC", "groups ranked right", "every record right"], body)


def latency(result: dict[str, Any]) -> str:
    body = [
        [
            str(r["text_tokens"]),
            str(r["context_tokens"] or "–"),
            r["context"],
            f"{r['median_ms']:.1f}",
            f"{r['p10_ms']:.1f}–{r['p90_ms']:.1f}",
            f"{r['ratio_to_ceiling']:.1f}",
        ]
        for r in result["rows"]
    ]
    return rows_of(["text tokens", "context tokens", "context", "median ms", "10–90 %", "times the ceiling"], body)


def architectures(result: dict[str, Any]) -> str:
    """Everybody through onnxruntime without context: milliseconds, and how many times ours."""
    times = {
        (row["precision"], row["timed"], row["name"], row["tokens"]): f"{row['median_ms']:.1f}"
        for row in result["rows"]
        if row["engine"] == "onnxruntime" and row["context"] == "none"
    }
    ratios = {
        (row["precision"], row["timed"], row["name"], row["tokens"]): times_ours(row)
        for row in result["comparisons"]
        if row["context"] == "none"
    }
    weights = {row["name"]: row["weights"] for row in result["rows"]}
    body = [
        [
            name,
            weights[name],
            "whole call" if timed == "whole" else "model",
            precision,
            *(times[precision, timed, name, tokens] for tokens in (64, 128, 512)),
            *(ratios.get((precision, timed, name, tokens), "–") for tokens in (128, 512)),
        ]
        for precision in ("int8", "fp32")
        for timed in ("whole", "model")
        for name in weights
        if (precision, timed, name, 64) in times
    ]
    head = ["", "weights", "timed", "precision", "ms at 64 tokens", "128", "512", "times ours at 128", "at 512"]
    return rows_of(head, body)


def times_ours(row: dict[str, Any]) -> str:
    return f"{row['value']:.2f} ({row['low']:.2f}–{row['high']:.2f})"


def architectures_targets(result: dict[str, Any]) -> str:
    body = [
        [
            row["name"],
            row["precision"],
            "whole call" if row["timed"] == "whole" else "model",
            str(row["tokens"]),
            times_ours(row),
            f"{row['target']:g}",
            "yes" if row["value"] >= row["target"] else "no",
        ]
        for row in result["comparisons"]
        if row["target"] is not None
    ]
    return rows_of(["", "precision", "timed", "tokens", "times ours", "set out for", "reached"], body)


def architectures_context(result: dict[str, Any]) -> str:
    """Peers given context and text in one, over ours with the context new, and seen before."""
    found = {
        (row["name"], row["precision"], row["tokens"], row["context"]): times_ours(row)
        for row in result["comparisons"]
        if row["timed"] == "model"
    }
    body = [
        [name, precision, str(tokens), found[name, precision, tokens, "new"], found[name, precision, tokens, "seen"]]
        for name, precision, tokens, context in found
        if context == "new"
    ]
    return rows_of(["", "precision", "tokens, 120 of context", "times ours, context new", "context seen"], body)


def architectures_engines(result: dict[str, Any]) -> str:
    """Promptguard alone, by engine and precision."""
    columns = {
        f"{engine} {precision}{', whole call' if timed == 'whole' else ''}": (engine, precision, timed)
        for precision in ("int8", "fp32")
        for timed in ("whole", "model")
        for engine in ("onnxruntime", "OpenVINO", "torch")
    }
    ours = [row for row in result["rows"] if row["name"] == "promptguard"]
    keys = ("engine", "precision", "timed", "tokens", "context")
    times = {tuple(row[key] for key in keys): row["median_ms"] for row in ours}
    columns = {head: column for head, column in columns.items() if any(key[:3] == column for key in times)}
    body = []
    for tokens, context in dict.fromkeys((row["tokens"], row["context"]) for row in ours):
        cells = (times.get((*column, tokens, context)) for column in columns.values())
        body.append([str(tokens), context, *("–" if ms is None else f"{ms:.1f}" for ms in cells)])
    return rows_of(["tokens in all", "context of 120", *columns], body)


def architectures_circumstances(result: dict[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {result['versions'][name]}"
        for name in ("onnxruntime", "openvino", "torch", "transformers", "stackone-defender")
        if name in result["versions"]
    )
    return (
        f"{result['date'][:10]}, {result['machine']['cpu']} ({result['machine']['cores']} cores, load "
        f"{result['load_before']:.1f} before the start, {percent(result['processor_share'])} of a core had), "
        f"bundle {result['model']}, {versions}; 8-bit ceiling "
        f"{result['ceiling_gops']:.0f} GOP/s; `python {result['command']}`\n"
    )


def concurrency(result: dict[str, Any]) -> str:
    both = result["processes"]
    compared = {f"{both['processes']} processes, a core each, against one": both}
    for row in result["threads"]:
        few, cores = ("one", "one core") if row["cores"] == 1 else (str(row["cores"]), f"{row['cores']} cores")
        compared[f"{row['threads']} threads with one Guard against {few}, on {cores}"] = row
    body = [
        [
            name,
            *(f"{sum(row[side]['per_second']) / len(row[side]['per_second']):.1f}" for side in ("few", "many")),
            times_ours(row["ratio"]),
            " / ".join(f"{statistics.median(row[side]['processor_ms']):.1f}" for side in ("few", "many")),
            {True: "yes", False: "no", None: "–"}[row.get("verdicts_equal")],
        ]
        for name, row in compared.items()
    ]
    head = ["", "few: calls a second", "many: calls a second", "many over few", "processor ms a call: few / many"]
    return rows_of([*head, "verdicts of one thread, bit by bit"], body) + (
        f"\n{result['date'][:10]}, {result['machine']['cpu']} ({result['machine']['cores']} cores, load "
        f"{result['load_before']:.1f} before the start), bundle {result['model']}; `python {result['command']}`\n"
    )


def options(result: dict[str, Any]) -> str:
    """Times and quality of every option, what they belong to, and what was measured beside them."""
    body = []
    for row in result["options"]:
        times = row["processor_milliseconds" if "thread" not in row["option"] else "milliseconds"]
        quality = (f"{row['auroc']:.4f}", f"{row['decisions_changed']:.1%}", f"{row['mean_difference_in_risk']:.4f}")
        body.append([row["option"], *(f"{times[run]:.1f}" for run in ("context", "64", "128", "254")), *quality])
    head = ["option", "context, ms", "64 tokens", "128", "254", "AUROC", "decisions changed", "mean change of risk"]
    made, lost = result["provenance"], result["saturation"]
    lines = [
        f"{made['date'][:10]}, {made['machine']['cpu']} ({made['machine']['cores']} cores), {result['model']}, weights "
        f"{result['weights']}, {result['records']} records; `{made['command']}`.\n"
        "Of two threads the time is the clock's.",
        rows_of(head, body),
        f"Saturating products would lose {lost['pairs_saturated']:.4%} of pairs and move {lost['results_moved']:.1%} "
        f"of results, by {lost['mean_error_in_standard_deviations']:.2f} standard deviations on average.",
    ]
    if "first_stage" in result:
        stage = result["first_stage"]
        lines.append(
            f"A first stage by words, set to miss at most one risky text in 200, lets {stage['benign_passed']:.1%} of "
            f"benign texts pass, misses {stage['risky_missed']:.2%} of risky ones, in {stage['milliseconds']:.1f} ms."
        )
    if "texts_a_second" in result:
        rates = result["texts_a_second"]
        lines.append(
            "Texts a second: " + ", ".join(f"{n.replace('_', ' ')} {rate:.0f}" for n, rate in rates.items()) + "."
        )
    return "\n\n".join(lines) + "\n"


def speed_streams(result: dict[str, Any]) -> str:
    """Latency where nothing waits, and what the figures belong to."""
    body = [
        [
            *speed_lengths(row),
            str(row["batch"]),
            f"{row['n']:,}",
            *(number(row[name]) for name in ("p50_ms", "p90_ms", "p99_ms")),
            number(row.get("times_ceiling"), 1),
        ]
        for row in result["rows"]
        if row["scenario"] in ("single-stream", "multi-stream")
    ]
    head = ["text", "context", "setting", "texts a call", "calls", "median ms", "90 %", "99 %", "times the ceiling"]
    made, machine = result["provenance"], result["provenance"]["machine"]
    ceiling = max(result["ceiling"]["by_threads"].values()) / 1e9
    load = "not known" if machine["load"] is None else f"{machine['load']:.1f}"
    return (
        f"{made['date'][:10]}, {machine['cpu']} ({machine['cores']} cores, load {load} before the start), "
        f"{result['settings']['model']}, 8-bit ceiling {ceiling:,.0f} GOP/s; `{made['command']}`\n\n"
        + rows_of(head, body)
    )


def speed_throughput(result: dict[str, Any]) -> str:
    """Throughput, and the highest rate that a server's time allows."""
    body = []
    for row in result["rows"]:
        if row["scenario"] == "offline":
            figures = [f"{row['texts_per_second']:.1f}", f"{row['tokens_per_second']:,.0f}"]
        elif row["scenario"] == "server":
            figures = [f"{number(row['rate'], 1)} with 99 % in {row['slo_ms']:g} ms", "–"]
        else:
            continue
        body.append([row["scenario"], *speed_lengths(row), *figures])
    return rows_of(["scenario", "text", "context", "setting", "texts a second", "tokens a second"], body)


def speed_lengths(row: dict[str, Any]) -> list[str]:
    """Length of text, context, and setting."""
    known = row["text_tokens"] is not None
    context = f"{row['context_tokens']} {row['context']}" if row["context_tokens"] else row["context"]
    callers = f" × {row['callers']} callers" if row["callers"] > 1 else ""
    provider = row["active_provider"].removesuffix("ExecutionProvider")
    setting = f"{row['precision']}, {provider}, {row['workers']} × {row['threads']} threads{callers}"
    return [str(row["text_tokens"]) if known else "log", context, setting]


def size_checks(result: dict[str, Any]) -> str:
    """Predicted and measured 99th percentiles, and what the figures belong to."""
    body = [
        [
            check["mix"],
            f"{check['utilisation']:.0%}",
            f"{check['rps']:,.1f}",
            f"{check['queries']:,}",
            number(check["p99"]["predicted_ms"], 1),
            number(check["p99"]["measured_ms"], 1),
            "–" if check["error"] is None else f"{check['error']:+.0%}",
            "fitted to" if check["fitted"] else "not seen before",
        ]
        for check in result["checks"]
    ]
    head = ["requests", "of capacity", "a second", "sent", "p99 predicted, ms", "p99 measured, ms", "error", "run"]
    made, machine = result["provenance"], result["provenance"]["machine"]
    load = "not known" if machine["load"] is None else f"{machine['load']:.1f}"
    return (
        f"{made['date'][:10]}, {machine['cpu']} ({machine['cores']} cores, load {load} before the start), "
        f"{result['settings']['model']}; `{made['command']}`\n\n" + rows_of(head, body)
    )


def size_answer(result: dict[str, Any]) -> str:
    """What loads need."""
    if not result["loads"]:
        return f"None: a request alone takes longer than {result['demand']['slo_ms']:g} ms.\n"
    body = [
        [
            f"{load['rps']:,g}",
            f"{load['replicas']:,}",
            f"{load['workers']:,}",
            "–" if load["memory_bytes"] is None else f"{load['memory_bytes'] / 1e9:.1f}",
            number(load["p99_ms"], 1),
            number(load["cost_a_month"]),
            number(load["cost_a_million_requests"]),
        ]
        for load in result["loads"]
    ]
    head = ["requests a second", "replicas", "workers", "memory, GB", "p99, ms", "a month", "a million prompts"]
    return rows_of(head, body)


def number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


TORCH = {"transformers pipeline": "`pipeline` of transformers", "CrossEncoder": "`CrossEncoder.predict`"}
"""How the tables call what reads the same rows in torch."""


def scan(result: dict[str, Any]) -> str:

    def speed(row: dict[str, Any]) -> str:
        return f"{row['rows_per_cpu_second']:,.0f} ({row['rows_per_second']:,.0f})"

    body = []
    for name, log in result["logs"].items():
        in_torch = log.get("torch", {})
        fastest = max((row["rows_per_cpu_second"] for row in in_torch.values()), default=None)
        body.append(
            [
                "unique texts of 60 tokens under one context of 180" if name == "unique" else "mix",
                f"{log['rows']:,}",
                percent(log.get("repeats", 0.0)),
                *(speed(in_torch[other]) if other in in_torch else "–" for other in TORCH),
                speed(log["loop"]),
                speed(log["scan"]),
                f"{log['scan']['rows_per_cpu_second'] / fastest:.1f}" if fastest else "–",
                f"{log['scan']['rows_per_cpu_second'] / log['loop']['rows_per_cpu_second']:.1f}",
                "yes" if log["verdicts_equal"] else "no",
            ]
        )
    head = ["log", "rows", "repeats", *(f"{name}: rows a processor second (a second)" for name in TORCH.values())]
    head += ["loop over `analyze`", "scan", "scan / faster in torch", "scan / loop", "verdicts equal"]
    share = percent(result["logs"]["unique"]["share_of_ceiling"])
    return rows_of(head, body) + (
        f"\n{result['date'][:10]}, {result['machine']['cpu']} ({result['machine']['cores']} cores, "
        f"load {result['load_before']:.1f} before the start), {result['model']}; the unique texts reach {share} of "
        f"the machine's 8-bit ceiling; `python {result['command']}`\n"
    )


def workers(result: dict[str, Any]) -> str:
    """What a worker process of a scan takes."""
    names = {
        "spawn": "as it is: started afresh (*spawn*)",
        "forkserver": "forked from a process with the modules (*forkserver*)",
        "fork": "forked from a process with the model (*fork*)",
    }
    body = [
        [names[way], number, *(f"{row[kind]:.0f}" for kind in ("resident", "proportional", "own"))]
        for way in names
        for number, ways in result["workers"].items()
        if (row := ways[way])
    ]
    head = ["MB a worker", "workers", "resident", "shared pages in parts", "its own"]
    versions, alone = result["versions"], result["session_mb"]
    return rows_of(head, body) + (
        f"\nOf its own {alone['one file']:.0f} MB are the session's; with the weights beside the graph, in a file that "
        f"is mapped, they would be {alone['weights beside it']:.0f} MB.\n"
        f"\n{result['date'][:10]}, {result['machine']['platform'].split('-')[0]}, Python {versions['python']}, "
        f"onnxruntime {versions['onnxruntime']}, {result['model']}, a graph of {result['graph_mb']:.0f} MB; "
        f"`python {result['command']}`\n"
    )


def million(path: Path) -> str:
    """One scan of a large log, killed and gone on with."""
    if not path.exists():
        return "Not in the results file yet.\n"
    found = json.loads(path.read_text())
    memory, page = found["memory"], found["report"]
    body = [
        ["rows, each with its own row in the output, once and in order", f"{found['check']['rows']:,}"],
        ["repeats among them", percent(found["repeats"])],
        ["different texts in their contexts", f"{found['rows'] * (1 - found['repeats']):,.0f}"],
        ["killed with SIGKILL", f"{found['kills']} times"],
        ["rows a second, kills and all", f"{found['rows_per_second']:,.0f} ({found['workers']} workers)"],
        ["rows a processor second", f"{found['rows_per_cpu_second']:,.0f}"],
        ["verdicts drawn at random that equal those of `Guard.analyze`", f"{found['verdicts']['equal']}"],
        ["memory of all processes after the last kill, most", f"{memory['most_mb']:,.0f} MB"],
        ["its growth a 100,000 rows, after the first tenth", f"{memory['growth_mb_per_100000_rows']:+.1f} MB"],
        ["flagged", f"{found['flagged']:,}"],
        ["report: seconds, most memory", f"{page['seconds']:.0f} s, {page['most_mb']:,.0f} MB"],
    ]
    if "browser_opens_s" in page:
        opens = f"{page['browser_opens_s']:.1f} s (an empty page: {page['browser_opens_blank_s']:.1f} s)"
        body.append([f"report of {page['page_kb']:.0f} kB opens in Chromium, its start included", opens])
    busy = ": others used it, rows a second are a lower bound" if found["mean_load"] > found["workers"] + 1 else ""
    return rows_of(["", ""], body) + (
        f"\n{found['date'][:10]}, {found['machine']['cpu']} ({found['machine']['cores']} cores, mean load "
        f"{found['mean_load']:.1f}{busy}), {found['model']}; "
        f"`python {found['command']}`\n"
    )


PLAN_ROWS, NODE_CORES, PLAN_HOURS, CORE_HOUR = 10_000_000_000, 64, 24, 0.05
"""The plan of docs/scale.md. What a core hour costs, in dollars, is an assumption and no measurement."""


def scale(result: dict[str, Any]) -> str:
    """Ten billion rows on paper, from rows a processor second of one core."""
    body = []
    for name, log in result["logs"].items():
        if log.get("repeats", 0.0) > 0.95:
            continue  # measured for what a repeated row costs
        speed = log["scan"]["rows_per_cpu_second"]
        core_hours = PLAN_ROWS / speed / 3600
        nodes = math.ceil(core_hours / PLAN_HOURS / NODE_CORES)
        body.append(
            [
                "unique texts" if name == "unique" else f"mix, {percent(log['repeats'])} repeats",
                f"{speed:,.0f}",
                f"{core_hours:,.0f}",
                f"{nodes:,}",
                f"{core_hours / NODE_CORES / 10:,.0f}",
                f"{core_hours * CORE_HOUR:,.0f}",
                f"{PLAN_ROWS * log['bytes'] / log['rows'] / 1e12:,.1f}",
            ]
        )
    head = ["log", "rows a second a core", "core hours", f"nodes of {NODE_CORES} cores for {PLAN_HOURS} hours"]
    head += ["hours on 10 nodes", f"dollars at {CORE_HOUR} a core hour", "TB to read"]
    return rows_of(head, body) + (
        f"\n{PLAN_ROWS:,} rows, from `benchmarks/results/scan.json` of {result['date'][:10]} "
        f"({result['machine']['cpu']}, {result['model']})\n"
    )


def parity(result: dict[str, Any]) -> str:
    against = result["against_fp32"]
    body = [["fp32", decimal(result["auroc"]["fp32"]), "–", "–", "–"]]
    body += [
        [
            name,
            decimal(result["auroc"][name]),
            f"{row['largest_difference_in_risk']:.3f}",
            f"{row['mean_difference_in_risk']:.4f}",
            percent(row["equal_decisions"]),
        ]
        for name, row in against.items()
    ]
    return rows_of(["precision", "AUROC", "largest difference in risk", "mean difference", "equal decisions"], body)


def peers(others: dict[str, Any]) -> str:
    """At its own default, at equal false alarms, and where only the context decides."""
    body = []
    for name, row in others["results"].items():
        whole = row["kinds"]["all"]
        body.append(
            [
                BASELINES.get(name, name),
                percent(whole["recall"]),
                percent(whole["false_alarm_rate"]),
                percent(recall_at(whole, "0.01")),
                percent(recall_at(whole, "0.05")),
                decimal(whole["auroc"]),
                percent(row["pairs"] and row["pairs"]["ranked"]),
                percent(row["pairs"] and row["pairs"]["right"]),
                f"{row['milliseconds']['median']:.1f}",
            ]
        )
    head = ["", "caught, own default", "false alarms, own default", "caught at 1 % false alarms", "at 5 %", "AUROC"]
    return rows_of([*head, "same text: ranked right", "every record right", "ms"], body)


def part(kinds: dict[str, Any], kind: str, figure: str) -> str:
    """A share of one kind of data; a dash where there is none."""
    return percent(kinds[kind][figure] if kind in kinds else None)


def peers_kinds(others: dict[str, Any]) -> str:
    columns = {
        "public attacks: caught": ("public attacks", "recall"),
        "injection, jailbreak, extraction: caught": ("attacks on the model", "recall"),
        "trigger words: flagged": ("trigger words", "false_alarm_rate"),
        "ordinary traffic: flagged": ("ordinary traffic", "false_alarm_rate"),
        "content: attacked, caught": ("content", "recall"),
        "content: clean, flagged": ("content", "false_alarm_rate"),
    }
    body = [
        [BASELINES.get(name, name), *(part(row["kinds"], *column) for column in columns.values())]
        + [percent(row[groups] and row[groups]["right"]) for groups in ("pairs", "twins")]
        for name, row in others["results"].items()
    ]
    return rows_of(["own default", *columns, "same text: every record right", "twin texts: every record right"], body)


def peers_equal(others: dict[str, Any]) -> str:
    """Without the records where the context decides, in the thresholds, too."""
    kinds = {
        "all": "all",
        "public attacks": "public attacks",
        "injection, jailbreak, extraction": "attacks on the model",
        "attacked content": "content",
    }
    body = []
    for name, row in others["results"].items():
        found = row["text_decides"]
        cells = [percent(recall_at(found[kind], rate)) for kind in kinds.values() for rate in ("0.01", "0.05")]
        areas = [decimal(found[kind]["auroc"]) for kind in ("all", "attacks on the model", "content")]
        body.append([BASELINES.get(name, name), *cells, *areas])
    head = [f"{name}: caught at {rate}" for name in kinds for rate in ("1 %", "5 %")]
    head += ["AUROC, all", "AUROC, injection, jailbreak, extraction", "AUROC, content"]
    return rows_of(["equal false alarms", *head], body)


def peers_sources(others: dict[str, Any]) -> str:
    first = next(iter(others["results"].values()))["kinds"]
    sources = [kind for kind in first if kind.startswith("source: ")]
    body = [
        [BASELINES.get(name, name), *(part(row["kinds"], source, "recall") for source in sources)]
        for name, row in others["results"].items()
    ]
    head = [f"{source.removeprefix('source: ')} ({first[source]['risky']})" for source in sources]
    return rows_of(["caught, own default", *head], body)


def peers_circumstances(others: dict[str, Any]) -> str:
    facts, rows, settings = others["provenance"], others["results"], others["settings"]
    versions = [f"{name} {row['version']}" for name, row in rows.items() if row["version"] and ", " not in name]
    fitted = f"baselines fitted on {settings['fitted_on']:,} training records"
    if "embeddings of the text" in rows:
        fitted += f", embeddings on {settings['embeddings_fitted_on']:,}"
    return (
        f"{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {rows['promptguard']['model']}, {rows['promptguard']['kinds']['all']['n']:,} records, "
        f"{', '.join(versions)}; {fitted}; `python {facts['command']}`\n"
    )


def circumstances(quality: dict[str, Any]) -> str:
    facts = quality["provenance"]
    return (
        f"{facts['date'][:10]}, {facts['machine']['cpu']} ({facts['machine']['cores']} cores), "
        f"bundle {quality['settings']['model']}, {quality['overall']['n']:,} records, "
        f"mode {quality['settings']['mode']}; "
        f"`python {facts['command']}`\n"
    )


if __name__ == "__main__":
    main()
