"""FinetuneModule: the LightningModule around `ponet.SequenceClassifier`.

B rows of a batch, N rows of a split, C outputs. Invariant: the gradient of an optimiser step is
that of the mean loss over the step's rows, whatever the number of micro-batches and devices; a
split's scores come from all of its rows, each counted once.
"""

import dataclasses
import math
from pathlib import Path
from typing import Literal

import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from finetune.answers import Answers, all_answers, tagger_answers, text_answers
from finetune.artifact import (
    EncoderSource,
    PretrainedEncoder,
    load_classifier,
    load_pretrained,
    say_if_untrained,
)
from finetune.data.batches import TaskBatch
from finetune.data.datamodule import TaskDataModule
from finetune.data.targets import ScoreScale, balanced_weights, row_losses, score_scale
from finetune.fit_module import FitModule
from finetune.freezing import Freeze, check_freeze, freeze_part
from finetune.metrics import scores, sentence_scores, tagging_scores
from finetune.pairs import PairOptions, start_from_counts
from finetune.sentences.windows import joined
from finetune.tasks.spec import TaskSpec
from finetune.thresholds import (
    Thresholds,
    choose_thresholds,
    sentence_threshold,
    thresholded,
)
from ponet import BertConfig, PretrainingModel, SequenceClassifier
from ponet.tagger import Decoder, SentenceTagger, Tagger, TaggerOutput
from ponet.tokenizer import check_tokenizer
from training.interruption import say
from training.optim import FinetuneOptimizer, scheduled_optimizer


def log_prefix(split: str) -> str:
    """Return what a split is called in logs: `val`, `val_mismatched`, `test`, ..."""
    return split.replace("validation", "val")


