"""The training loop of one process: resumable (state.py), and the same on CPU and GPU."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from actors.model.checkpoint import save_checkpoint
from actors.model.encoders import tied_names
from actors.model.model import MultiExitModel
from actors.model.tokenizer import TextCodec
from actors.training import state
from actors.training.corpus import LabelledCorpus, TrainingSample
from actors.training.device import choose_device
from actors.training.scratch.data import Packer, Pair, num_tokens, saved_tokenizer
from actors.training.scratch.grounding import PATCH_PIXELS, GroundingHead, Places
from actors.training.scratch.loss import multi_exit_loss
from actors.training.scratch.optimizers import make_optimizers, rate_share
from actors.training.scratch.scratch import initialise, model_config
from actors.training.workers import Workers
from conf.errors import UserError
from conf.training import TrainConfig
from pipeline.source.left_out import as_dicts

REPORT_EVERY = 10  # steps
Report = Callable[[dict[str, Any]], None]


class Trainer:
    """Owns model, optimizer and position in the data; `run` trains to `total_steps` or until told to stop."""

    def __init__(self, config: TrainConfig, report: Report, workers: Workers | None = None) -> None:
        self.config, self.report = config, report
        self.workers = workers or Workers()
        self.workers.check(config.optimizer.batch_images)
        self.output = Path(config.output)
        self.state_path = self.output / "state"
        self.machine = choose_device(config.device, config.precision, config.num_threads)
        self.device = self.machine.device
        self.corpus = LabelledCorpus(config.data.train)
        self.validation_corpus = LabelledCorpus(config.data.validation)
        torch.manual_seed(config.seed)
        if self.workers.leads:
            saved_tokenizer(self.state_path, self.corpus, config.tokenizer)
        self.workers.wait()
        self.tokenizer = saved_tokenizer(self.state_path, self.corpus, config.tokenizer)
        self.model_config = model_config(config, self.tokenizer.get_vocab_size())
        self.model = MultiExitModel(self.model_config)
        initialise(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)
        codec = TextCodec(self.tokenizer, self.model_config.text)
        self.packer = Packer(codec, self.model_config, config.data, config.seed)
        if codec.rules.words:
            self.corpus.words_field = self.validation_corpus.words_field = config.data.words_field
        self.validation_samples = self.validation_corpus.first(config.validation_images, self.model_config.plan)
        grounds = config.loss.grounding_weight and self.model.packs_prompts
        self.places = self._known_places() if grounds else None
        self.grounding: GroundingHead | None = None
        if self.places is not None:
            names = [codec.encode(name) for name in self.places.names]
            self.grounding = GroundingHead(self.places, names, config.architecture.d_model).to(self.device)
        elif config.optimizer.encoder_steps:
            raise UserError(
                "optimizer.encoder_steps needs loss.grounding_weight and a corpus whose `objects` have places"
            )
        self.optimizers = make_optimizers(self._named_parameters(), config.optimizer)
        self.peak_rates = [group["lr"] for optimizer in self.optimizers for group in optimizer.param_groups]
        self.step, self.epoch, self.epoch_images = 0, 0, 0
        self.window = Counter[str]()  # losses since the last report
        self.best, self.worse = -1.0, 0  # early stopping: best validation accuracy, validations since
        self._resume()

    @property
    def opening(self) -> str:
        """What is about to be trained, in one line."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return (
            f"{parameters / 1e6:.1f} M parameters, exits {list(self.model_config.exits)}, on {self.device}, "
            f"{len(self.corpus.shards)} shards, from step {self.step} of {self.config.optimizer.total_steps}"
        )

    def _known_places(self) -> Places | None:
        """Return what the first shards say is where; a rare name that only later shards hold is not asked for."""
        shards = self.corpus.shards[: self.config.data.shuffle_shards]
        side = self.model_config.image_size // PATCH_PIXELS
        places = Places((sample for shard in shards for sample in self.corpus.samples(shard)), side)
        return places if places.names else None

    def _named_parameters(self) -> dict[str, torch.nn.Parameter]:
        named = dict(self.model.named_parameters())
        if self.grounding is not None:
            named |= {f"grounding.{name}": parameter for name, parameter in self.grounding.named_parameters()}
        return named

    def run(self, should_stop: Callable[[], bool] = lambda: False) -> bool:
        """Train; return True when all steps are done. The state is saved when stopped early."""
        o = self.config.optimizer
        batches = self._batches()
        window_start, window_images = time.perf_counter(), 0
        while self.step < o.total_steps and not self._stalled():
            samples = next(batches)
            self.window.update(self._train_step(samples))
            window_images += len(samples)
            if self.step % REPORT_EVERY == 0 and self.workers.leads:
                elapsed_s = time.perf_counter() - window_start
                self.report({
                    "step": self.step, "total_steps": o.total_steps, "epoch": self.epoch,
                    "images_per_s": window_images / elapsed_s, "lr": o.peak_lr * rate_share(self.step, o),
                    "losses": {key: value / REPORT_EVERY for key, value in self.window.items()},
                })  # fmt: skip
                window_start, window_images = time.perf_counter(), 0
            if self.step % REPORT_EVERY == 0:
                self.window = Counter()
            if self.step % self.config.validate_every == 0 or self.step == o.total_steps:
                self._validate_and_judge()
                window_start = time.perf_counter()
            stop = self.workers.agree(should_stop(), self.device)
            if self.step % self.config.save_every == 0 or self.step == o.total_steps or stop:
                self.save_state()
            if stop:
                return False
        if self._stalled():
            self.save_state()
        self._report_left_out()
        if self.workers.leads:
            self.export()
        self.workers.wait()
        return True

    def _stalled(self) -> bool:
        """Return whether none of the last `patience` validations was better than the best before them."""
        return self.config.patience is not None and self.worse >= self.config.patience

    def _validate_and_judge(self) -> None:
        self.workers.average_statistics(self.model)
        if self.workers.leads:
            values = self.validate()
            self.report({"step": self.step, "validation": values})
            accuracy = values["token_accuracy_by_exit"][str(self.model_config.exits[-1])]
            self.worse = 0 if accuracy > self.best else self.worse + 1
            self.best = max(self.best, accuracy)
        stalled = self.workers.agree(self._stalled(), self.device)
        self.worse = max(self.worse, self.config.patience or 0) if stalled else self.worse

    def _batches(self) -> Iterator[list[TrainingSample]]:
        """Yield the decoded samples of one step at a time; a step never spans two epochs."""
        plan, shuffle_shards = self.model_config.plan, self.config.data.shuffle_shards
        while True:
            first = drawn = self.epoch_images  # a resumed epoch continues where it stopped
            batch: list[TrainingSample] = []
            samples = self.corpus.epoch(seed=self.config.seed, epoch=self.epoch, shuffle_shards=shuffle_shards)
            for shard, sample in itertools.islice(samples, first, None):
                drawn += 1
                decoded = self.corpus.decoded(shard, sample, plan)
                if decoded is not None:
                    batch.append(decoded)
                if len(batch) == self._batch_images():
                    self.epoch_images = drawn
                    yield batch
                    batch = []
            if first == self.epoch_images == 0:
                raise self._too_small(len(batch))
            self.epoch, self.epoch_images = self.epoch + 1, 0
            self._report_left_out()

    def _too_small(self, num_samples: int) -> UserError:
        name = "encoder_batch_images" if self.step < self.config.optimizer.encoder_steps else "batch_images"
        return UserError(
            f"{', '.join(self.config.data.train)}: {num_samples} labelled images are fewer than one step takes, "
            f"optimizer.{name}={self._batch_images()}; lower it or add images"
        )

    def _report_left_out(self) -> None:
        if self.workers.leads and self.corpus.left_out:
            self.report({"step": self.step, "left_out": as_dicts(self.corpus.left_out)})

    def _batch_images(self) -> int:
        o = self.config.optimizer
        return o.encoder_batch_images if self.step < o.encoder_steps else o.batch_images

    def _train_step(self, samples: list[TrainingSample]) -> dict[str, float]:
        """Take one optimizer step; return the loss and its parts.

        Losses are means over the target tokens of the whole step, however it is shared among workers and micro-batches.
        """
        o = self.config.optimizer
        self.model.train()
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        for group, peak in zip(groups, self.peak_rates, strict=True):
            group["lr"] = peak * rate_share(self.step, o)
        pairs = self.packer.choose(samples, self.epoch)
        step_tokens = num_tokens(pairs)
        samples, pairs = self.workers.mine(samples), self.workers.mine(pairs)
        size = -(-len(samples) // o.accumulate)
        sums: Counter[str] = Counter()
        for start in range(0, len(samples), size):
            part, part_pairs = samples[start : start + size], pairs[start : start + size]
            token_share = self.workers.count * num_tokens(part_pairs) / step_tokens
            with self.machine.autocast():
                loss, values = self._loss(part, part_pairs, len(part) / len(samples), token_share)
            loss.backward()
            sums.update({"loss": float(loss.detach()), **{key: float(value) for key, value in values.items()}})
        self.workers.average_gradients(self._named_parameters().values())
        torch.nn.utils.clip_grad_norm_(self._named_parameters().values(), o.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return self.workers.average_numbers(sums, self.device)

    def _loss(
        self, samples: list[TrainingSample], pairs: list[list[Pair]], image_share: float, token_share: float
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return what a part of a step adds to its loss, and to the parts of it that are reported."""
        batch = self.packer.pack(samples, pairs, self.device)
        patches, states, segments = self.model.encode_packed(batch)
        loss, values = states.new_zeros(()), {}
        if self.grounding is not None and self.places is not None:
            targets = self.places.targets(samples, pairs, self.device)
            grounding = self.grounding.loss(self.model, patches, states, targets)
            weight = self.config.loss.grounding_weight * image_share
            if grounding:
                loss = loss + weight * torch.stack(list(grounding.values())).sum()
            else:  # no image of this part has places: nothing to learn, and still something to go back through
                loss = loss + 0.0 * states.sum()
            values.update({key: value.detach() * image_share for key, value in grounding.items()})
        if self.step >= self.config.optimizer.encoder_steps:
            text_loss, losses, _ = multi_exit_loss(self.model, batch, states, segments, self.config.loss)
            loss = loss + text_loss * token_share
            ends = {"ce_first": losses[0], "ce_last": losses[-1]}
            values |= {key: value.detach() * token_share for key, value in ends.items()}
        return loss, values

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Return teacher-forced token accuracy per exit on the validation images."""
        self.model.eval()
        samples = self.validation_samples
        correct, tokens = [0] * len(self.model_config.exits), 0
        for start in range(0, len(samples), 64):
            part = samples[start : start + 64]
            batch = self.packer.pack(part, self.packer.choose(part, 0), self.device)
            with self.machine.autocast():
                _, states, segments = self.model.encode_packed(batch)
                _, _, hits = multi_exit_loss(self.model, batch, states, segments, self.config.loss)
            tokens += int((batch.target_labels >= 0).sum())
            correct = [a + int(b) for a, b in zip(correct, hits, strict=True)]
        accuracy = {str(layer): hits / tokens for layer, hits in zip(self.model_config.exits, correct, strict=True)}
        return {"images": len(samples), "token_accuracy_by_exit": accuracy}

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"model": self.model} | ({} if self.grounding is None else {"grounding": self.grounding})

    def _tensors(self) -> dict[str, torch.Tensor]:
        """Return all weights; tied tensors of the model are stored once."""
        copies = {f"model.{name}" for name in tied_names(self.model_config)}
        named = {f"{at}.{n}": t for at, module in self._modules().items() for n, t in module.state_dict().items()}
        return {name: tensor for name, tensor in named.items() if name not in copies}

    def _parameter_names(self) -> dict[int, str]:
        return {id(p): name for name, p in self._named_parameters().items()}

    def save_state(self) -> None:
        """Write everything a resumed run needs."""
        self.workers.average_statistics(self.model)
        if self.workers.leads:
            position = {
                "step": self.step, "epoch": self.epoch, "epoch_images": self.epoch_images,
                "best": self.best, "worse": self.worse, "window": self.window,
            }  # fmt: skip
            state.save(self.state_path, self._tensors(), self.optimizers, self._parameter_names(), position)

    def _resume(self) -> None:
        saved = state.load(self.state_path, self.optimizers, self._parameter_names(), self.device)
        if saved is not None:
            position, tensors = saved
            for prefix, module in self._modules().items():
                own = {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}
                module.load_state_dict(own, strict=prefix != "model")
            self.step, self.epoch = position["step"], position["epoch"]
            self.epoch_images = position["epoch_images"]
            self.best, self.worse = position.get("best", -1.0), position.get("worse", 0)
            self.window = Counter(position.get("window", {}))

    def export(self) -> None:
        """Write the checkpoint to ship; half precision on disk, which halves its size."""
        save_checkpoint(
            self.output / "checkpoint", self.model_config, self.model.state_dict(), self.tokenizer, torch.float16
        )
