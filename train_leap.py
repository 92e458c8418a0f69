"""Train a LEAP student, whose texts can leave early, from any BERT-like sentence encoder.

accelerate launch train_leap.py --data texts.jsonl.gz --output_dir runs/a
accelerate launch train_leap.py --student_layers 1,3,6,6~,6~,6~ --data texts/ --output_dir runs/b --resume
accelerate launch --num_processes 8 train_leap.py --mixed_precision bf16 --data owner/texts --output_dir c

The teacher is frozen. The student learns to give the teacher's final embedding after every layer that a text
may leave at (leap/distill/objective.py), so that the exit rule of modeling_leap.py fires.
"""

import argparse
import errno
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase, get_scheduler

from leap.distill.arguments import fail, objective_config, parse, text_sources
from leap.distill.checkpoint import load_checkpoint, save_checkpoint
from leap.distill.evaluation import evaluate_student
from leap.distill.objective import Objective
from leap.distill.release import model_card, write_model
from leap.distill.students import Distilled, freeze, make_student, parse_layer_starts
from leap.distill.teacher import stored_targets, teacher_layers
from leap.encode.checkpoint import check_tokenizer, check_weights, loading
from leap.encode.encoder import find_model
from leap.errors import UsageError
from leap.files import write_json
from leap.publish.hub import push
from leap.text.sets import load_sts
from leap.text.tokens import TokenCache, batch_loader, draw_texts, length_grouped_batches
from modeling_leap import LeapModel


def load_models(
    args: argparse.Namespace, device: torch.device
) -> tuple[PreTrainedTokenizerBase, LeapModel, LeapModel]:
    """Tokenizer, frozen teacher, and the student at its start."""
    # On a CPU the backward pass of sdpa takes half as long again in bfloat16 (results/throughput.json).
    load = {"dtype": torch.float32, "attn_implementation": "eager" if device.type == "cpu" else "sdpa"}
    load |= {"use_safetensors": True, "output_loading_info": True}
    with loading("--teacher", args.teacher):
        name = find_model(args.teacher, "--teacher")
        tokenizer = AutoTokenizer.from_pretrained(name, revision=args.teacher_revision)
        teacher, info = LeapModel.from_pretrained(name, revision=args.teacher_revision, **load)
        check_tokenizer(tokenizer, teacher.config.vocab_size)
        check_weights(teacher, info)
    source = teacher
    if args.student:
        with loading("--student", args.student):
            name = find_model(args.student, "--student")
            source, info = LeapModel.from_pretrained(name, revision=args.student_revision, **load)
            check_weights(source, info)
        if source.config.vocab_size != teacher.config.vocab_size:
            raise ValueError("--student and --teacher must share one vocabulary: choose another student")
    starts = parse_layer_starts(args.student_layers) if args.student_layers else None
    student = make_student(source, starts, teacher)
    if not args.train_word_embeddings:
        freeze(student, args.frozen_layers)
    student.config.exit_threshold, student.config.min_exit_layer = args.exit_threshold, args.min_exit_layer
    student.config.resolve_exit_rule()  # what cannot be: say so before training
    teacher.config.exit_threshold = None
    return tokenizer, teacher.eval().requires_grad_(False), student


def gather_with_gradient(rows: Tensor) -> Tensor:
    """(B, H) of each process to (B * processes, H) in all; gradients go back to where the rows came from."""
    return torch.cat(all_gather(rows.contiguous()))


def run_identity(args: argparse.Namespace, texts: int, steps: int, processes: int) -> dict[str, object]:
    """What a checkpoint must have in common with the run that goes on from it, as JSON values."""
    names = (
        "teacher student student_layers train_word_embeddings frozen_layers data exclude_sources max_length"
    )
    names += (
        " batch_size gradient_accumulation_steps learning_rate schedule warmup weight_decay max_grad_norm"
    )
    names += " mixed_precision recipe seed"
    said = {name: getattr(args, name) for name in names.split()}
    return said | {
        "objective": asdict(objective_config(args)),
        "texts": texts,
        "steps": steps,
        "processes": processes,
    }


