"""What the model card says of the libraries that run the model: which one when, and where LEAP loses.

As in `eval.card.card_facts`, figures are compared as they are printed.
"""

from typing import Any

from eval.card.card_facts import threads
from eval.card.card_results import Json, Results
from eval.speed.peer_runtimes import EXITS
from eval.speed.peer_targets import (
    SHARE_ALONE,
    SHARE_BATCHED,
    SPEEDUP,
    Pace,
    paces,
    races,
    row_of,
    settings,
)


def setting_words(setting: tuple[str, int]) -> str:
    """`sentences, batch 1`, or `64 tokens, batch 32`."""
    texts, size = setting
    kind = f"{texts.removeprefix('passages of ')} tokens" if texts.startswith("passages of ") else texts
    return f"{kind}, batch {size}"


def peers(results: Results) -> list[Json]:
    """The comparisons of libraries, one a machine: what the template prints, ready to print.

    Returns:
        For each: `machine`, `texts` (what the kinds of texts are), `settings` (names of the columns); `rows`
        of times, `gains` of exits over full depth, `ahead` of LEAP over peers; `targets` in words;
        `advice`, the fastest of LEAP's libraries by precision and setting; `losses` in words; `missing` and
        `versions`.
    """
    return [_one(result) for result in results.peers]


def _one(result: Json) -> Json:
    figures = result["figures"]
    columns = settings(figures)
    versions = result["provenance"]["versions"]
    named = ("torch", "transformers", "sentence-transformers", "onnxruntime", "openvino", "fastembed")
    return {
        "machine": f"{result['provenance']['machine']['processor']}, {threads(figures['threads'])} each",
        "baseline": _title(figures, figures["baseline"]),
        "texts": [_text_words(kind) for kind in figures["texts"]],
        "settings": [setting_words(setting) for setting in columns],
        "rows": list(_rows(figures, columns)),
        "gains": list(_gains(figures, columns)),
        "ahead": list(_ahead(figures, columns)),
        "targets": _targets(figures),
        "advice": list(_advice(figures, columns)),
        "losses": _losses(figures),
        "missing": [f"{peer['title']} (`{peer['install']}`)" for peer in figures["missing"].values()],
        "versions": ", ".join(f"{name} {versions[name]}" for name in named if name in versions),
    }


def _title(figures: Json, name: str) -> str:
    peer = figures["peers"][name]
    return ("LEAP, " if peer["model"] == "leap" else "teacher, ") + peer["title"]


def _text_words(kind: Json) -> str:
    words = f"{kind['name']}: {kind['different']:,} different, {kind['mean_tokens']:.1f} tokens on average"
    return f"{words} ({kind['least_tokens']} to {kind['most_tokens']})" + (
        ", joined of several" if kind["joined"] else ""
    )


def _rows(figures: Json, columns: list[tuple[str, int]]) -> Any:
    """A row a variant: precision, quality, memory, and at each setting p50 / p95 and texts a second."""
    for score in figures["quality"]:
        name, variant = score["peer"], score["variant"]
        peer = figures["peers"][name]
        label = _title(figures, name) + (f", {variant}" if peer["model"] == "leap" else "")
        cells = [f"**{label}**" if variant == EXITS else label, peer["precision"]]
        cells += [f"{score['spearman']:.4f}", f"{peer['peak_mb']:,.0f}", f"{peer['load_s']:.1f}"]
        for setting in columns:
            row = row_of(figures, setting, name, variant)
            cells.append(
                f"{row['p50_ms']:.2f} / {row['p95_ms']:.2f}; {row['sentences_per_s']:,.0f}/s; "
                f"{row['ratio']:.2f}x"
            )
        yield cells


def _gains(figures: Json, columns: list[tuple[str, int]]) -> Any:
    """A row a library of LEAP: speedup of exits, what layers allow, and the share of it reached."""
    found = {(pace.peer, (pace.texts, pace.batch_size)): pace for pace in paces(figures)}
    for name in dict.fromkeys(peer for peer, _ in found):
        cells = [_title(figures, name)]
        for setting in columns:
            pace = found[name, setting]
            text = f"{pace.speedup:.2f} of {pace.possible:.2f} ({pace.share:.0%})"
            cells.append(text if pace.fast_enough and pace.near_enough else f"{text}, below")
        yield cells


def _ahead(figures: Json, columns: list[tuple[str, int]]) -> Any:
    """A row a peer: its time over that of LEAP in the fastest library of no lower precision."""
    found = {(race.peer, (race.texts, race.batch_size)): race for race in races(figures)}
    for name in dict.fromkeys(peer for peer, _ in found):
        cells = [_title(figures, name), figures["peers"][name]["precision"]]
        for setting in columns:
            race = found[name, setting]
            cells.append(f"{race.times:.2f}" if race.won else f"**{race.times:.2f}, slower**")
        yield cells


def _targets(figures: Json) -> list[str]:
    """Each target with how often it was reached."""
    found, others = paces(figures), races(figures)
    alone = [pace for pace in found if pace.batch_size == 1]
    batched = [pace for pace in found if pace.batch_size > 1]

    def reached(what: str, held: list[bool]) -> str:
        return f"{what}: in {sum(held)} of {len(held)} cases"

    return [
        reached(
            f"exits at least {SPEEDUP} times as fast as full depth in the same library, batch 1",
            [pace.fast_enough for pace in alone],
        ),
        reached(
            f"at least {SHARE_ALONE:.0%} of layers over mean exit layer, batch 1".replace("%", " %"),
            [pace.near_enough for pace in alone],
        ),
        reached(
            f"at least {SHARE_BATCHED:.0%} of it in larger batches".replace("%", " %"),
            [pace.near_enough for pace in batched],
        ),
        reached(
            "LEAP's fastest library ahead of a peer of the same or a lower precision",
            [race.won for race in others],
        ),
    ]


def _advice(figures: Json, columns: list[tuple[str, int]]) -> Any:
    """For each setting the fastest of LEAP's libraries with exits, by precision."""
    for setting in columns:
        cells = [setting_words(setting)]
        for precision in ("float32", "int8"):
            rows = [
                row_of(figures, setting, name, EXITS)
                for name, peer in figures["peers"].items()
                if peer["model"] == "leap" and peer["precision"] == precision
            ]
            best = max(rows, key=lambda row: row["ratio"], default=None)
            cells.append(
                f"{figures['peers'][best['peer']]['title']}, {best['p50_ms']:.2f} ms" if best else "-"
            )
        yield cells


def _losses(figures: Json) -> list[str]:
    """Where LEAP is no faster than a peer, or exits no faster than full depth."""
    words = [
        f"{_title(figures, race.peer)} is as fast or faster on "
        f"{setting_words((race.texts, race.batch_size))} ({race.times:.2f} times LEAP's time)"
        for race in races(figures)
        if not race.won
    ]
    slow: list[Pace] = [pace for pace in paces(figures) if round(pace.speedup, 2) <= 1]
    return words + [
        f"exits do not pay in {_title(figures, pace.peer)} on {setting_words((pace.texts, pace.batch_size))} "
        f"(speedup {pace.speedup:.2f})"
        for pace in slow
    ]
