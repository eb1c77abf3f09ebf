"""Vision-language models of transformers, asked one question about each picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from asyndm.errors import UserError, join_lines
from asyndm.protocols import Network
from evaluation.metrics import Loaded, ModelMetric
from evaluation.networks.pretrained import Part, load_network, load_part
from evaluation.runs.prompts import Prompt

if TYPE_CHECKING:
    import torch

GAP = "{}"
"""Where the prompt's text goes in a question."""


@dataclass(frozen=True)
class VisionLanguage:
    """A network and its processor.

    Prompts are padded on the left, so that all of a batch end where the answer begins; the padding
    is masked, and an answer does not depend on the other pictures of the batch.
    """

    network: Network
    processor: Part

    def next_token(self, images: Sequence[Image], questions: Sequence[str]) -> torch.Tensor:
        """(N, vocabulary): the probabilities of the answer's first token, by a softmax in float32.

        Logits are computed for the last position only, where the network can (`logits_to_keep`).
        """
        first = self._generate(
            images, questions, 1, output_logits=True, return_dict_in_generate=True
        )
        probabilities: torch.Tensor = first.logits[0].float().softmax(-1)
        return probabilities

    def answers(
        self, images: Sequence[Image], questions: Sequence[str], max_new_tokens: int
    ) -> list[str | None]:
        """The likeliest token after the likeliest token: what sampling and penalties the model's
        own settings ask for is left out. None where the network gives no numbers.
        """
        broken: set[int] = set()

        def watch(_: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
            broken.update(logits.isnan().any(-1).nonzero().flatten().tolist())
            return logits

        made = self._generate(images, questions, max_new_tokens, logits_processor=[watch])
        texts = self.processor.batch_decode(made, skip_special_tokens=True)
        return [None if row in broken else " ".join(text.split()) for row, text in enumerate(texts)]

    def first_token(self, word: str) -> int:
        """The number of the first token of a word."""
        return int(self.processor.tokenizer(word, add_special_tokens=False)["input_ids"][0])

    def _generate(
        self,
        images: Sequence[Image],
        questions: Sequence[str],
        max_new_tokens: int,
        **settings: Any,
    ) -> Any:
        """What `generate` gives: the new tokens, or its report where the settings ask for one."""
        import torch

        texts = [render_question(self.processor, question) for question in questions]
        # a chat template may write the beginning mark itself; twice, it would be another question
        begins = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=texts,
            images=[[image.convert("RGB")] for image in images],
            padding=True,
            add_special_tokens=not (begins and texts[0].startswith(begins)),
            return_tensors="pt",
        ).to(self.network.device, self.network.dtype)
        with torch.no_grad():
            made = self.network.generate(**inputs, max_new_tokens=max_new_tokens, **settings)
        return made[:, inputs["input_ids"].shape[1] :] if torch.is_tensor(made) else made


class VisionLanguageMetric(ModelMetric[Loaded]):
    """A metric that asks a vision-language model of transformers (AutoModelForImageTextToText)."""

    gpu_dtype = "bfloat16"

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        super().check(prompts, size)
        load_processor(self.name, self.model, self.revision)

    def load_model(self) -> VisionLanguage:
        """The network on `where`, in `precision`, and its processor.

        Raises:
            UserError: it cannot be loaded, or misses weights.
        """
        from transformers import AutoModelForImageTextToText, GenerationConfig

        processor = load_processor(self.name, self.model, self.revision)
        network = load_network(
            AutoModelForImageTextToText,
            self.model,
            f"metric {self.name}: model={self.model}",
            revision=self.revision,
            dtype=self.precision,
        )
        # of the model's own settings only the marks stay: sampling would make answers random
        own, tokenizer = network.generation_config, processor.tokenizer
        ends = own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id
        network.generation_config = GenerationConfig(
            bos_token_id=own.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
        )
        return VisionLanguage(network.to(self.where), processor)

    def check_question(self, setting: str) -> None:
        """Refuses a question in which the prompt has no place.

        Raises:
            UserError: it has none.
        """
        if GAP not in (question := getattr(self, setting)):
            raise UserError(
                f"metric {self.name}: {setting}={question!r}: "
                f"has no {GAP}, where the prompt is to stand"
            )

    def check_length(self, max_new_tokens: int) -> None:
        """Refuses answers of no tokens.

        Raises:
            UserError: there are to be none.
        """
        if max_new_tokens < 1:
            raise UserError(
                f"metric {self.name}: max_new_tokens={max_new_tokens}: must be at least 1"
            )


def load_processor(metric: str, model: str, revision: str | None) -> Part:
    """The tokenizer, padding on the left, and the picture transform, of a model that can be asked
    about a picture.

    Raises:
        UserError: they cannot be loaded, or the model is none of that kind.
    """
    from transformers import AutoProcessor

    place = f"metric {metric}: model={model}"
    processor = load_part(AutoProcessor, model, place, revision=revision)
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise UserError(
            f"{place}: its processor does not take pictures together with text; choose a "
            "vision-language model"
        )
    tokenizer = processor.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    try:
        render_question(processor, "What is this?")
    except Exception as error:  # a template is a program, and says in its own ways what fails
        raise UserError(f"{place}: its chat template: {join_lines(error)}") from error
    return processor


def render_question(processor: Part, question: str) -> str:
    """A picture and a question about it as the model's chat template writes them, up to where the
    answer begins; for a model without one, the mark of a picture, a line break and the question.

    Raises:
        ValueError: the model has neither a chat template nor a mark of pictures.
    """
    template = processor.chat_template or processor.tokenizer.chat_template
    if template is None:
        if (mark := getattr(processor, "image_token", None)) is None:
            raise ValueError(
                "has none, and no image token either; choose an instruction-tuned model"
            )
        return f"{mark}\n{question}"
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    chosen = template["default"] if isinstance(template, dict) else template
    text: str = processor.apply_chat_template(
        [asked], chat_template=chosen, add_generation_prompt=True
    )
    return text
