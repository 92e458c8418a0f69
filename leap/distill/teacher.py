"""What the teacher says of a text, computed in the step or stored once for all epochs."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from leap.folders import reserve, write_folder
from leap.text.tokens import TokenCache
from modeling_leap import LeapModel


@torch.no_grad()
def teacher_layers(teacher: LeapModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Pooled embeddings of all teacher layers, (B, Lt, H) float32, for (B, T) ids and mask."""
    output = teacher(input_ids, attention_mask=attention_mask, output_layer_embeddings=True)
    return output.layer_embeddings[:, 1:]


@torch.no_grad()
def stored_targets(
    teacher: LeapModel,
    cache: TokenCache,
    texts: np.ndarray,
    pad_id: int,
    cache_dir: Path,
    precision: str = "no",
    batch_size: int = 128,
) -> np.ndarray:
    """Full-depth teacher embeddings of the texts, (N, H) float16, memory-mapped; made where not yet stored.

    float16 keeps a cosine to about 1e-6 and halves the file.

    Args:
        teacher: in eval mode.
        cache: where the texts are.
        texts: (N,) indices into it.
        pad_id: the tokenizer's.
        cache_dir: folder of all caches; this one's name is a digest of everything it depends on.
        precision: the mixed precision that the caller has switched on; it only names the cache.
        batch_size: texts of a forward pass.
    """
    digest = hashlib.sha256(f"{cache.folder.name} {texts.shape} {precision}".encode())
    digest.update(np.ascontiguousarray(texts))
    for name, tensor in sorted(teacher.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy())
    folder = cache_dir / f"teacher-{digest.hexdigest()[:16]}"
    if not folder.exists():
        with write_folder(folder) as partial:
            file = partial / "embeddings.npy"
            shape = (len(texts), teacher.config.hidden_size)
            targets = np.lib.format.open_memmap(file, "w+", np.float16, shape)
            reserve(file)
            order = np.argsort(cache.lengths[texts], kind="stable")
            with tqdm(total=len(texts), desc="teacher", unit=" texts", unit_scale=True, leave=False) as bar:
                for start in range(0, len(texts), batch_size):
                    rows = order[start : start + batch_size]
                    batch = cache.batch(texts[rows], pad_id)
                    output = teacher(**{name: tensor.to(teacher.device) for name, tensor in batch.items()})
                    targets[rows] = output.sentence_embedding.cpu().numpy()
                    bar.update(len(rows))
            targets.flush()
    return np.load(folder / "embeddings.npy", mmap_mode="r", allow_pickle=False)
