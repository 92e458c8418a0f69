"""The page itself, in Gradio."""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# Before Gradio is imported: it looks for newer versions and collects usage statistics by default.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from leap.encode.encoder import Encoder
from leap.errors import UsageError
from leap.page.analysis import Rule, analyse, describe_rule, layer_range, make_rule, split_texts, summarise
from leap.page.plot import plot_tests
from leap.page.search import Index, search

OWN, SET = "The model's own rule", "The settings below"
EXAMPLES = """Hello!
A man is playing a guitar.
How do I reset my password?
Interest rates rose for the third time this year, to the surprise of most economists.
I don't know.
Colorless green ideas sleep furiously, while the parrot, unimpressed, files its taxes."""
SIDE = 320  # pixels below which columns stand one under the other
CSS = """
#message, #trouble {
  border-left: 4px solid #c2410c; padding: 0.6rem 0.8rem; background: rgba(194, 65, 12, 0.08);
}
#table *, #hits * {font-family: var(--font); overflow-wrap: normal; word-break: normal}
@media (max-width: 600px) {
  #table [role=gridcell] *, #table th *, #hits [role=gridcell] *, #hits th * {font-size: 12px}
  #table .cell-wrap, #hits .cell-wrap {padding-left: 3px; padding-right: 3px}
}
"""
FAILED = "Something went wrong on our side, and it is in the program's log. Please try once more."

LOWEST, HIGHEST = 0.0, 1.0  # theta of the slider

logger = logging.getLogger(__name__)


def theme() -> gr.themes.Base:
    """Gradio's default colours with system fonts: nothing is fetched from elsewhere."""
    return gr.themes.Default(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "Consolas", "monospace"]
    )


def build(encoder: Encoder, index: Index, name: str) -> gr.Blocks:
    """The page.

    Args:
        encoder: the model.
        index: what is searched.
        name: of the model, for the reader.
    """
    landing = encoder.model.config.landing_layer
    then = f"skips to layer {landing}" if landing else "leaves the network"
    handlers = Handlers(encoder, index)
    with gr.Blocks(title="LEAP: texts that leave early", analytics_enabled=False) as page:
        gr.Markdown(
            f"# Which texts skip layers?\n"
            f"{name} has {encoder.depth} layers. A text {then} once its embedding has a cosine s of at least "
            f"theta with that of the layer before."
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=SIDE):
                texts, encode, *settings = _inputs(encoder)
            with gr.Column(scale=3, min_width=SIDE):
                shown = _results()
        gr.Markdown(
            f"## Search the teacher's index\n{len(index.texts)} sentences, embedded by all-MiniLM-L6-v2. The "
            f"query is embedded by LEAP, under the exit rule above."
        )
        query, find, *answer = _search(index)

        rule, *sliders = settings
        for slider in sliders:
            # Typed numbers are validated here: Gradio's own error would hide all results.
            slider.preprocess = lambda payload: payload
            slider.input(lambda: SET, outputs=rule, show_progress="hidden", queue=False)
        # Not on release, which the keyboard does not trigger; of a drag's changes the last one counts.
        moved = [page.load, rule.change, *(slider.change for slider in sliders)]
        # One request at a time: two would distort each other's timing.
        alone: dict[str, Any] = {
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress": "minimal",  # the full one hides what is there
            "trigger_mode": "always_last",
            "api_visibility": "private",
        }
        gr.on([*moved, encode.click], handlers.encode, [texts, *settings], shown, **alone)
        gr.on([*moved, find.click, query.submit], handlers.search, [query, *settings], answer, **alone)
    return page


def _inputs(encoder: Encoder) -> list[Any]:
    """The texts, the button, and the settings: which rule, theta, l_min."""
    own, (lowest, highest) = make_rule(encoder), layer_range(encoder)
    texts = gr.Textbox(EXAMPLES, label="Texts, one a line", lines=7, max_lines=12, elem_id="texts")
    rule = gr.Radio(
        [(f"{OWN}: {describe_rule(own)}", OWN), SET], value=OWN, label="Exit rule", elem_id="rule"
    )
    theta = gr.Slider(
        LOWEST,
        HIGHEST,
        value=own.theta if isinstance(own.theta, float) else 0.95,
        step=0.005,
        label="theta",
        info="lower: more texts skip layers",
        elem_id="theta",
    )
    first = gr.Slider(
        lowest,
        max(highest, lowest + 1),  # Gradio makes no slider of one value, not even a hidden one
        value=own.first_layer,
        step=1,
        label="l_min",
        info="the first layer at which a text is tested",
        elem_id="first",
        visible=lowest < highest,
    )
    return [texts, gr.Button("Encode", variant="primary", elem_id="encode"), rule, theta, first]


