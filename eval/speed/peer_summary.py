"""The figures of `peers` as text."""

from typing import Any

from eval.speed.peer_runtimes import EXITS


def summary(figures: dict[str, Any]) -> str:
    """A line for each row of the figures, grouped by texts and batch size, and what is missing."""
    lines = [f"{figures['threads']} threads; p50 / p95 ms of a batch, and how often as fast as the baseline"]
    quality = {(row["peer"], row["variant"]): row for row in figures["quality"]}
    tokens = {kind["name"]: kind["mean_tokens"] for kind in figures["texts"]}
    setting = None
    for row in figures["rows"]:
        if setting != (row["texts"], row["batch_size"]):
            setting = (row["texts"], row["batch_size"])
            lines.append(
                f"{row['batch_size']} x {row['texts']} ({tokens[row['texts']]:.1f} tokens on average)"
            )
        peer = figures["peers"][row["peer"]]
        label = f"{row['peer']}, {row['variant']}" if peer["model"] == "leap" else row["peer"]
        line = f"  {label:<42}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['ratio']:>7.2f}"
        line += f"  STS {quality[row['peer'], row['variant']]['spearman']:.4f}  {peer['peak_mb']:>5.0f} MB"
        if row["variant"] == EXITS:
            line += f"  speedup {row['speedup']:.2f} of {row['possible']:.2f} ({row['share']:.0%})"
        lines.append(line)
    for row in figures["stream"]:
        way = f"{row['clients']} clients" if row["clients"] else f"{row['rate']:.1f} texts/s arrive"
        label = f"{row['peer']}, {row['variant']}"
        line = f"  {way:<22}{label:<42}{row['p50_ms']:>9.2f}{row['p95_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        lines.append(line + (f"{row['texts_per_s']:>9.1f} texts/s" if row["clients"] else ""))
    lines += [f"missing: {peer['title']}: {peer['install']}" for peer in figures["missing"].values()]
    return "\n".join(lines)
