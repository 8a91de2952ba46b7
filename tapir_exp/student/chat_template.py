"""How a conversation is written for the student: text to token ids and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tapir_exp.config import ChatTemplate, StudentConfig
from tapir_exp.core.errors import ConfigError
from tapir_exp.student.loading import load_tokenizer

TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = "\ue000"
"""A character of the private use area, which stands for the content in a rendered template."""


@dataclass(frozen=True)
class Chat:
    """A tokenizer together with the conversation format of one student.

    end: id of the token that ends the student's turn; generation stops at it, training supervises it.
    control_tokens: texts of the tokenizer's control tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None
    end: int
    control_tokens: tuple[str, ...]

    @property
    def pad(self) -> int:
        """Id that fills up short rows; labels and masks never look at it, so it may equal `end`."""
        pad = self.tokenizer.pad_token_id
        return self.end if pad is None else int(pad)

    def encode_prompts(self, instructions: Sequence[str]) -> list[list[int]]:
        """Token ids up to and with the start of the assistant's turn; no BOS beyond the template's own.

        The text of a control token inside an instruction stays text: nobody can end a turn from within.
        """
        return self.encode_dialogues([(instruction,) for instruction in instructions])

    def encode_dialogues(self, dialogues: Sequence[Sequence[str]]) -> list[list[int]]:
        """As `encode_prompts`, for conversations: turns of user and assistant in order, the user's first and last."""
        if not dialogues:
            return []
        encoded = self._encode([render_prompt(self.tokenizer, turns, self.system_prompt) for turns in dialogues])
        for index, turns in enumerate(dialogues):
            if any(control in turn for control in self.control_tokens for turn in turns):
                encoded[index] = self._encode_guarded(turns)
        return encoded

    def encode_responses(self, responses: Sequence[str]) -> list[list[int]]:
        """Token ids of the responses, each closed by `end`; control tokens inside a response stay text."""
        return [[*ids, self.end] for ids in self._encode(list(responses), as_text=True)]

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of an answer, without control tokens and surrounding white space."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _encode_guarded(self, turns: Sequence[str]) -> list[int]:
        frame = self._encode(
            render_prompt(self.tokenizer, [PLACEHOLDER] * len(turns), self.system_prompt).split(PLACEHOLDER)
        )
        contents = self._encode([turn.strip() for turn in turns], as_text=True)
        return frame[0] + [
            token for content, after in zip(contents, frame[1:], strict=True) for token in content + after
        ]

    def _encode(self, texts: list[str], *, as_text: bool = False) -> list[list[int]]:
        if not texts:
            return []
        encoded = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=as_text)
        return [list(ids) for ids in encoded["input_ids"]]


def load_chat(source: Path, student: StudentConfig) -> Chat:
    """The tokenizer in `source`, a directory or hub id, with the configured template.

    Raises ConfigError where the tokenizer has no template of its own and none is configured, where the template
    refuses the system prompt, where no token ends a turn, and where it needs code of its own that is not allowed.
    """
    tokenizer = load_tokenizer(source, student)
    if student.chat_template is not ChatTemplate.tokenizer:
        tokenizer.chat_template = read_template(student.chat_template)
    if not tokenizer.chat_template:
        raise ConfigError([f"student.chat_template: tokenizer, but {source} has none; set llama2 or chatml"])
    return Chat(
        tokenizer,
        student.system_prompt,
        _find_end_of_turn(tokenizer, student),
        tuple(_control_tokens(tokenizer).values()),
    )


def read_template(template: ChatTemplate) -> str:
    """The Jinja text of llama2 (the format of Meta's llama repository) or chatml (Qwen1.5's)."""
    return (TEMPLATES / f"{template.value}.jinja").read_text()


def render_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[str], system_prompt: str | None) -> str:
    """A conversation as the template writes it, up to and with the start of the assistant's turn."""
    messages = _to_messages(turns, system_prompt)
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _to_messages(turns: Sequence[str], system_prompt: str | None) -> list[dict[str, str]]:
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    roles = cycle(("user", "assistant"))
    return [*system, *({"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False))]


def _find_end_of_turn(tokenizer: PreTrainedTokenizerBase, student: StudentConfig) -> int:
    """The first control token that the template writes after an assistant's words; without one, the EOS token."""
    turn = _to_messages(["?", PLACEHOLDER], student.system_prompt)
    try:
        text = str(tokenizer.apply_chat_template(turn, tokenize=False))
    except TemplateError as error:
        raise ConfigError([f"student.chat_template: the template refuses the conversation: {error}"]) from error
    tail = tokenizer(text.rpartition(PLACEHOLDER)[2], add_special_tokens=False)["input_ids"]
    controls = _control_tokens(tokenizer)
    end = next((token for token in tail if token in controls), tokenizer.eos_token_id)
    if end is None:
        raise ConfigError(
            ["student.chat_template: neither the template nor the tokenizer has a token that ends a turn"]
        )
    return int(end)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {int(i): token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
