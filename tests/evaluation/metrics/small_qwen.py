"""A Qwen2.5-VL of random weights, as transformers keeps one, and a second way to ask it: one
picture at a time, ids and three-dimensional positions written by hand, nothing padded, every token
from the whole text anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Tokenizer,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in "
    "message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ "
    "part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
START, END = "<|im_start|>user\n<|vision_start|>", "<|im_end|>\n<|im_start|>assistant\n"
MARKS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
PATCH, MERGED, WIDTH = 4, 2, 32
"""Pixels of a patch, patches to a side of a token, width of the network."""


def learn_pieces(*lines: str) -> tuple[dict[str, int], Any]:
    """Vocabulary and merges of a byte-level BPE that knows the words of these lines."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=letters, show_progress=False)
    learner.train_from_iterator(lines, trainer)
    learned = json.loads(learner.to_str())["model"]
    return learned["vocab"], [(left, right) for left, right in learned["merges"]]


def make_qwen(path: Path) -> Path:
    """The folder, with sampling settings that no metric may follow."""
    vocabulary, merges = learn_pieces(
        *["Yes does this image show a red dog please answer yes or no"] * 3
    )
    tokenizer: Any = Qwen2Tokenizer(vocab=vocabulary, merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    sizes: Any = {"patch_size": PATCH, "merge_size": MERGED, "temporal_patch_size": 2}
    limits = {"shortest_edge": 64, "longest_edge": 4096}
    Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(size=limits, **sizes),
        tokenizer,
        Qwen2VLVideoProcessor(size=limits, **sizes),
        chat_template=TEMPLATE,
    ).save_pretrained(path)
    number = tokenizer.convert_tokens_to_ids
    torch.manual_seed(0)
    network = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": WIDTH,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "rope_parameters": {
                    "rope_type": "default",
                    "rope_theta": 1e4,
                    "mrope_section": [2, 3, 3],
                },
                "bos_token_id": None,
                "eos_token_id": number("<|im_end|>"),
            },
            vision_config={
                "depth": 2,
                "hidden_size": WIDTH,
                "intermediate_size": 64,
                "num_heads": 2,
                "patch_size": PATCH,
                "window_size": 16,
                "fullatt_block_indexes": [1],
                "out_hidden_size": WIDTH,
            },
            image_token_id=number("<|image_pad|>"),
            video_token_id=number("<|video_pad|>"),
            vision_start_token_id=number("<|vision_start|>"),
            vision_end_token_id=number("<|vision_end|>"),
        )
    )
    for name, tensor in network.named_parameters():
        torch.nn.init.normal_(tensor, 1.0 if "norm" in name else 0.0, 0.2)
    network.generation_config = GenerationConfig(
        do_sample=True, temperature=2.0, repetition_penalty=2.0, eos_token_id=[number("<|im_end|>")]
    )
    network.save_pretrained(path)
    return path


class Alone:
    """The second way."""

    def __init__(self, folder: Path) -> None:
        self.network: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder).eval()
        self.tokenizer: Any = Qwen2Tokenizer.from_pretrained(folder)
        self.prepare: Any = Qwen2VLImageProcessor.from_pretrained(folder)

    def logits(
        self, image: Image.Image, before: str, after: str, further: list[int]
    ) -> torch.Tensor:
        """Of what follows `before`, the picture, `after` and further tokens."""
        columns, rows = (round(side / PATCH / MERGED) for side in image.size)
        first, last = (self.tokenizer(text)["input_ids"] for text in (before, after))
        last = [*last, *further]
        pads = [self.network.config.image_token_id] * (rows * columns)
        ids = [*first, *pads, *last]
        start, rest = len(first), len(first) + max(rows, columns)
        places = [(i, i, i) for i in range(start)]
        places += [
            (start, start + row, start + column) for row in range(rows) for column in range(columns)
        ]
        places += [(rest + i,) * 3 for i in range(len(last))]
        seen = self.prepare(images=image, return_tensors="pt")
        with torch.no_grad():
            found: torch.Tensor = self.network(
                input_ids=torch.tensor([ids]),
                position_ids=torch.tensor(places).T[:, None],
                pixel_values=seen["pixel_values"],
                image_grid_thw=seen["image_grid_thw"],
            ).logits[0, -1]
        return found

    def asked(
        self, image: Image.Image, question: str, further: list[int] | None = None
    ) -> torch.Tensor:
        """As the chat template asks it."""
        return self.logits(image, START, f"<|vision_end|>{question}{END}", further or [])

    def tokens(self, image: Image.Image, question: str, most: int, ends: set[int]) -> list[int]:
        """The answer, up to its end."""
        found: list[int] = []
        while len(found) < most and not ends & set(found):
            found.append(int(self.asked(image, question, found).argmax()))
        return found
