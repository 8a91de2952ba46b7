"""Settings of the student model and of its generation."""

from dataclasses import dataclass, field
from enum import Enum

from omegaconf import MISSING


class ChatTemplate(Enum):
    """Chat template of the student: the tokenizer's own, LLaMA2's or ChatML."""

    tokenizer = "tokenizer"
    llama2 = "llama2"
    chatml = "chatml"


class Precision(Enum):
    """Element type of a model's weights."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class EngineKind(Enum):
    """Generation engine of the student, see `student/engines/`."""

    transformers = "transformers"
    ctranslate2 = "ctranslate2"
    vllm = "vllm"


@dataclass
class ArchitectureConfig:
    """Architecture of a Llama or Qwen2, in the names of its config.json; 0 if unknown."""

    hidden_size: int = 0
    """Width of the residual stream."""
    num_hidden_layers: int = 0
    """Number of transformer blocks."""
    num_attention_heads: int = 0
    """Number of attention heads."""
    num_key_value_heads: int = 0
    """Number of key and value heads."""
    intermediate_size: int = 0
    """Width of the feed-forward layers."""
    vocab_size: int = 0
    """Size of the vocabulary."""
    tie_word_embeddings: bool = False
    """Whether input and output embeddings share their weights."""
    qkv_bias: bool = False
    """Whether queries, keys and values have biases: true for Qwen, false for LLaMA."""


@dataclass
class VllmConfig:
    """The vLLM server of `student.engine=vllm`; it is started for each stage that generates."""

    executable: list[str] = field(default_factory=lambda: ["vllm"])
    """Words of the program. vLLM needs an environment of its own, so name its program: [/opt/vllm/bin/vllm]."""
    extra_args: list[str] = field(default_factory=list)
    """Further arguments, such as --tensor-parallel-size=2. Model, length, precision and port are set by the run."""
    concurrency: int = 256
    """Prompts in flight at once."""
    startup_timeout_s: float = 900.0
    """Seconds until the server must be ready."""
    timeout_s: float = 600.0
    """Timeout of a response, in seconds."""


@dataclass
class StudentConfig:
    """The student S."""

    model: str = MISSING
    """Hugging Face id or directory. `lab` builds the base student of the lab. A GGUF file, named as in
    `ServerConfig.weights`, is converted to a directory once."""
    revision: str | None = None
    """Commit or tag of a hub model; null uses the newest."""
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    """Architecture by which `tapir plan` estimates hours and memory; training reads the model's own files."""
    num_parameters: float | None = None
    """Parameters by which `tapir plan` estimates hours; null counts them from `architecture`."""
    chat_template: ChatTemplate = ChatTemplate.tokenizer
    """Chat template; `tokenizer` uses the tokenizer's own."""
    system_prompt: str | None = None
    """System message of every conversation; null for none."""
    precision: Precision = Precision.float32
    """Element type of the weights."""
    max_length: int = 2048
    """Longest row, prompt and response, in tokens; 2048 is the value of neighbouring recipes (D)."""
    max_new_tokens: int = 512
    """Longest response, in tokens."""
    engine: EngineKind = EngineKind.transformers
    """Engine of greedy responses: `transformers` everywhere; `ctranslate2` on CPUs in float32, faster (extra `fast`);
    `vllm` on GPUs, from its own environment. Sampled responses always use transformers."""
    generation_batch_size: int = 32
    """Prompts per batch of transformers and ctranslate2."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    """The vLLM server."""
    allow_pickle: bool = False
    """Whether weights without safetensors are read from pickle files: tensors only."""
    trust_remote_code: bool = False
    """Whether Python code in the model's directory is executed, with all of your permissions."""