def _results() -> list[Any]:
    """What `Handlers.encode` updates."""
    message = gr.Markdown(visible=False, elem_id="message")
    with gr.Column(visible=False, elem_id="results") as results:
        summary = gr.Markdown(elem_id="summary")
        table = gr.Dataframe(
            headers=["", "text", "s", "skips", "layers", "cosine to full depth"],
            datatype=["number", "str", "str", "str", "number", "str"],
            column_widths=["8%", "36%", "13%", "13%", "14%", "16%"],
            interactive=False,
            wrap=True,
            max_height=560,
            show_label=False,
            elem_id="table",
        )
        curves = gr.Plot(show_label=False, elem_id="curves")
    return [message, results, summary, table, curves]


def _search(index: Index) -> list[Any]:
    """The query, the button, and what `Handlers.search` updates."""
    with gr.Row(equal_height=True):
        query = gr.Textbox("I forgot my login", label="Query", scale=4, max_lines=3, elem_id="query")
        find = gr.Button("Search", scale=1, min_width=120, elem_id="find")
    trouble = gr.Markdown(visible=False, elem_id="trouble")
    hits = gr.Dataframe(
        headers=["rank", "sentence", "cosine", f"rank by {index.judge}"],
        datatype=["number", "str", "str", "number"],
        column_widths=["13%", "49%", "18%", "20%"],
        interactive=False,
        wrap=True,
        show_label=False,
        elem_id="hits",
    )
    return [query, find, trouble, hits, gr.Markdown(elem_id="found")]


class Handlers:
    """Event handlers: field values in, component updates out."""

    def __init__(self, encoder: Encoder, index: Index) -> None:
        self.encoder = encoder
        self.index = index

    def encode(
        self, pasted: str | None, which: str, theta: float | None, first: float | None
    ) -> Sequence[Any]:
        """Updates of message, results, summary, table and picture."""

        def work() -> Sequence[Any]:
            texts, rule = split_texts(pasted), self._rule(which, theta, first)
            found = analyse(self.encoder, texts, rule)
            rows = [
                [
                    row + 1,
                    shorten(text),
                    f"{found.cosines[row]:.3f}" if found.tested_at[row] else "-",
                    "yes" if found.skips[row] else "no",
                    int(found.layers_run[row]),
                    f"{found.fidelity[row]:.4f}",
                ]
                for row, text in enumerate(texts)
            ]
            told = summarise(found, self.encoder.depth)
            return gr.Column(visible=True), told, rows, plot_tests(found, rule)

        return _answer(work, (gr.Column(visible=False), "", [], None))

    def search(
        self, query: str | None, which: str, theta: float | None, first: float | None
    ) -> Sequence[Any]:
        """Updates of message, table of hits, and what is said of the query."""

        def work() -> Sequence[Any]:
            hits = search(self.encoder, self.index, query, self._rule(which, theta, first))
            rows = [
                [rank, self.index.texts[row], f"{cosine:.3f}", int(judged)]
                for rank, (row, cosine, judged) in enumerate(
                    zip(hits.rows, hits.cosines, hits.judged, strict=True), start=1
                )
            ]
            told = f"The query ran **{hits.layers_run}** of {self.encoder.depth} layers."
            return gr.Dataframe(rows, visible=True), told

        return _answer(work, (gr.Dataframe(visible=False), ""))

    def _rule(self, which: str, theta: float | None, first: float | None) -> Rule:
        if which == OWN:
            return make_rule(self.encoder)
        if theta is None or first is None:
            raise UsageError("theta and l_min must be numbers: type them, or move the sliders.")
        if not LOWEST <= theta <= HIGHEST:
            raise UsageError(f"theta must lie between {LOWEST:g} and {HIGHEST:g}; {theta:g} does not.")
        lowest, highest = layer_range(self.encoder)
        if not lowest <= first <= highest:
            raise UsageError(f"l_min must be a layer from {lowest} to {highest}; {first:g} is none.")
        return make_rule(self.encoder, float(theta), round(first))


def shorten(text: str, width: int = 120) -> str:
    """A text as the table shows it."""
    return text if len(text) <= width else text[: width - 1] + "…"


def _answer(work: Callable[[], Sequence[Any]], nothing: Sequence[Any]) -> Sequence[Any]:
    """What `work` returns, after a hidden message; or `nothing`, after a message of what went wrong."""
    try:
        return gr.Markdown(visible=False), *work()
    except UsageError as error:
        return gr.Markdown(str(error), visible=True), *nothing
    except Exception:  # visitors never see a stack trace
        logger.exception("the page failed")
        return gr.Markdown(FAILED, visible=True), *nothing


def launch(page: gr.Blocks, host: str, port: int | None, *, block: bool = True) -> str:
    """Serve the page; its address.

    Args:
        page: from `build`.
        host: address to listen on.
        port: None: the first free one from 7860 on.
        block: until Ctrl-C.
    """
    _, address, _ = page.launch(
        server_name=host,
        server_port=port,
        prevent_thread_lock=not block,
        share=False,
        ssr_mode=False,  # it would take a Node.js
        footer_links=["settings"],
        theme=theme(),
        css=CSS,
        allowed_paths=[],
        blocked_paths=[str(Path(__file__).resolve().parents[2])],
        quiet=not block,
    )
    return address