def main() -> None:
    """Everything from the command line to the finished model."""
    args = parse(__doc__.splitlines()[0])
    try:
        with ExitStack() as ends:  # what is closed before an error is said
            train(args, ends)
    except (ValueError, UsageError) as error:
        fail(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(UsageError(f"--output_dir: {error}: make room there and start again with --resume"))


def train(args: argparse.Namespace, ends: ExitStack) -> None:  # noqa: C901 - a recipe, read from top to bottom
    """The recipe.

    Raises:
        ValueError: models, data and arguments do not go together.
        UsageError: a model or data set cannot be had.
    """
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=ProjectConfiguration(project_dir=str(args.output_dir)),
    )
    set_seed(args.seed)
    device, processes, accumulation = (
        accelerator.device,
        accelerator.num_processes,
        args.gradient_accumulation_steps,
    )

    # 1. Models, and sentence pairs to watch the student by.
    sts = load_sts(args.eval_data, "validation") if args.eval_data else None
    tokenizer, teacher, student = load_models(args, device)
    teacher.to(device)

    # 2. Texts, tokenised once; the first process does it and the others find it done.
    data_on_hub = [source.name for source in text_sources(args) if not source.files()]
    with accelerator.main_process_first():
        cache = TokenCache.build(
            text_sources(args), tokenizer, args.max_length, args.cache_dir, args.streaming
        )
        texts = draw_texts(cache, args.max_texts, args.seed)
        targets = None
        if args.cache_teacher:
            with accelerator.autocast():
                targets = stored_targets(
                    teacher, cache, texts, tokenizer.pad_token_id, args.cache_dir, args.mixed_precision
                )
    steps_per_epoch = len(texts) // (args.batch_size * processes * accumulation)
    if steps_per_epoch == 0:
        raise ValueError(f"--data has {len(texts)} texts, fewer than one step takes: lower --batch_size")
    steps = min(args.epochs * steps_per_epoch, args.max_steps or args.epochs * steps_per_epoch)

    # 3. Objective, optimizer, schedule.
    objective = Objective(
        objective_config(args), gather_with_gradient if processes > 1 else None, accelerator.process_index
    )
    model = Distilled(student, teacher.config.hidden_size)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=args.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=args.weight_decay,
        fused=device.type == "cuda",
    )
    scheduler = get_scheduler(args.schedule, optimizer, int(args.warmup * steps), steps)
    model, optimizer = accelerator.prepare(model, optimizer)

    # 4. Go on from a checkpoint.
    checkpoints = args.output_dir / "checkpoints"
    run = run_identity(args, len(texts), steps, processes)
    step = 0
    if args.resume:
        step = load_checkpoint(
            checkpoints, accelerator.unwrap_model(model), optimizer.optimizer, run, accelerator.scaler
        )
        for _ in range(step):
            scheduler.step()
    if args.report_to != "none":
        accelerator.init_trackers("leap", config={name: str(value) for name, value in run.items()})

    def batches(done: int) -> Iterator[dict[str, Tensor]]:
        """All batches after `done` steps. They depend on seed and epoch alone, so those done are left out."""
        for epoch in range(done // steps_per_epoch, args.epochs):
            order = length_grouped_batches(
                cache.lengths[texts], args.batch_size, args.seed, epoch, processes, accelerator.process_index
            )
            first = max(0, done - epoch * steps_per_epoch) * accumulation
            loader: DataLoader = batch_loader(
                cache,
                texts,
                order[first : steps_per_epoch * accumulation],
                tokenizer.pad_token_id,
                targets,
                args.workers,
                device.type == "cuda",
            )
            for batch in loader:
                yield {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}

    # 5. The loop. Nothing in it waits for the device but the logging.
    log = ends.enter_context(closing(Log(accelerator, args.log_steps * accumulation, step, steps)))
    for batch in batches(step):
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with accelerator.accumulate(model):
            # Drawn anew from seed and step, not carried on: a resumed run draws what an unbroken one does.
            generator = torch.Generator().manual_seed(args.seed + 7919 * step + accelerator.process_index)
            with accelerator.autocast():
                inner = None if targets is not None else teacher_layers(teacher, ids, mask)
            layers = model(ids, mask)
            target = batch["teacher"] if inner is None else inner[:, -1]
            loss, terms = objective(layers, target, inner, step / steps, generator)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        log.add(len(ids) * processes, {"loss": loss.detach(), **terms})
        if not accelerator.sync_gradients:
            continue
        scheduler.step()
        step += 1
        log.step(step)
        if accelerator.is_main_process:
            if sts and (step % args.eval_steps == 0 or step == steps):
                log.figures(step, *evaluate_student(accelerator.unwrap_model(model).student, tokenizer, sts))
            if step % args.checkpoint_steps == 0 and step < steps:
                save_checkpoint(
                    checkpoints,
                    step,
                    accelerator.unwrap_model(model),
                    optimizer.optimizer,
                    run,
                    accelerator.scaler,
                )
        if step == steps:
            break
    log.close()

    # 6. The finished model.
    accelerator.wait_for_everyone()
    accelerator.end_training()
    if accelerator.is_main_process:
        student = accelerator.unwrap_model(model).student
        folder = args.output_dir / "model"
        card = model_card(student, args.teacher, args.recipe, args.push_to_hub, data_on_hub)
        write_model(folder, student, tokenizer, args.save_max_length, args.save_dtype, card)
        write_json(args.output_dir / "log.json", {"run": run, "log": log.rows})
        if args.push_to_hub:
            print(push(folder, args.push_to_hub, "--push_to_hub").commit_url)


class Log:
    """Progress bar, tracker and the rows of log.json."""

    def __init__(self, accelerator: Accelerator, every: int, done: int, steps: int) -> None:
        self.accelerator, self.every = accelerator, every
        self.rows: list[dict[str, float]] = []
        self.bar = tqdm(total=steps, initial=done, disable=not accelerator.is_main_process, unit="step")
        self._restart()

    def _restart(self) -> None:
        self.since, self.batches, self.texts = time.perf_counter(), 0, 0
        self.sums: dict[str, Tensor] = {}

    def add(self, texts: int, terms: dict[str, Tensor]) -> None:
        """Count a batch; its terms stay on the device."""
        self.batches += 1
        self.texts += texts
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def step(self, step: int) -> None:
        """Note an optimizer step; every so many, read the mean terms and show them."""
        self.bar.update(1)
        if self.batches >= self.every:
            sums = torch.stack(list(self.sums.values())) / self.batches
            values = self.accelerator.reduce(sums, "mean").tolist()  # over processes, and one wait for all
            means = {name: round(value, 4) for name, value in zip(self.sums, values, strict=True)}
            means["texts_per_second"] = round(self.texts / (time.perf_counter() - self.since), 1)
            self.bar.set_postfix(means)
            self._note(step, means)

    def figures(self, step: int, figures: dict[str, float], line: str) -> None:
        """Note an evaluation; the time it took is not counted as training."""
        self.bar.write(f"step {step}: {line}")
        self._note(step, figures)

    def _note(self, step: int, figures: dict[str, float]) -> None:
        self.accelerator.log(figures, step=step)
        self.rows.append({"step": step, **figures})
        self._restart()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()


if __name__ == "__main__":
    main()
