"""Milliseconds: one call, other guards' networks, ways to run the model, the benchmark's own pages."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from tables.cells import number, percent, rows_of, times_ours


def tables(results: Path) -> dict[str, str]:
    """Every table of this file by name, from the folder of results."""
    made = {
        "latency": (latency,),
        "architectures": (
            architectures,
            architectures_targets,
            architectures_context,
            architectures_engines,
            architectures_circumstances,
        ),
        "concurrency": (concurrency,),
        "options": (options,),
        "speed": (speed_streams, speed_throughput),
        "size": (size_checks, size_answer),
    }
    tables = {
        make.__name__: make(json.loads((results / f"{name}.json").read_text()))
        for name, makers in made.items()
        for make in makers
    }
    # The same on a processor that has neither AVX-512 nor VNNI.
    older = {
        name: json.loads((results / f"{name}_avx2.json").read_text())
        for name in ("latency", "architectures", "options")
    }
    return tables | {
        "latency_avx2": latency(older["latency"]),
        "latency_avx2_circumstances": latency_circumstances(older["latency"]),
        "architectures_avx2": architectures_targets(older["architectures"]),
        "architectures_avx2_circumstances": architectures_circumstances(older["architectures"]),
        "options_avx2": options(older["options"]),
    }


def latency_circumstances(result: dict[str, Any]) -> str:
    """Where and when the latencies were measured."""
    return (
        f"{result['date'][:10]}, {result['machine']['cpu']} ({result['machine']['cores']} cores), bundle "
        f"{result['model']}; 8-bit ceiling {result['ceiling_gops']:.0f} GOP/s; `python {result['command']}`\n"
    )


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
            # Results of schema 1 have no share: it was 99 %.
            figures = [
                f"{number(row['rate'], 1)} with {row.get('share', 0.99):.0%} in {row['slo_ms']:g} ms".replace(
                    "%", " %"
                ),
                "–",
            ]
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
