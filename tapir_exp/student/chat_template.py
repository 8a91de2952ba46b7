"""Chat templates of students: conversations to token ids and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tapir_exp.config import ChatTemplate, StudentConfig
from tapir_exp.core.console import print_warning
from tapir_exp.core.errors import ConfigError
from tapir_exp.student.constants import TEMPLATE_DATE
from tapir_exp.student.loading import load_tokenizer
from tapir_exp.student.template_date import pin_date
from tapir_exp.student.template_rendering import render_messages

TEMPLATES = Path(__file__).parent / "templates"
PLACEHOLDER = "\ue000"
"""A character of Unicode's private use area that marks the position of a content in a rendered template."""


@dataclass(frozen=True)
class Chat:
    """A tokenizer with the conversation format of one student.

    Attributes:
        tokenizer: The tokenizer, which holds the chat template.
        system_prompt: Text of the system turn; None renders the template without one.
        end: Id of the token that ends the student's turn. Training supervises it, and generation stops at it.
        control_tokens: Texts of the tokenizer's control tokens.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None
    end: int
    control_tokens: tuple[str, ...]

    @property
    def pad(self) -> int:
        """Return the id of the padding token; it may equal `end`, since labels and masks ignore padding."""
        pad = self.tokenizer.pad_token_id
        return self.end if pad is None else int(pad)

    def encode_prompts(self, instructions: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each prompt, including the header of the assistant's turn.

        The template alone adds a BOS. The text of a control token inside an instruction is encoded as plain text, so an
        instruction cannot end its own turn.
        """
        return self.encode_dialogues([(instruction,) for instruction in instructions])

    def encode_dialogues(self, dialogues: Sequence[Sequence[str]]) -> list[list[int]]:
        """Return the token ids of conversations, as `encode_prompts` does for single instructions.

        Args:
            dialogues: Turns of user and assistant in order; the first and the last are the user's.
        """
        if not dialogues:
            return []
        encoded = self._encode([render_prompt(self.tokenizer, turns, self.system_prompt) for turns in dialogues])
        # Encoding all of them at once is fast, so only those with the text of a control token are encoded again.
        for index, turns in enumerate(dialogues):
            if any(control in turn for control in self.control_tokens for turn in turns):
                encoded[index] = self._encode_guarded(turns)
        return encoded

    def encode_responses(self, responses: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each response, followed by `end`; control tokens inside a response stay text."""
        return [[*ids, self.end] for ids in self._encode(list(responses), as_text=True)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of a response without control tokens and surrounding white space."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()

    def _encode_guarded(self, turns: Sequence[str]) -> list[int]:
        # The template is rendered around placeholders, so that its control tokens are encoded as such, and the contents
        # as plain text.
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
    """Load a tokenizer and give it the configured template.

    Args:
        source: Directory or hub id of the model.
        student: Settings of the student.

    Raises:
        ConfigError: If there is neither a configured template nor one in the tokenizer, or if the template rejects the
            system prompt. Also if no token ends a turn, or if the tokenizer needs remote code that is not allowed.
    """
    return chat_of(load_tokenizer(source, student), source, student)


def chat_of(tokenizer: PreTrainedTokenizerBase, source: Path, student: StudentConfig) -> Chat:
    """Give a tokenizer the configured template; see `load_chat`.

    Args:
        tokenizer: The tokenizer; its template is replaced.
        source: Directory or hub id that it comes from, for messages.
        student: Settings of the student.
    """
    if student.chat_template is not ChatTemplate.tokenizer:
        tokenizer.chat_template = read_template(student.chat_template)
    if not tokenizer.chat_template:
        raise ConfigError(
            [f"student.chat_template: tokenizer, but the tokenizer of {source} has no template; set llama2 or chatml"]
        )
    template = tokenizer.get_chat_template()
    pinned = pin_date(template)
    if pinned != template:
        _warn_of_date(str(source))
        tokenizer.chat_template = pinned
    return Chat(
        tokenizer,
        student.system_prompt,
        _find_end_of_turn(tokenizer, student),
        tuple(_control_tokens(tokenizer).values()),
    )


def read_template(template: ChatTemplate) -> str:
    """Return the Jinja text of llama2 (the format of Meta's llama repository) or chatml (the format of Qwen1.5)."""
    return (TEMPLATES / f"{template.value}.jinja").read_text()


def render_prompt(tokenizer: PreTrainedTokenizerBase, turns: Sequence[str], system_prompt: str | None) -> str:
    """Render a conversation with the tokenizer's template, including the header of the assistant's turn."""
    messages = _to_messages(turns, system_prompt)
    return render_messages(tokenizer, messages, add_generation_prompt=True)


@cache
def _warn_of_date(source: str) -> None:
    """Warn once in a process that the template of a model writes dates."""
    print_warning(
        f"warning: the chat template of {source} writes today's date (strftime_now). The date is fixed to "
        f"{TEMPLATE_DATE} in training, in generation and in the template of the student, so that the same command "
        "gives the same student on every day."
    )


def _to_messages(turns: Sequence[str], system_prompt: str | None) -> list[dict[str, str]]:
    system = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    roles = cycle(("user", "assistant"))
    return [*system, *({"role": role, "content": turn} for role, turn in zip(roles, turns, strict=False))]


def _find_end_of_turn(tokenizer: PreTrainedTokenizerBase, student: StudentConfig) -> int:
    """Return the first control token that the template writes after an assistant's message, or else the EOS token."""
    turns = _to_messages(["?", PLACEHOLDER], student.system_prompt)
    text = render_messages(tokenizer, turns, add_generation_prompt=False)
    # The rendering of a prompt is another branch of most templates.
    render_prompt(tokenizer, ["?"], student.system_prompt)
    # The text after the message ends the turn; besides the control token it may hold white space.
    tail = tokenizer(text.rpartition(PLACEHOLDER)[2], add_special_tokens=False)["input_ids"]
    control_tokens = _control_tokens(tokenizer)
    end = next((token for token in tail if token in control_tokens), tokenizer.eos_token_id)
    if end is None:
        raise ConfigError(
            ["student.chat_template: neither the template nor the tokenizer has a token that ends a turn"]
        )
    return int(end)


def _control_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    return {int(i): token.content for i, token in tokenizer.added_tokens_decoder.items() if token.special}
