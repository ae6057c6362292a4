"""Train a small model of `transformers` by its own code and its own processor: stands in for a checkpoint somebody
brings. Two learn pictures that are not square, two with eight decoder layers the captions and questions of scenes.

    python -m tests.actors.interop.trained.pictures data/strips
    python -m tests.actors.interop.trained.train pix2struct data/strips runs/pix2struct
    python -m tests.actors.interop.trained.train donut data/strips runs/donut

    for split in "train --set num_images=30000 --set images_per_shard=1000" "val --set num_images=1000" test; do
        deed scenes --config conf/scenes-small.yaml --set split=$split
    done
    python -m tests.actors.interop.trained.train pix2struct8 data/scenes-small runs/pix2struct8
    python -m tests.actors.interop.trained.train bart8 data/scenes-small runs/bart8

Killed, it goes on from the last checkpoint when the same command is run again; with another `--steps` the rate falls
earlier or later. The log is FOLDER/log.csv; FOLDER holds the model that was best on the validation split.
"""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from actors.model.tokenizer import load_tokenizer
from actors.training.scratch.muon import Muon
from actors.training.scratch.optimizers import rate_share
from conf.training import OptimizerConfig
from tests.actors.interop.trained.examples import Examples, Text, decoder_inputs, read_examples, save_atomically
from tests.actors.interop.trained.models import MODELS, Trainable, make_tokenizer, save_directory
from tests.actors.interop.trained.scores import score

EVERY = 500  # steps between checkpoints
VAL_PICTURES, VAL_TEXTS = 128, 3  # scored at each of them; TEXTS: captions and questions of a picture


def batch_of(step: int, recipe: Trainable, examples: Examples) -> tuple[np.ndarray, list[list[Text]], list[list[Text]]]:
    """Pictures of a step, and of each the captions and the questions; a function of the step alone."""
    epoch, place = divmod(step, len(examples) // recipe.batch)
    order = np.random.default_rng(epoch).permutation(len(examples))
    pictures = order[place * recipe.batch : (place + 1) * recipe.batch]
    rng = np.random.default_rng((epoch, place))
    captions = [some(examples.captions[i], recipe.captions, rng) for i in pictures]
    return pictures, captions, [some(examples.questions[i], recipe.questions, rng) for i in pictures]


def some(texts: list[Text], count: int, rng: np.random.Generator) -> list[Text]:
    return [texts[i] for i in rng.permutation(len(texts))[:count]]


def losses(
    model: Any, inputs: dict[str, Tensor], groups: Iterable[list[list[Text]]], tokenizer: Tokenizer
) -> Iterator[Tensor]:
    """The model's own loss for each group of texts: short answers are not padded to the length of captions.

    A picture is encoded once, and its states are repeated for each of its texts.
    """
    start = model.generation_config.decoder_start_token_id
    states = model.encoder(**inputs).last_hidden_state
    for group in groups:
        counts = torch.tensor([len(texts) for texts in group])
        if counts.sum() == 0:
            continue
        mask = inputs.get("attention_mask")
        repeated = {} if mask is None else {"attention_mask": mask.repeat_interleave(counts, 0)}
        texts = decoder_inputs([text for texts in group for text in texts], start, tokenizer)
        yield model(encoder_outputs=(states.repeat_interleave(counts, 0),), use_cache=False, **repeated, **texts).loss


def make_optimizers(model: Any, recipe: Trainable) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers where the recipe has a rate for it, AdamW for everything else."""
    named = dict(model.named_parameters())
    is_inner = {
        name: recipe.muon_rate > 0 and p.dim() == 2 and ".layer" in name and "bias" not in name
        for name, p in named.items()
    }
    rest = [p for name, p in named.items() if not is_inner[name]]
    adamw = torch.optim.AdamW(rest, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    inner = [{"params": [p]} for name, p in named.items() if is_inner[name]]
    return [adamw, Muon(inner, lr=recipe.muon_rate, weight_decay=0.05)] if inner else [adamw]


def set_rates(optimizers: list[torch.optim.Optimizer], step: int, schedule: OptimizerConfig) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * rate_share(step, schedule)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("data", type=Path, help="folder with the splits train and val")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, help="of the whole training")
    options = parser.parse_args(arguments)
    recipe = MODELS[options.name]
    train(recipe, options.data, options.output, options.steps or recipe.steps)


def train(recipe: Trainable, data: Path, output: Path, steps: int, every: int = EVERY, stop: int | None = None) -> None:
    """Train `steps` steps, the rate falling to zero, or up to `stop` of them; scored and kept after `every` so many."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    processor, state_path, tokenizer_path = recipe.processor(), output / "state.pt", output / "tokenizer.json"
    examples, val = (
        read_examples(f"{data}/{split}/*.tar", processor, output / f"inputs-{split}.pt", is_asked=recipe.is_asked)
        for split in ("train", "val")
    )
    val = val.first(VAL_PICTURES)
    if not tokenizer_path.exists():
        make_tokenizer(examples.strings(), recipe.special_tokens).save(str(tokenizer_path))
    tokenizer = load_tokenizer(tokenizer_path)
    model = recipe.build(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} values, {len(examples)} pictures", flush=True)
    optimizers = make_optimizers(model, recipe)
    schedule = OptimizerConfig(total_steps=steps, warmup_steps=200, decay_fraction=0.5)
    done, best, seconds = 0, -1.0, 0.0
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        for part, values in zip((model, *optimizers), state["parts"], strict=True):
            part.load_state_dict(values)
        done, best, seconds = state["done"], state["best"], state["seconds"]
    started, seen = time.monotonic() - seconds, []
    while done < (steps if stop is None else stop):
        set_rates(optimizers, done, schedule)
        pictures, captions, questions = batch_of(done, recipe, examples)
        loss = torch.stack(list(losses(model, examples.batch(pictures), (captions, questions), tokenizer)))
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seen.append(loss.detach())
        done += 1
        if done % every == 0 or done == steps:
            means = torch.stack(seen).mean(0).tolist()
            scores = score(model, val, tokenizer, VAL_TEXTS, VAL_TEXTS)
            seconds, seen = time.monotonic() - started, []
            write_log(output / "log.csv", done, means, scores, seconds)
            total = sum(value for value in scores.values() if value == value)
            if total > best:
                best = total
                save_directory(output, model, processor, tokenizer)
            parts = [part.state_dict() for part in (model, *optimizers)]
            save_atomically({"parts": parts, "done": done, "best": best, "seconds": seconds}, state_path)


def write_log(path: Path, done: int, means: list[float], scores: dict[str, float], seconds: float) -> None:
    """Append a line; `losses` are the captions' and the questions'."""
    row = {"step": str(done), "losses": " ".join(f"{mean:.4f}" for mean in means)}
    row |= {name: f"{value:.4f}" for name, value in scores.items()} | {"seconds": f"{seconds:.0f}"}
    if not path.exists():
        path.write_text(",".join(row) + "\n")
    with path.open("a") as log:
        print(",".join(row.values()), file=log)
    print(", ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