class FinetuneModule(FitModule):
    """Fine-tunes one encoder on one task.

    Args:
        encoder: Folder of a bundle, of the run that holds bundle/, of the authors' released weights
            with a tokenizer.json beside them, or of a fine-tuned run: its encoder with a new last
            layer, or with the old one where the labels are the same. Or a YAML file of an encoder
            that is trained from scratch, such as those in configs/encoder.
        random_init: Take sizes and tokenizer from there but no weights: what pretraining is worth.
        positions: How a position table shorter than data.max_len is made longer: repeated (as the
            released code) or stretched.
        gradient_checkpointing: Recompute each block in the backward pass: less memory, more time,
            the same numbers.
        optimizer: AdamW and its schedule.
        dropout_prob: Dropout of encoder and head in training, in [0, 1).
        class_weights: balanced: in training, the loss of a row is multiplied by rows / (classes x
            rows of its class), so that rare classes count as much as frequent ones.
        tokenizer: tokenizer.json for an encoder from a YAML file.
        decoder: How words get tags: independent of each other; bio: the likeliest sequence that BIO
            allows; crf: with trained scores of neighbouring tags too. Sentences likewise, without
            bio.
        thresholds: Of several labels a text, the probability above which one is given, chosen on
            validation after every epoch: one for all by the F1 over all answers, or per_label.
        pairs: A linear model over words and pairs of words beside an encoder of hashed words.
        freeze: What stays as it is, without gradients or dropout: embeddings; a number: they and so
            many first blocks; encoder: all but pooler and last layer. 0: nothing.
    """

    spec: TaskSpec
    classifier: SequenceClassifier | Tagger

    def __init__(  # noqa: PLR0913, PLR0917 (the options of a run)
        self,
        encoder: str,
        random_init: bool = False,
        positions: Literal["tile", "interpolate"] = "tile",
        gradient_checkpointing: bool = False,
        optimizer: FinetuneOptimizer = FinetuneOptimizer(),  # noqa: B008 (frozen)
        dropout_prob: float = 0.1,
        class_weights: Literal["none", "balanced"] = "none",
        tokenizer: str = "",
        decoder: Decoder = "independent",
        thresholds: Thresholds = "one",
        pairs: PairOptions = PairOptions(),  # noqa: B008 (frozen)
        freeze: Freeze = 0,
    ) -> None:
        super().__init__()
        check_freeze(freeze)
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"dropout_prob is {dropout_prob}; it must be in [0, 1)")
        self.encoder_path = encoder
        self.random_init = random_init
        self.positions = positions
        self.gradient_checkpointing = gradient_checkpointing
        self.optimizer_config = optimizer
        self.dropout_prob = dropout_prob
        self.class_weights = class_weights
        self.tokenizer = tokenizer
        self.decoder: Decoder = decoder
        self.how_thresholds: Thresholds = thresholds
        self.thresholds: tuple[float, ...] = ()
        """As they were chosen on the newest validation, or of the classifier that is scored."""
        self.pairs = pairs
        self.frozen = freeze
        self.class_weights_C: Tensor | None = None
        """float32 (C,); None: all 1."""
        self.scale = ScoreScale()
        """Of the scores of a regression."""
        self.trained: Path | None = None
        """Folder of a trained classifier to evaluate; None: start from the encoder."""
        self.source: EncoderSource | None = None
        """Where it started, after `setup` for a fit."""
        self.trained_positions = 0
        """How many positions of the encoder had been trained there."""
        self._evaluated: dict[int, list[Answers]] = {}
        self._words_per_row = 1.0
        """Mean over the training rows of a task of tags."""

    @property
    def datamodule(self) -> TaskDataModule:
        """The data module of the trainer."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(datamodule, TaskDataModule)
        return datamodule

    @property
    def _tagger(self) -> Tagger:
        assert isinstance(self.classifier, Tagger)
        return self.classifier

    def setup(self, stage: str) -> None:
        """Build the classifier once the data module knows the task."""
        if hasattr(self, "classifier"):
            return
        self.spec = self.datamodule.spec
        if self.trained is not None:
            self.classifier = self._trained_classifier(self.trained)
        else:
            self._start()
        encoder = self.classifier.encoder
        self.datamodule.equal_lengths = encoder.config.sees_padding
        self.datamodule.join_texts &= encoder.keeps_texts_apart

    def _start(self) -> None:
        """Build what is trained: from the encoder, on the scale of the training rows."""
        self.scale = score_scale(self.spec, self.datamodule.loaded.splits["train"])
        self._check_options()
        if self.class_weights == "balanced":
            counts = self.datamodule.inspection["splits"]["train"]["labels"]
            self.class_weights_C = torch.tensor(balanced_weights(counts))
        pretrained = load_pretrained(
            self.encoder_path, tokenizer=self.tokenizer, max_len=self.datamodule.max_len
        )
        self.source, sizes = pretrained.source, pretrained.config
        self.random_init = self.random_init or pretrained.model is None
        check_tokenizer(self.source.tokenizer_json, vocab_size=sizes.vocab_size)
        if self.spec.has_pair and sizes.type_vocab_size < 2 and sizes.projection is None:
            raise ValueError(f"{self.encoder_path} has one token type; pairs of texts need two")
        if self.spec.is_tagging:
            rows = self.datamodule.loaded.splits["train"].rows
            num_rows = len(self.datamodule.windows.get("train", rows))
            self._words_per_row = sum(len(r.tagged.words) for r in rows if r.tagged) / num_rows
        torch.manual_seed(self.datamodule.seed)  # the new layers, whatever was drawn before
        self.classifier = self._new_classifier(pretrained)
        self.classifier.encoder.gradient_checkpointing = self.gradient_checkpointing
        where, is_random = self.encoder_path, self.random_init
        said = freeze_part(self.classifier, self.frozen, where=where, is_random=is_random)
        if said and self.trainer.is_global_zero:
            say("\n".join(said))

    def _check_options(self) -> None:
        """Refuse what the task has no use for."""
        spec, what = self.spec, f"but {self.spec.title} has"
        if self.decoder != "independent" and not spec.is_tagging:
            why = f"decoder is {self.decoder}, {what} no tags of words here"
        elif self.decoder == "bio" and spec.labels_sentences:
            why = f"decoder is bio, {what} labels of sentences; crf is for them"
        elif self.how_thresholds != "one" and not spec.is_multilabel:
            why = f"thresholds is {self.how_thresholds}, {what} not several labels a text here"
        elif self.class_weights != "none" and (spec.is_multilabel or spec.labels_sentences):
            why = f"class_weights is {self.class_weights}, {what} several labels a text; "
            why += "thresholds, chosen on validation, are for rare ones"
        else:
            return
        raise ValueError(f"model.{why}; leave it out")

    def _trained_classifier(self, folder: Path) -> SequenceClassifier | Tagger:
        loaded = load_classifier(folder, max_len=self.datamodule.max_len, positions=self.positions)
        info, spec = loaded.info, self.spec
        if (info.is_multilabel, info.unit) != (spec.is_multilabel, spec.unit):
            raise ValueError(
                f"{folder} was trained with another data.kind, and the data are read for "
                f"{spec.kind}; give --data.kind as in training"
            )
        if (info.labels, info.tags) != (spec.labels, spec.tags):
            raise ValueError(
                f"{folder} was trained on {info.title} with the labels "
                f"{', '.join(info.labels) or 'none'}; the data have "
                f"{', '.join(spec.labels) or 'scores'}"
            )
        self.scale, self.thresholds = info.scale, info.thresholds
        return loaded.model

    def _new_classifier(self, pretrained: PretrainedEncoder) -> SequenceClassifier | Tagger:
        prob, config, spec = self.dropout_prob, pretrained.config, self.spec
        config = dataclasses.replace(config, dropout_prob=prob)
        if isinstance(config, BertConfig):
            config = dataclasses.replace(config, attention_dropout_prob=prob)
        config = self.pairs.added_to(config, spec)
        max_positions = max(self.datamodule.max_len, config.max_positions)
        if self.random_init:  # positions of their own: a repeated random table would say less
            config = dataclasses.replace(config, max_positions=max_positions)
        classifier: SequenceClassifier | Tagger
        if spec.is_tagging:
            kind = SentenceTagger if spec.labels_sentences else Tagger
            classifier = kind.for_tags(
                config,
                spec.tags,
                num_labels=len(spec.labels),
                decoder=self.decoder,
                dropout_prob=prob,
            )
        else:
            classifier = SequenceClassifier(config, num_labels=spec.num_outputs, dropout_prob=prob)
            if classifier.pairs and self.pairs.start == "counts" and not spec.is_regression:
                texts = self.datamodule.training_texts()
                start_from_counts(classifier.pairs, texts, num_labels=spec.num_outputs)
            elif classifier.pairs:
                classifier.pairs.start_from_zero()
        if pretrained.model is not None and not self.random_init:
            self._take_over(classifier, pretrained)
            self.trained_positions = trained = pretrained.trained_positions
            if self.trainer.is_global_zero:
                where, max_len = self.encoder_path, self.datamodule.max_len
                say_if_untrained(where, pretrained.config, max_len=max_len, trained=trained)
            if max_positions > config.max_positions and config.use_positions:
                classifier.encoder.extend_positions(max_positions, method=self.positions)
        return classifier

    def _take_over(
        self, classifier: SequenceClassifier | Tagger, pretrained: PretrainedEncoder
    ) -> None:
        """Copy what a pretrained model has and the new one needs."""
        model, spec = pretrained.model, self.spec
        assert model is not None
        parts = ["encoder", "pooler"]
        if pretrained.labels == spec.labels and not isinstance(model, PretrainingModel):
            parts += ["classifier", *["pairs"] * (not self.pairs.rows)]
        if pretrained.tags == spec.tags and type(model) is type(classifier):
            parts += ["tagger", "crf"]
        for name in parts:
            new, old = getattr(classifier, name, None), getattr(model, name, None)
            if new is not None and old is not None and type(new) is type(old):
                new.load_state_dict(old.state_dict())
        if "classifier" in parts and spec.is_regression:
            assert isinstance(classifier, SequenceClassifier)
            self.scale.take_over(classifier, pretrained.scale)

    def forward(self, batch: TaskBatch) -> Tensor | TaggerOutput:
        """Outputs (B, C) of one batch, or those for words and texts."""
        outputs: Tensor | TaggerOutput = self.classifier(batch.inputs)
        return outputs

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Weighted sum of the rows' losses.

        The weights are micro-batches of the step / rows of the step, and 0 for rows that only fill
        a batch: Lightning's division by the accumulation and the mean over ranks then give the mean
        over the step's rows. The loss of a row's words is their sum over the mean number of words
        of a training row, so that a step's gradient is, but for that number, the mean over words.
        Words and pairs beside an encoder have a loss of their own, which is added: they learn what
        a linear model learns, and the encoder what they leave, as in boosting.
        """
        classifier = self.classifier
        if isinstance(classifier, SequenceClassifier) and classifier.pairs is not None:
            outputs_BC, of_pairs_BC = classifier.parts(batch.inputs)
            assert of_pairs_BC is not None
            losses_B = self._training_losses(outputs_BC + of_pairs_BC.detach(), batch)
            losses_B = losses_B + self._training_losses(of_pairs_BC, batch)
        else:
            losses_B = self._training_losses(self(batch), batch)
        loss = (losses_B * batch.weights_B).sum()
        self._open_loss.append(loss.detach())
        return loss

    def _training_losses(self, outputs: Tensor | TaggerOutput, batch: TaskBatch) -> Tensor:
        words_B: Tensor | float = 0.0
        if isinstance(outputs, TaggerOutput):
            assert batch.tags_BL is not None
            words_B = self._tagger.loss(outputs, batch.tags_BL) / self._words_per_row
            if outputs.label_logits is None:
                return words_B
            outputs = outputs.label_logits
        weights_C = self.class_weights_C
        return words_B + row_losses(
            outputs,
            self.scale.inner(batch.targets_B) if self.spec.is_regression else batch.targets_B,
            is_regression=self.spec.is_regression,
            class_weights_C=None if weights_C is None else weights_C.to(self.device),
        )

    def validation_step(self, batch: TaskBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep what one batch gave."""
        outputs = self(batch)
        kept = self._evaluated.setdefault(dataloader_idx, [])
        if isinstance(outputs, TaggerOutput):
            kept.append(tagger_answers(self._tagger, outputs, batch))
            return
        outputs_BC = outputs.float()
        if self.spec.is_regression:
            outputs_BC = self.scale.outer(outputs_BC)
        kept.append(text_answers(outputs_BC, batch))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Score every validation split."""
        self._score(self.datamodule.loaded.validation_splits)

    def on_test_epoch_end(self) -> None:
        """Score every labelled test split."""
        self._score(self.datamodule.loaded.test_splits)

    def _score(self, splits: tuple[str, ...]) -> None:
        for loader, split in enumerate(splits):
            parts = self._evaluated.get(loader, [])
            answers = all_answers(parts, num_ranks=self.trainer.world_size)
            if self.spec.labels_sentences:
                answers = joined(answers, self.datamodule.windows[split])
            if not loader and split.startswith("validation") and self.trained is None:
                self._choose_thresholds(split, answers)
            self.evaluation[split] = {
                **self._metrics(split, answers),
                "loss": self._loss(answers),
                "num_rows": len(answers.targets),
            }
            found = {f"{log_prefix(split)}/{k}": v for k, v in self.evaluation[split].items()}
            del found[f"{log_prefix(split)}/num_rows"]
            self.log_dict(found, logger=False, sync_dist=True)  # equal on all ranks already
            for logger in self.trainer.loggers:  # with the number of optimiser steps, as train/loss
                logger.log_metrics(found, step=self.trainer.global_step)
        self._evaluated = {}

    def _choose_thresholds(self, split: str, answers: Answers) -> None:
        """Choose the thresholds that score best on a split, where there are any to choose."""
        if self.spec.is_multilabel:
            self.thresholds = choose_thresholds(
                answers.outputs, answers.targets[:, :-1] > 0, how=self.how_thresholds
            )
        elif answers.margins:
            rows = self.datamodule.loaded.splits[split].rows
            self.thresholds = sentence_threshold(self.spec, rows, answers.margins)

    def _metrics(self, split: str, answers: Answers) -> dict[str, float]:
        splits = self.datamodule.loaded.splits
        if self.spec.labels_sentences:
            tags = thresholded(answers.tags, answers.margins, self.thresholds)
            return sentence_scores(self.spec, splits[split].rows, tags)
        if not self.spec.is_tagging:
            return scores(self.spec, answers.outputs, answers.targets, thresholds=self.thresholds)
        train = splits["train"].rows if "train" in splits else ()
        return tagging_scores(
            self.spec, splits[split].rows, answers.outputs, answers.tags, train=train
        )

    def _loss(self, answers: Answers) -> float:
        """Return the mean loss of the rows, and of the words of all rows together."""
        loss = 0.0
        if self.spec.is_tagging:
            total, count = answers.tag_losses.double().sum(0).tolist()
            loss = total / max(count, 1.0)
        if answers.outputs.shape[1]:
            losses_N = row_losses(
                answers.outputs, answers.targets, is_regression=self.spec.is_regression
            )
            losses_N = losses_N / self.scale.std**2  # in the unit of the training loss
            loss += float(losses_N.double().mean())
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, and its learning rate as a function of the optimiser step."""
        # Lightning clips no gradients of a fused kernel under any mixed precision.
        fusable = not isinstance(self.trainer.precision_plugin, MixedPrecision)
        if self.trainer.estimated_stepping_batches == math.inf:
            raise ValueError("the run has no end; give --trainer.max_epochs, 1 or more")
        steps = int(self.trainer.estimated_stepping_batches)
        config = self.optimizer_config
        return scheduled_optimizer(self.classifier, config, total_steps=steps, fusable=fusable)
