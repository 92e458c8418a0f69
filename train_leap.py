"""Train a LEAP student, whose texts can skip layers, from any BERT-like sentence encoder.

accelerate launch train_leap.py --data texts.jsonl.gz --output_dir runs/a
accelerate launch train_leap.py --data texts/ --output_dir runs/b --max_tokens 1e8 --resume
accelerate launch --num_processes 8 train_leap.py --mixed_precision bf16 --data owner/texts --output_dir c

The teacher is frozen. The student learns to give the teacher's final embedding at full depth and on the short
path that converged texts take, and to tell beforehand how close the short path will come (objective.py).
"""

import errno
import math
import time
from contextlib import ExitStack, closing
from datetime import timedelta

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from leap.distill.batches import training_batches
from leap.distill.checkpoint import check_finished, load_checkpoint, save_checkpoint
from leap.distill.evaluation import Evaluation
from leap.distill.identity import run_identity
from leap.distill.log import Log
from leap.distill.objective import Objective, ObjectiveConfig
from leap.distill.options import TrainOptions, fail, parse, set_exit_rule
from leap.distill.release import model_card, write_model
from leap.distill.students import Distilled, make_student, parameter_groups, parse_layer_starts
from leap.distill.teacher import teacher_targets
from leap.encode.checkpoint import check_tokenizer, check_weights, loading
from leap.encode.encoder import Encoder, find_model
from leap.errors import UsageError
from leap.files import write_json
from leap.publish.hub import push
from leap.text.sets import load_sts
from leap.text.tokens import TokenCache, draw_texts
from modeling_leap import LeapModel

# The first process tokenises while the others wait, and a corpus may take it hours.
TIMEOUT = InitProcessGroupKwargs(timeout=timedelta(hours=12))


def load_models(
    options: TrainOptions, objective: ObjectiveConfig, device: torch.device
) -> tuple[PreTrainedTokenizerBase, LeapModel, LeapModel]:
    """Tokenizer, frozen teacher, and the student at its start.

    Raises:
        ValueError: models and options do not go together.
        UsageError: a model cannot be had.
    """
    # On a CPU with bfloat16 units eager attention trains faster than sdpa; in float32 they are alike.
    load = {"dtype": torch.float32, "attn_implementation": "eager" if device.type == "cpu" else "sdpa"}
    load |= {"use_safetensors": True, "output_loading_info": True}
    with loading("--teacher", options.teacher):
        name = find_model(options.teacher, "--teacher")
        tokenizer = AutoTokenizer.from_pretrained(name, revision=options.teacher_revision)
        teacher, info = LeapModel.from_pretrained(name, revision=options.teacher_revision, **load)
        check_tokenizer(tokenizer, teacher.config.vocab_size)
        check_weights(teacher, info)
    source = teacher
    if options.student:
        with loading("--student", options.student):
            name = find_model(options.student, "--student")
            source, info = LeapModel.from_pretrained(name, revision=options.student_revision, **load)
            check_weights(source, info)
        for size in ("vocab_size", "hidden_size"):
            found, wanted = getattr(source.config, size), getattr(teacher.config, size)
            if found != wanted:
                raise ValueError(f"--student: its {size} is {found}, the teacher's {wanted}: choose another")
    student = make_student(
        source, parse_layer_starts(options.student_layers) if options.student_layers else None
    )
    set_exit_rule(student.config, options, objective)  # reject an invalid exit rule before training
    teacher.config.exit_threshold = None
    return tokenizer, teacher.eval().requires_grad_(False), student


def learning_rate(progress: float, options: TrainOptions) -> float:
    """The learning rate at a share of the run in [0, 1]: a linear warm-up, then a cosine down to 0."""
    if progress < options.warmup:
        return options.learning_rate * progress / options.warmup
    past = min(1.0, (progress - options.warmup) / (1 - options.warmup))
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * past))


def gather_with_gradient(rows: Tensor) -> Tensor:
    """(B, H) of each process to (B * processes, H) in all; gradients go back to where the rows came from."""
    return torch.cat(all_gather(rows.contiguous()))


