"""Text embeddings: the normalised mean of an encoder's last hidden states over the tokens."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging

from tapir_exp.config import Precision
from tapir_exp.core.stored_rows import KeptVectors
from tapir_exp.distillation.classifier.trainable import Matrix, encode_in_batches


class Embedder:
    """An encoder on the CPU or the first GPU."""

    def __init__(self, directory: Path, max_length: int, batch_size: int, precision: Precision) -> None:
        """Load an encoder.

        Args:
            directory: Hugging Face directory with safetensors.
            max_length: Tokens after which a text is cut.
            batch_size: Texts per batch.
            precision: Element type of the weights; the mean is taken in float32.
        """
        self._max_length, self._batch_size = max_length, batch_size
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self._tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
        model = AutoModel.from_pretrained(
            str(directory), dtype=getattr(torch, precision.value), use_safetensors=True, trust_remote_code=False
        )
        self._model = model.to(self._device).eval()

    def embed(self, texts: Sequence[str], progress: str, kept: KeptVectors | None = None) -> Matrix:
        """Return one vector of length 1 per text, in order: (texts, width); `kept` as in `encode_in_batches`."""
        width = self._model.config.hidden_size
        return encode_in_batches(texts, width, self._batch_size, self._embed, progress, kept)

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> Matrix:
        encoded = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        ).to(self._device)
        states = self._model(**encoded).last_hidden_state.float()
        mask = encoded["attention_mask"].unsqueeze(-1)  # (texts, tokens, 1): padding must not enter the mean
        vectors: Matrix = normalize((states * mask).sum(1) / mask.sum(1)).cpu().numpy()
        return vectors
