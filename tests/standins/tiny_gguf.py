# Copyright: the selfhosted.llm_stack contributors
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a tiny but complete GGUF model: llama architecture, random weights, a byte tokenizer.

A real engine loads it in a second and generates real, meaningless tokens, so tests need no download. The same seed gives the same bytes.
Standard library only. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, version 3.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ALIGNMENT = 32
EMBEDDING, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 2048
WORDS = ("the", "quick", "brown", "fox", "storage", "pool", "gpu", "answers", "hello", "world", "is", "of", "and", "to", "a", "in")
CHUNK = 1 << 20

# Type numbers of the format: uint32, float32, string, array of metadata values; F32 tensors; token types.
_U32, _I32, _F32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_TENSOR_F32 = 0
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    if kind == _STRING:
        return _string(value)
    return struct.pack({_U32: "<I", _I32: "<i", _F32: "<f"}[kind], value)


def _pair(key: str, kind: int, value: Any) -> bytes:
    return _string(key) + struct.pack("<I", kind) + _value(kind, value)


def _list(key: str, kind: int, values: Sequence[Any]) -> bytes:
    body = b"".join(_value(kind, value) for value in values)
    return _string(key) + struct.pack("<IIQ", _ARRAY, kind, len(values)) + body


def _tokens() -> list[tuple[str, float, int]]:
    """Text, score and type of every token: three special ones, one for each byte, a few words."""
    special = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    octets = [(f"<0x{octet:02X}>", 0.0, _BYTE) for octet in range(256)]
    words = [("\u2581" + word, -float(rank), _NORMAL) for rank, word in enumerate(WORDS)]
    return special + octets + words


def _metadata(name: str) -> list[bytes]:
    tokens = _tokens()
    numbers = {
        "context_length": CONTEXT,
        "embedding_length": EMBEDDING,
        "block_count": LAYERS,
        "feed_forward_length": FEED_FORWARD,
        "attention.head_count": HEADS,
        "attention.head_count_kv": HEADS,
        "rope.dimension_count": EMBEDDING // HEADS,
        "vocab_size": len(tokens),
    }
    return [
        _pair("general.architecture", _STRING, "llama"),
        _pair("general.name", _STRING, name),
        _pair("general.file_type", _U32, 0),
        _pair("general.alignment", _U32, ALIGNMENT),
        *(_pair(f"llama.{key}", _U32, value) for key, value in numbers.items()),
        _pair("llama.attention.layer_norm_rms_epsilon", _F32, 1e-5),
        _pair("tokenizer.ggml.model", _STRING, "llama"),
        _list("tokenizer.ggml.tokens", _STRING, [text for text, _, _ in tokens]),
        _list("tokenizer.ggml.scores", _F32, [score for _, score, _ in tokens]),
        _list("tokenizer.ggml.token_type", _I32, [kind for _, _, kind in tokens]),
        _pair("tokenizer.ggml.bos_token_id", _U32, 1),
        _pair("tokenizer.ggml.eos_token_id", _U32, 2),
        _pair("tokenizer.ggml.unknown_token_id", _U32, 0),
    ]


def _shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor, the fastest-varying dimension first as the format wants."""
    vocabulary = len(_tokens())
    yield "token_embd.weight", (EMBEDDING, vocabulary)
    yield "output_norm.weight", (EMBEDDING,)
    yield "output.weight", (EMBEDDING, vocabulary)
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            yield f"{block}{norm}.weight", (EMBEDDING,)
        for square in ("attn_q", "attn_k", "attn_v", "attn_output"):
            yield f"{block}{square}.weight", (EMBEDDING, EMBEDDING)
        for wide in ("ffn_gate", "ffn_up"):
            yield f"{block}{wide}.weight", (EMBEDDING, FEED_FORWARD)
        yield f"{block}ffn_down.weight", (FEED_FORWARD, EMBEDDING)


def _weights(tensor: str, shape: tuple[int, ...], source: random.Random) -> bytes:
    if len(shape) == 1:
        values = array("f", [1.0] * shape[0])
    else:
        values = array("f", [source.uniform(-0.09, 0.09) for _ in range(shape[0] * shape[1])])
    if tensor == "output.weight":
        # The words come last; loud as they are, the model answers in words and not in stray bytes.
        for place in range(len(values) - shape[0] * len(WORDS), len(values)):
            values[place] *= 20.0
    if struct.pack("=H", 1) != struct.pack("<H", 1):
        values.byteswap()
    return values.tobytes()


def _padded(blob: bytes) -> bytes:
    return blob + b"\0" * (-len(blob) % ALIGNMENT)


def model(name: str = "tiny-random", seed: int = 0) -> bytes:
    """The whole file."""
    source = random.Random(seed)
    infos, data = [], b""
    shapes = list(_shapes())
    for tensor, shape in shapes:
        dimensions = struct.pack(f"<{len(shape)}Q", *shape)
        infos.append(_string(tensor) + struct.pack("<I", len(shape)) + dimensions + struct.pack("<IQ", _TENSOR_F32, len(data)))
        data += _padded(_weights(tensor, shape, source))
    pairs = _metadata(name)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(pairs))
    return _padded(head + b"".join(pairs) + b"".join(infos)) + data


def write(path: Path, *, name: str = "tiny-random", seed: int = 0, size: int = 0) -> str:
    """Write the model and return its SHA-256.

    :param size: the file is padded to this many bytes; engines do not read past the last tensor, copies do.
    """
    body = model(name, seed)
    source = random.Random(seed + 1)
    digest = hashlib.sha256(body)
    with path.open("wb") as out:
        out.write(body)
        left = size - len(body)
        while left > 0:
            piece = source.getrandbits(8 * min(CHUNK, left)).to_bytes(min(CHUNK, left), "little")
            out.write(piece)
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tiny GGUF model for tests; prints its name, size and SHA-256 as JSON.")
    parser.add_argument("path", type=Path, help="the file to write")
    parser.add_argument("--name", default="tiny-random", help="general.name of the model (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other weights (default: %(default)s)")
    parser.add_argument("--size", type=int, default=0, help="pad the file to this many bytes (default: no padding, about 500 KB)")
    options = parser.parse_args()
    digest = write(options.path, name=options.name, seed=options.seed, size=options.size)
    print(json.dumps({"name": options.name, "file": options.path.name, "size": options.path.stat().st_size, "sha256": digest}))


if __name__ == "__main__":
    main()
