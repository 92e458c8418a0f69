"""A page to try LEAP: which texts skip layers, what it saves, and search over the teacher's index.

python app.py
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page; the exit status: 0 after Ctrl-C, or 2 with one line of error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT), help="folder or Hub id (default: this repository)")
    parser.add_argument(
        "--teacher",
        help="folder, Hub id or package:NAME, to embed the index at the start (default: stored vectors)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    args = parser.parse_args(argv)
    try:
        from leap.page.layout import build, launch  # here: --help needs no Gradio
    except ImportError as error:
        print(f"app: error: {error}: pip install -r requirements-app.txt", file=sys.stderr)
        return 2
    from leap.encode.encoder import load_encoder
    from leap.errors import UsageError, first_line
    from leap.page.search import embed_index, read_index, read_sentences

    try:
        encoder = load_encoder(args.model)
        texts = read_sentences()
        if args.teacher:
            index = embed_index(load_encoder(args.teacher, argument="--teacher"), texts)
        else:
            index = read_index(texts)
        if index.vectors.shape[1] != encoder.model.config.hidden_size:
            raise UsageError("--model: its embeddings are not as wide as the index: give the --teacher of it")
        name = "LEAP-MiniLM-L6" if args.model == str(ROOT) else args.model
        launch(build(encoder, index, name), args.host, args.port)
    except (UsageError, OSError) as error:
        print(f"app: error: {first_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
