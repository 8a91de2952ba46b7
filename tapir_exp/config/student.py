"""Settings of the student model and of its generation."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class ChatTemplate(Enum):
    """How a conversation is written for the student."""

    tokenizer = "tokenizer"
    llama2 = "llama2"
    chatml = "chatml"


class Precision(Enum):
    """Element type of a model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class EngineKind(Enum):
    """What writes the student's answers; `student/engine.py` tells them apart."""

    transformers = "transformers"
    ctranslate2 = "ctranslate2"
    vllm = "vllm"


@dataclass
class ArchitectureConfig:
    """The shape of a Llama or Qwen2, in the names of its config.json; 0 for what is not known."""

    hidden_size: int = 0
    num_hidden_layers: int = 0
    num_attention_heads: int = 0
    num_key_value_heads: int = 0
    intermediate_size: int = 0
    vocab_size: int = 0
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    """Whether queries, keys and values have biases: Qwen's have, LLaMA's have not."""


@dataclass
class VllmConfig:
    """The server of vLLM that answers where student.engine is vllm, started for each stage that asks the student."""

    executable: list[str] = field(default_factory=lambda: ["vllm"])
    """The words that start it. vLLM needs an environment of its own: name its program, such as [/opt/vllm/bin/vllm]."""
    extra_args: list[str] = field(default_factory=list)
    """Further options, such as --tensor-parallel-size=2; the model, its length, its precision and the port are told."""
    concurrency: int = 256
    """Prompts in flight at once."""
    startup_timeout_s: float = 900.0
    """Seconds within which it must serve."""
    timeout_s: float = 600.0
    """Seconds that an answer may take."""


@dataclass
class StudentConfig:
    """The student S."""

    model: str = MISSING
    """Hugging Face id or directory; `lab` builds the embedded base student; a GGUF file, named as in
    `ServerConfig.weights`, is turned into a directory once."""
    revision: str | None = None
    """Commit or tag of a hub model; null takes the newest."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    """By which `tapir-plan` tells hours and memory of a fit; the fit itself goes by the model's own files."""
    num_parameters: float | None = None
    """How many it has, by which `tapir-plan` tells the hours of a fit; null counts them from `shape`."""
    chat_template: ChatTemplate = ChatTemplate.tokenizer
    """`own` is the tokenizer's."""
    system_prompt: str | None = None
    """System message of every conversation; null for none."""
    precision: Precision = Precision.float32
    max_length: int = 2048
    """Longest row in tokens, prompt and response; 2048 is the neighbouring recipes' value (D)."""
    max_new_tokens: int = 512
    """Longest answer in tokens."""
    engine: EngineKind = EngineKind.transformers
    """What writes greedy answers: `transformers` everywhere; `ctranslate2` on a CPU in float32, faster (extra `fast`);
    `vllm` on a GPU, out of an environment of its own. Sampled answers are written by transformers."""
    generation_batch_size: int = 32
    """Prompts answered at once by the first two."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    allow_pickle: bool = False
    """Whether weights without safetensors are read from pickles: their tensors, and nothing else of them."""
    trust_remote_code: bool = False
    """Whether code that lies beside the model's files is run: it may do whatever you may."""