def main() -> None:
    """Run from the command line to the finished model."""
    options, objective = parse(__doc__.splitlines()[0])
    try:
        with ExitStack() as ends:  # what is closed before an error is reported
            train(options, objective, ends)
    except (ValueError, UsageError) as error:
        fail(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        fail(UsageError(f"--output_dir: {error}: make room there and start again with --resume"))


def train(options: TrainOptions, terms: ObjectiveConfig, ends: ExitStack) -> None:
    """The recipe, from top to bottom.

    Raises:
        ValueError: models, data and options do not go together, or the loss is not finite.
        UsageError: a model or data set cannot be had.
    """
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        log_with=None if options.report_to == "none" else options.report_to,
        project_config=ProjectConfiguration(project_dir=str(options.output_dir)),
        kwargs_handlers=[TIMEOUT],
    )
    set_seed(options.seed)
    device, processes, process = accelerator.device, accelerator.num_processes, accelerator.process_index

    # 1. Models, and sentence pairs to watch the student by.
    sts = load_sts(options.eval_data, "validation") if options.eval_data else None
    tokenizer, teacher, student = load_models(options, terms, device)
    teacher.to(device)

    # 2. Texts, tokenised once; the first process does it and the others find it done.
    data_on_hub = [source.name for source in options.sources() if not source.files()]
    with accelerator.main_process_first():
        cache = TokenCache.build(
            options.sources(), tokenizer, options.max_length, options.cache_dir, options.streaming
        )
    texts = draw_texts(cache, options.max_texts, options.seed)
    total = options.max_tokens or options.epochs * int(cache.lengths[texts].sum())

    # 3. Objective and optimizer.
    gather = gather_with_gradient if processes > 1 else None
    objective = Objective(terms, gather, process)
    model = Distilled(student, terms.first_exit_layer, options.full_depth_every)
    groups = parameter_groups(student, options.word_embedding_rate)
    parameters = [parameter for group in groups for parameter in group["params"]]
    optimizer = torch.optim.AdamW(
        groups,
        lr=options.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=options.weight_decay,
        fused=True,
    )
    run = run_identity(options, terms, teacher, student, tokenizer, cache, texts, processes)
    model, optimizer = accelerator.prepare(model, optimizer)
    student = accelerator.unwrap_model(model).student

    # 4. Go on from a checkpoint.
    checkpoints, finished = options.output_dir / "checkpoints", options.output_dir / "log.json"
    check_finished(finished, run)
    progress = load_checkpoint(
        checkpoints, student, optimizer.optimizer, run, accelerator.scaler, options.resume
    )
    if options.report_to != "none":
        accelerator.init_trackers("leap", config={name: str(value) for name, value in run.items()})
    evaluation = None
    if sts and accelerator.is_main_process:
        evaluation = Evaluation(Encoder("teacher", teacher, tokenizer, options.max_length), sts)

    # 5. The loop. Of its own it waits for the device only to log.
    log = ends.enter_context(closing(Log(accelerator, options.log_steps, progress, total)))
    saved = time.monotonic()
    batches = training_batches(
        cache, texts, options, tokenizer.pad_token_id, device, process, processes, done=progress.batches
    )
    for count, tokens, ids, mask in batches:
        rate = learning_rate(progress.tokens / total, options)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate"]
        with accelerator.accumulate(model):
            with accelerator.autocast():
                targets = teacher_targets(teacher, ids, mask)
            loss, values = objective(model(ids, mask), targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, options.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        progress.batches += 1
        progress.tokens += tokens
        log.add(count, tokens, {"loss": loss.detach(), **values})
        if not accelerator.sync_gradients:
            continue
        progress.step += 1
        log.step(progress.step, rate)
        done = progress.tokens >= total
        if evaluation and (progress.step % options.eval_steps == 0 or done):
            log.figures(evaluation(student))
        if done:
            break
        # By the clock of the first process alone: nothing in it waits for the others.
        if accelerator.is_main_process and time.monotonic() - saved >= 60 * options.checkpoint_minutes:
            log.check()
            save_checkpoint(checkpoints, progress, student, optimizer.optimizer, run, accelerator.scaler)
            saved = time.monotonic()

    # 6. The finished model.
    log.check()
    accelerator.wait_for_everyone()
    # DDP goes before its process group. Left to be the last that holds it, it would take it down with the
    # interpreter locked, and the thread of gloo that it joins may be waiting for that lock (torch 2.13).
    del model
    accelerator.free_memory()
    accelerator.end_training()
    if accelerator.is_main_process:
        folder = options.output_dir / "model"
        card = model_card(student, options.teacher, options.recipe, options.push_to_hub, data_on_hub)
        write_model(folder, student, tokenizer, options.max_length, options.save_dtype, card)
        write_json(finished, {"given": options.given(), "run": run, "log": progress.rows})
        if options.push_to_hub:
            print(push(folder, options.push_to_hub, "--push_to_hub").commit_url)


if __name__ == "__main__":
    main()
