"""LEAP as an mteb 2 model: importing this module registers it, with the exit threshold as an argument.

    import mteb
    import eval.quality.mteb_model
    model = mteb.get_model("leap/LEAP-MiniLM-L6", exit_threshold=0.93)
    results = mteb.evaluate(model, mteb.get_tasks(tasks=["STSBenchmark"]))
    print(model.layers_run / model.texts)

or, with mteb's own command line after the two arguments that it does not know,

    python -m eval.quality.mteb_model --exit_threshold 0.93 run -m leap/LEAP-MiniLM-L6 -t STSBenchmark
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any, Literal

from huggingface_hub import snapshot_download
from mteb.cli.build_cli import main as mteb_main
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_implementations import MODEL_REGISTRY
from mteb.models.model_meta import ScoringFunction

from configuration_leap import ExitThreshold
from leap.encode.encoder import encode, load_encoder
from leap.encode.exits import FloatArray, theta_text
from leap.errors import UsageError

NAME = "leap/LEAP-MiniLM-L6"


class LeapEncoder(AbsEncoder):
    """A LEAP model in the form of mteb's `EncoderProtocol`.

    Args:
        model_name: Hub id of the model.
        revision: commit, tag or branch of it; None: the newest.
        device: torch's name of a device; None: the GPU where there is one.
        exit_threshold: theta, or a list of one a layer; None: full depth; "config": the model's own.
        min_exit_layer: l_min; None: the model's own.
        source: where to load from in the place of the Hub, as `find_model` takes it: a folder, or
            `package:NAME`.

    Raises:
        UsageError: there is no such model, or the exit rule is out of its range.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,
        exit_threshold: ExitThreshold | Literal["config"] = "config",
        min_exit_layer: int | None = None,
        source: str | None = None,
    ) -> None:
        if source is None:
            source = snapshot_download(model_name, revision=revision) if revision else model_name
        self.encoder = load_encoder(source, device=device, argument="source")
        theta, first_layer, _ = self.encoder.exit_rule(exit_threshold, min_exit_layer)
        self.rule = {"exit_threshold": theta, "min_exit_layer": first_layer}
        self.texts = self.layers_run = 0  # encoded so far, and the layers that all of them ran

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """What mteb knows about the model; mteb sets it after loading.

        The rule in force is among the facts of the experiment, which name the folder that mteb keeps results
        in: by itself mteb leaves out a None, and would take results of full depth for those of the default.
        """
        return self._meta

    @mteb_model_meta.setter
    def mteb_model_meta(self, meta: ModelMeta) -> None:
        rule = self.rule | {"exit_threshold": theta_text(self.rule["exit_threshold"])}
        self._meta = meta.model_copy(update={"experiment_kwargs": dict(meta.experiment_kwargs or {}) | rule})

    def encode(self, inputs: Any, *, batch_size: int = 64, **_: Any) -> FloatArray:
        """Encode the texts that mteb passes in.

        Args:
            inputs: batches, each a mapping with the list `text`.
            batch_size: texts a forward pass.
            **_: task, split and prompt type, which this model encodes all alike.

        Returns:
            (N, H) float32, not normalised.
        """
        texts = [text for batch in inputs for text in batch["text"]]
        found = encode(self.encoder, texts, batch_size=batch_size, **self.rule)
        self.texts += len(texts)
        self.layers_run += int(found.layers_run.sum())
        return found.embeddings


LEAP_MINILM_L6 = ModelMeta(
    loader=LeapEncoder,
    name=NAME,
    revision=None,
    release_date=None,
    languages=["eng-Latn"],
    n_parameters=22_565_376,
    n_embedding_parameters=11_720_448,
    memory_usage_mb=86,
    max_tokens=256,
    embed_dim=384,
    license="apache-2.0",
    open_weights=True,
    public_training_code=None,
    public_training_data=None,
    framework=["Sentence Transformers", "PyTorch", "safetensors", "Transformers"],
    reference=f"https://huggingface.co/{NAME}",
    similarity_fn_name=ScoringFunction.COSINE,
    use_instructions=False,
    training_datasets=None,
    adapted_from="sentence-transformers/all-MiniLM-L6-v2",
)
MODEL_REGISTRY[NAME] = LEAP_MINILM_L6


def main(argv: Sequence[str] | None = None) -> int:
    """Run mteb's command line on a LEAP model with a threshold; the exit status.

    Args:
        argv: `--exit_threshold` and `--source`, then mteb's own arguments; None: those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m eval.quality.mteb_model", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--exit_threshold", type=float, help="theta (default: the model's own)")
    parser.add_argument("--source", help="folder to load from instead of the Hub")
    parser.add_argument("mteb", nargs=argparse.REMAINDER, help=f"as after `mteb`: run -m {NAME} -t TASK ...")
    args = parser.parse_args(argv)
    settings = {"exit_threshold": args.exit_threshold, "source": args.source}
    settings = {name: value for name, value in settings.items() if value is not None}
    # As experiment: mteb then keeps the results of each threshold in a folder of their own.
    MODEL_REGISTRY[NAME] = LEAP_MINILM_L6.model_copy(update={"experiment_kwargs": settings or None})
    sys.argv = ["mteb", *args.mteb]
    try:
        mteb_main()
    except UsageError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
