"""The configuration: its schema, and `parse`, which turns a composed Hydra config into plain dataclasses once.

Where a value is the paper's, its docstring says so with the status of PAPER.md (P seen in a primary source,
S second-hand, D derived, R remembered); every other default is ours.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tapir_exp.errors import ConfigError
from tapir_exp.schema import Schema
from tapir_exp.validate import find_problems, shown

Root = TypeVar("Root")


class Orders(Enum):
    """In which orders the judge sees the two responses."""

    both = "both"
    teacher_first = "teacher_first"


class JudgeProtocol(Enum):
    """What the judge is asked and how its reply becomes scores from 1 to 10."""

    pair_scores = "pair_scores"
    single_score = "single_score"
    pair_logprobs = "pair_logprobs"


class Difficulty(Enum):
    """By which score the hard set is chosen; `difficulty.py` has the formulas and their sources."""

    mfd = "mfd"
    ifd = "ifd"
    eps = "eps"
    judge_rated = "judge_rated"
    response_length = "response_length"
    random = "random"


class Merge(Enum):
    """Whether the rounds stay apart; merging them keeps the rows and the training tokens that they have together."""

    apart = "apart"
    into_one = "into_one"
    into_start = "into_start"


class SeedSource(Enum):
    """Where the seed instructions come from."""

    lab = "lab"
    file = "file"
    hub = "hub"


class ChatTemplate(Enum):
    """How a conversation is written for the student."""

    own = "own"
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


class Method(Enum):
    """What of the student is trained: all of it, a low-rank adapter, or one over a base in 4 bits."""

    full = "full"
    lora = "lora"
    qlora = "qlora"


class StrategyName(Enum):
    """How several devices share a fit: see `student/ranks.py`. `auto` is ddp where there are several."""

    auto = "auto"
    ddp = "ddp"
    fsdp = "fsdp"
    deepspeed = "deepspeed"


class Launcher(Enum):
    """What starts the processes of a fit on several devices, one a device."""

    torchrun = "torchrun"
    srun = "srun"


class LabellerKind(Enum):
    """What names the task types: a chat model by prompt, an encoder with a linear head, or a DeBERTa-v3."""

    llm = "llm"
    encoder = "encoder"
    deberta = "deberta"


class LabellingJob(Enum):
    """What `tapir-label` does: see its help."""

    label = "label"
    train = "train"
    evaluate = "evaluate"
    distil = "distil"


class Suite(Enum):
    """A benchmark of `tapir-evaluate`."""

    lab = "lab"
    alpaca_eval = "alpaca_eval"
    mt_bench = "mt_bench"
    ifeval = "ifeval"


class WandbMode(Enum):
    """How runs reach Weights & Biases."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class ServerConfig:
    """A server of the OpenAI protocol that the run starts on this machine when it is first needed, and stops."""

    command: list[str] = field(default_factory=list)
    """Its words, with {port} where it is told the port to listen at, {python} for this interpreter and {weights} for
    the file of `weights`; empty where the model is served by somebody else."""
    weights: str | None = None
    """A GGUF file: a path, hf:owner/repository/file.gguf, or one that packages carry (tapir-local-weights). Its SHA-256
    is part of the cache key; without one, the command is."""
    health: str = "/health"
    """Path that answers 200 once it can serve."""
    start_s: float = 300.0
    """Seconds until it must."""
    restarts: int = 3
    """How often it may die, or hang, and be started again within a run."""


@dataclass
class LLMConfig:
    """A chat model of any provider that litellm knows; endpoints of the OpenAI protocol are reached directly."""

    model: str = MISSING
    """litellm's model string, such as openai/gpt-4o; `openai/` and `hosted_vllm/` are endpoints of the OpenAI protocol,
    `lab/...` the oracles of the embedded lab."""
    api_base: str | None = None
    """Base URL of the endpoint; null for the provider's own."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the key; never the key itself."""
    direct: bool = True
    """Whether an endpoint of the OpenAI protocol is reached without litellm, at a tenth of the cost in CPU time; false
    goes through litellm, as all other providers do."""
    concurrency: int = 16
    """Calls in flight at once."""
    timeout_s: float = 120.0
    """Seconds until a call is given up."""
    attempts: int = 8
    """Tries per call when the provider fails for a passing reason."""
    requests_per_minute: int | None = None
    """Calls that may start within any 60 seconds, over all stages, roles and processes that use this model at this
    endpoint with this key and share the outputs directory; null for no limit of ours."""
    tokens_per_minute: int | None = None
    """Tokens, prompt and completion, within any 60 seconds, counted likewise; null for no limit of ours."""
    batch: bool = False
    """Whether to ask in batches (OpenAI's /v1/batches): half the price, but an answer may take a day."""
    usd_per_million_input: float | None = None
    """Price of a million prompt tokens; null asks litellm's price list, where there is no api_base."""
    usd_per_million_output: float | None = None
    """Price of a million completion tokens; null asks litellm's price list, where there is no api_base."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the call, passed as they are; they are part of the cache key."""
    server: ServerConfig = field(default_factory=ServerConfig)
    """The server of this model, where the run is to start it; api_base is then null."""


@dataclass
class SpendConfig:
    """What a run, or all jobs of a sweep together, may spend on chat models; null for no limit.

    What was spent before a run was stopped counts; calls in flight at the end may come on top.
    """

    max_usd: float | None = None
    """US dollars; the price of every model in use must then be known."""
    max_calls: int | None = None
    """Calls that were paid for; replies from the cache do not count."""
    max_tokens: int | None = None
    """Tokens of those calls, prompt and completion."""


@dataclass
class LabStudentConfig:
    """The small base student of the lab, a Llama built from a seed."""

    seed: int = 0
    """Seed of the initial weights, and of the text on which the tokenizer is trained."""
    vocabulary: int = 1024
    """Tokens of its byte-level BPE."""
    hidden: int = 128
    """Width of the residual stream; a multiple of `heads`."""
    intermediate: int = 384
    """Width of the feed-forward layers."""
    layers: int = 2
    """Transformer blocks."""
    heads: int = 4
    """Attention heads."""


@dataclass
class LabConfig:
    """The embedded world: what its oracles get wrong, and its base student."""

    seed: int = 0
    """Seed of the natural seed instructions and of the held-out benchmark."""
    teacher_error_rate: float = 0.05
    """Share of the teacher's responses that are wrong, 0 to 1."""
    expansion_error_rate: float = 0.05
    """Share of the teacher's new instructions that are of another type than ordered, 0 to 1."""
    judge_noise: float = 0.5
    """Standard deviation of the judge's scores, in points."""
    judge_position_bias: float = 0.7
    """Points that the judge adds to the response it sees first."""
    labeller_error_rate: float = 0.03
    """Share of the labeller's replies that name another type, 0 to 1."""
    student: LabStudentConfig = field(default_factory=LabStudentConfig)


@dataclass
class TeacherConfig:
    """The teacher T: it answers, expands and refines."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    temperature: float = 0.7
    """Sampling temperature of expansion; answers and refinements are written at 0."""
    max_tokens: int = 1024
    """Length limit of a reply, in tokens."""
    per_call: int = 4
    """New instruction-response pairs asked for in one expansion call."""
    examples_per_call: int = 3
    """Seeds shown in one expansion call."""
    waves: int = 3
    """How often unfilled orders are asked for again."""
    bare_refinements: bool = False
    """Whether a refinement without any tag is read as it stands, as small teachers like to write it; what they say
    around it then goes into the training row. Ours."""
    novelty: float = 0.7
    """An expansion whose ROUGE-L with any instruction seen exceeds this is refused; 1 refuses only repeats.
    0.7 is Lion's value (P)."""
    similar_within: float | None = None
    """Have the judge rate how complex a new instruction is, from 1 to 10, and refuse it where that is further than so
    many points from the mean of its examples. Null asks for no ratings. The paper wants similar difficulty (P);
    this way of seeing to it is ours."""
    max_failed: float = 0.05
    """Share of failed rows above which a stage stops, 0 to 1."""


@dataclass
class JudgeConfig:
    """The judge J: it scores the teacher's and the student's response from 1 to 10."""

    llm: LLMConfig = field(default_factory=LLMConfig)
    protocol: JudgeProtocol = JudgeProtocol.pair_scores
    """`pair_scores`: two scores in one reply (D). `single_score`: each response alone. `pair_logprobs`, for small local
    judges: which is better, by the log-probabilities of the first token, mapped to a gap of 9 (2 p - 1)."""
    orders: Orders = Orders.both
    """Lion asks both orders and averages (P for Lion); not known for TAPIR. Of no matter to `single_score`."""
    reference: bool = False
    """Whether the judge also sees the seed's own response from its dataset; rows that the teacher wrote have none."""
    while_answering: bool = True
    """Whether answers are judged while others are still being written; the verdicts are the same. False where judge and
    student would be in each other's way, on one processor or one GPU. Batches always begin after the answers."""
    temperature: float = 0.0
    max_tokens: int = 512
    """Length limit of a reply, in tokens."""
    max_failed: float = 0.05
    """Share of unscored rows above which the stage stops, 0 to 1."""


@dataclass
class ClassifierConfig:
    """The labeller of task types."""

    kind: LabellerKind = LabellerKind.llm
    llm: LLMConfig = field(default_factory=LLMConfig)
    """The chat model of kind llm."""
    max_tokens: int = 16
    """Length limit of a reply, in tokens."""
    max_failed: float = 0.05
    """Share of rows that the chat model may leave unlabelled before the stage stops, 0 to 1."""
    path: str | None = None
    """Directory of a trained labeller, which `tapir-label do=train` wrote; null trains the kind encoder, in seconds, on
    the examples that come with the package."""
    batch: int = 32
    """Texts that a trained labeller reads at once."""
    precision: Precision = Precision.float32
    """Of the encoder's weights (kind encoder). On a processor with AMX, bfloat16 labels some three times as fast."""


@dataclass
class ShapeConfig:
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
    options: list[str] = field(default_factory=list)
    """Further options, such as --tensor-parallel-size=2; the model, its length, its precision and the port are told."""
    concurrency: int = 256
    """Prompts in flight at once."""
    start_s: float = 900.0
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
    shape: ShapeConfig = field(default_factory=ShapeConfig)
    """By which `tapir-plan` tells hours and memory of a fit; the fit itself goes by the model's own files."""
    parameters: float | None = None
    """How many it has, by which `tapir-plan` tells the hours of a fit; null counts them from `shape`."""
    chat_template: ChatTemplate = ChatTemplate.own
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
    generation_batch: int = 32
    """Prompts answered at once by the first two."""
    vllm: VllmConfig = field(default_factory=VllmConfig)
    allow_pickle: bool = False
    """Whether weights without safetensors are read from pickles: their tensors, and nothing else of them."""
    trust_remote_code: bool = False
    """Whether code that lies beside the model's files is run: it may do whatever you may."""


@dataclass
class TasksConfig:
    """The target mix of task types."""

    name: str = MISSING
    """Name of the preset."""
    ratios: dict[str, float] | None = None
    """Share of each task type; they sum to 1. Null keeps the natural mix of the seeds."""


@dataclass
class DecontaminationConfig:
    """The benchmarks that must not leak, neither through the seeds nor through what the teacher writes."""

    benchmarks: list[str] = field(default_factory=lambda: ["alpaca_eval", "mt_bench"])
    """`alpaca_eval` (805 instructions) and `mt_bench` (80 questions of two turns) come from the hub; anything else is
    a file of questions: .json, .jsonl, .csv or .parquet. An empty list checks nothing, and says so."""
    ngram: int = 8
    """Words in a row that a text must share with a question. Ours, as is `overlap`."""
    overlap: float = 0.5
    """Share of a question's words, 0 to 1, that lie in such runs, from which on a text is a leak."""


@dataclass
class SeedsConfig:
    """The seed instructions."""

    source: SeedSource = MISSING
    path: str | None = None
    """A .json, .jsonl, .csv or .parquet file (source file), or the name of a hub dataset (source hub). Its rows are
    Alpaca's (instruction, input, output) or chats (messages or conversations)."""
    split: str = "train"
    """Split of a hub dataset."""
    max_failed: float = 0.05
    """Share of unusable rows above which the seeds are refused, 0 to 1."""
    near_duplicate: float | None = 0.7
    """A row is left out where the Jaccard similarity of its instruction with an earlier one's, over shingles of three
    tokens, is at least this; null keeps near duplicates. Ours."""
    size: int | None = None
    """Take so many of the clean rows, drawn by `seed`; null takes all."""
    seed: int = 0
    """Seed of that draw."""
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    """It holds for what the teacher writes after these seeds, too."""


@dataclass
class RolloutConfig:
    """The sampled answers of the student by which `curriculum.difficulty=eps` scores a row."""

    answers: int = 4
    """Answers sampled for each row; each is judged like the student's greedy one."""
    temperature: float = 1.0
    """At which they are sampled; more than 0."""
    beta: float = 1.0
    """How much better than another an answer must be to outweigh it e-fold, in judge points; more than 0."""


@dataclass
class CurriculumConfig:
    """The multi-round plan."""

    rounds: int = 3
    """Distillation rounds; 3 (R). 0 leaves the student at S_0."""
    difficulty: Difficulty = Difficulty.mfd
    """The score by which rows are hard; all but mfd (P) are ablations. `random` takes as many rows as mfd would."""
    delta: float = 2.0
    """Under mfd and random, the hard set is what has gap > delta, or as many rows, in judge points; 2 (R)."""
    hard_share: float = 0.21
    """Under any other score, the hard set is this share of the rows, those that score highest; TAPIR's seed set is
    about 11k of 52k (R)."""
    alpha: float = 0.3
    """Weight of the hard set in the loss of round 1, 0 to 1; 0.3 (R)."""
    delta_alpha: float = 0.2
    """Added to alpha after every round; 0.2 (R)."""
    rows: int = MISSING
    """Rows of a round's mix, hard and rest together."""
    merge: Merge = Merge.apart
    """`into_one` runs one round with the rows and the budget of all; `into_start` runs none and gives their budget to
    S_0's fit on the seeds. `parse` does the sum, so an arm that merges follows every change of the budgets."""
    refine: bool = True
    """Whether the teacher rewrites its responses in the style the task type needs."""
    rollouts: RolloutConfig = field(default_factory=RolloutConfig)


@dataclass
class BudgetConfig:
    """How long a fit lasts: exactly one of the two is set."""

    epochs: float | None = None
    """Passes over the rows."""
    tokens: int | None = None
    """Real (not padding) tokens, prompt and response."""


@dataclass
class LoraConfig:
    """Low-rank adapters, used where sft.method is lora or qlora; a student that has one already goes on from it."""

    rank: int = 16
    alpha: int = 32
    """The adapter's output is scaled by alpha / rank."""
    dropout: float = 0.05
    targets: list[str] = field(default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj"])
    """Names of the linear layers that get an adapter."""


@dataclass
class SFTConfig:
    """Supervised fine-tuning; defaults are the neighbouring recipes' (D)."""

    method: Method = Method.full
    start: BudgetConfig = field(default_factory=BudgetConfig)
    """Budget of S_0's fit on the seeds; 0 takes the base model as S_0."""
    round: BudgetConfig = field(default_factory=BudgetConfig)
    """Budget of one round's fit."""
    learning_rate: float = 2e-5
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises; then it falls by a cosine to 0."""
    weight_decay: float = 0.0
    batch_rows: int = 128
    """Rows per optimiser step, over all micro-batches."""
    micro_batch_tokens: int = 4096
    """Tokens per forward pass at most, prompt and response, but for a longer row, which goes alone."""
    clip: float = 1.0
    """Largest gradient norm."""
    max_dropped: float = 0.05
    """Share of rows without a response token within student.max_length above which a fit is refused."""
    checkpoint_steps: int = 100
    """Optimiser steps between checkpoints, from which a killed fit resumes."""
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass
class TrainerConfig:
    """What is handed to Lightning's Trainer."""

    accelerator: str = "auto"
    devices: int = 1
    """Devices of a fit on each node. More than one in all: `tapir` writes the fit down as a job, and `launcher` starts
    its processes, which read the job and nothing of the command line."""
    num_nodes: int = 1
    launcher: Launcher = Launcher.torchrun
    """torchrun: on this machine, and by `remote_shell` on other hosts. srun: in the allocation of a SLURM job."""
    hosts: list[str] = field(default_factory=list)
    """torchrun on several nodes: their names, this machine first. They share its directories and its Python."""
    remote_shell: str = "ssh"
    """Command that carries out another on a host: it is followed by the host and a line of shell."""
    port: int = 29400
    """torchrun on several nodes: the port of the first host at which the others find it."""
    precision: str = "32-true"
    strategy: StrategyName = StrategyName.auto
    deterministic: bool = True
    """Whether the same fit gives the same bytes on the same machine; on a GPU it costs speed."""
    activation_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: a third more work for far less memory."""
    liger_kernels: bool = False
    """Whether a GPU computes norms, rotations and MLPs by liger-kernel's Triton kernels; it takes tapir_exp[gpu]."""
    peak_tflops: float | None = None
    """Matrix TFLOP/s of one device, of which MFU is a share; null takes the data sheet's for cards that are known."""


@dataclass
class LoggerConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    project: str = "tapir"
    entity: str | None = None


@dataclass
class AlpacaEvalConfig:
    """AlpacaEval 2.0. Its annotator is the judge's model, asked by alpaca_eval's own prompt and settings (P)."""

    reference: str | None = None
    """JSON or JSONL of the instructions with the baseline's outputs; null takes GPT-4's of tatsu-lab/alpaca_eval."""
    prompt: str | None = None
    """The annotator's prompt, alpaca_eval_clf.txt; null takes it out of an installed alpaca_eval."""
    gamed: str | None = None
    """alpaca_eval's df_gamed.csv, which the length-controlled win rate is fitted with; null leaves that figure out."""
    outputs: str | None = None
    """A model_outputs.json to judge; null lets the student answer."""
    annotations: str | None = None
    """An annotations.json to go on from: what it holds of these outputs and this annotator is not asked again."""
    annotator: str | None = None
    """Name of the annotator in annotations.json; null derives it from the judge's model."""
    temperature: float = 0.7
    """Of the student's answers; 0.7 is alpaca_eval's for local models, TAPIR's is not known. 0 is greedy."""
    max_new_tokens: int = 2048
    """Longest answer of the student in tokens; 2048 is alpaca_eval's for local models."""


@dataclass
class MTBenchConfig:
    """MT-Bench with single-answer grading. The judge is asked by FastChat's own prompts and settings (P)."""

    questions: str | None = None
    """FastChat's question.jsonl; null takes it out of an installed flexeval."""
    references: str | None = None
    """Reference answers in FastChat's form; null takes GPT-4's out of an installed flexeval."""
    judge_prompts: str | None = None
    """FastChat's judge_prompts.jsonl (fastchat/llm_judge/data of its repository)."""
    answers: str | None = None
    """A model_answer file to judge; null lets the student answer."""
    judgments: str | None = None
    """A model_judgment file to go on from: what it holds of this model and this judge is not asked again."""
    max_new_tokens: int = 1024
    """Longest answer of the student in tokens; 1024 is FastChat's."""


@dataclass
class IFEvalConfig:
    """IFEval: instructions whose following a program can check; the checks are lm_eval's."""

    questions: str | None = None
    """JSONL in the form of google/IFEval; null takes it from the hub."""
    max_new_tokens: int = 1280
    """Longest answer of the student in tokens, which is greedy; 1280 is lm_eval's."""


@dataclass
class EvalsConfig:
    """How students are measured: the lab's benchmark within a run, and the suites of `tapir-evaluate`."""

    per_cell: int = 20
    """Problems of the lab for each family at each level; 0 skips the benchmark."""
    suites: list[Suite] = field(default_factory=lambda: [Suite.lab])
    """What `tapir-evaluate` does, in order."""
    run: str | None = None
    """Directory of a run whose last student is evaluated, as that run asks it; null takes `student.model`."""
    name: str | None = None
    """What the student is called in the benchmarks' files; null names it after its run, or its model."""
    seed: int = 0
    """Seed of answers that are sampled."""
    alpaca_eval: AlpacaEvalConfig = field(default_factory=AlpacaEvalConfig)
    mt_bench: MTBenchConfig = field(default_factory=MTBenchConfig)
    ifeval: IFEvalConfig = field(default_factory=IFEvalConfig)
    held_out: int = 0
    """Instructions of the seeds' own source that are kept out of training, on which every student of a run is compared
    with the one before it, by the judge, and its perplexity on the teacher's responses is taken; 0 skips that."""


@dataclass
class Config:
    """One run."""

    name: str = MISSING
    """Name of the experiment: the first part of its run directory."""
    arm: str = "tapir"
    """Which variant of the method this is, for tables that compare them."""
    seed: int = 0
    """Seed of everything random in the run: fits, draws and sampled calls."""
    outputs: str = "outputs"
    """Directory of runs, and of the store that they share."""
    budget: float | None = None
    """Minutes that the run is to take on two cores. Experiments that know how long things take there derive their sizes
    from it; null where sizes are given as they are."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    lab: LabConfig = field(default_factory=LabConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    seeds: SeedsConfig = field(default_factory=SeedsConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    sft: SFTConfig = field(default_factory=SFTConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    evals: EvalsConfig = field(default_factory=EvalsConfig)


@dataclass
class LabelledConfig:
    """Instructions whose task type is known, and how their file says so."""

    path: str | None = None
    """JSON or JSONL, one object a row; null takes the examples that come with the package, written for it."""
    instruction: str = "instruction"
    """Name of the field that holds the instruction."""
    input: str = "input"
    """Name of the field that holds its input, which follows the instruction as Alpaca does it; rows may lack it."""
    task: str = "task"
    """Name of the field that holds the type."""
    names: dict[str, str | None] = field(default_factory=dict)
    """The file's own names of types, each with the task type that it means; null leaves its rows out, counted."""


@dataclass
class FitConfig:
    """How a labeller is trained; the values are ours, since the paper's recipe is not public."""

    kind: LabellerKind = LabellerKind.encoder
    encoder: str = "minilm"
    """Hugging Face directory, for deberta a hub id too; `minilm` is the all-MiniLM-L6-v2 of the extra `local`."""
    revision: str | None = None
    """Commit or tag of a hub model; null takes the newest."""
    max_length: int = 256
    """Tokens of a text that are read."""
    batch: int = 16
    """Texts read at once; for deberta, those of an optimiser step."""
    class_weights: bool = True
    """Whether every type weighs the same in the loss, however few its rows."""
    inverse_penalty: float = 10.0
    """C of the logistic regression (encoder): the smaller, the nearer to 0 its weights are held."""
    precision: Precision = Precision.float32
    """Of the encoder's weights (encoder); the head is fit in float32 either way."""
    epochs: int = 10
    """Passes over the rows at most (deberta)."""
    patience: int = 2
    """Passes without a better macro-F1 on the validation rows after which the fit stops (deberta)."""
    validation: float = 0.1
    """Share of the training rows that stop the fit and set the temperature (deberta), between 0 and 1."""
    learning_rate: float = 2e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises; then it falls by a line to 0."""


@dataclass
class LabellingConfig:
    """One job of `tapir-label`."""

    do: LabellingJob = LabellingJob.label
    out: str = "outputs/labelling"
    """Directory of what the job writes."""
    outputs: str = "outputs"
    """Directory of the store, whose cache of replies the jobs share with the runs."""
    seed: int = 0
    """Seed of every draw: sample, folds, resamples, fits."""
    spend: SpendConfig = field(default_factory=SpendConfig)
    lab: LabConfig = field(default_factory=LabConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    """The labeller that labels, is evaluated, or teaches (distil)."""
    pool: str | None = None
    """JSON or JSONL of instructions, Alpaca's fields (label, distil)."""
    sample: int = 3000
    """Rows of the pool that the teaching labeller labels (distil)."""
    labelled: LabelledConfig = field(default_factory=LabelledConfig)
    """What a labeller is trained on (train), or measured by (evaluate)."""
    fit: FitConfig = field(default_factory=FitConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    folds: int = 5
    """Parts into which the rows are cut, every type evenly; a part is labelled by a labeller fit on the others."""
    held_out: int | None = None
    """Parts that are labelled so, for the figures; null takes them all. The labeller kept is fit on all rows."""
    resamples: int = 1000
    """Bootstrap resamples of the intervals."""


SCHEMA = Schema(Config)
LABELLING_SCHEMA = Schema(LabellingConfig)


def register_schema() -> None:
    """Make the schemas known to Hydra, where each is the first entry of a primary config's defaults list."""
    ConfigStore.instance().store(name="schema", node=Config, provider="tapir_exp")
    ConfigStore.instance().store(name="labelling_schema", node=LabellingConfig, provider="tapir_exp")


def parse(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> Config:
    """Turn a composed configuration into plain dataclasses, with merged rounds summed up.

    origin: tells from a dotted key which file, or the command line, set it.
    Raises ConfigError, which lists every mistake: key, value, what was expected, and where it was set.
    """
    return _merge_rounds(_parse(cfg, Config, SCHEMA, origin))


def parse_labelling(cfg: DictConfig, origin: Callable[[str], str] | None = None) -> LabellingConfig:
    """As `parse`, for a job of `tapir-label`."""
    return _parse(cfg, LabellingConfig, LABELLING_SCHEMA, origin)


def to_yaml(config: Config | LabellingConfig) -> str:
    """The configuration as YAML that `parse` (or `parse_labelling`) reads back to the same dataclasses."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def _parse(cfg: DictConfig, root: type[Root], schema: Schema, origin: Callable[[str], str] | None) -> Root:
    typed, refused = (cfg, []) if OmegaConf.get_type(cfg) is root else _typed(cfg, root, schema)
    problems = [*refused, *find_problems(typed, schema, origin or (lambda key: "the configuration"))]
    if problems:
        raise ConfigError(problems)
    config = OmegaConf.to_object(typed)
    assert isinstance(config, root)
    return config


def _typed(cfg: DictConfig, root: type, schema: Schema) -> tuple[DictConfig, list[str]]:
    """A configuration that did not pass through Hydra, put into the schema; and what does not fit its types."""
    typed, refused = OmegaConf.structured(root), []
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    for key, value in _leaves(plain, "", schema):
        try:
            OmegaConf.update(typed, key, value, merge=False, force_add=True)
        except OmegaConfBaseException:
            refused.append(f"{key}{shown(key, value)}: expected {schema.expects(key)} [the configuration]")
    return typed, refused


def _leaves(section: Mapping[Any, Any], prefix: str, schema: Schema) -> Iterator[tuple[str, Any]]:
    for name, value in section.items():
        key = f"{prefix}{name}"
        if schema.is_section(key) and isinstance(value, dict):
            yield from _leaves(value, f"{key}.", schema)
        else:
            yield key, value


def _merge_rounds(config: Config) -> Config:
    """Apply `curriculum.merge`; doing it again changes nothing."""
    plan, sft = config.curriculum, config.sft
    match plan.merge:
        case Merge.into_one if plan.rounds > 1:
            sft = replace(sft, round=_times(sft.round, plan.rounds))
            plan = replace(plan, rounds=1, rows=plan.rows * plan.rounds)
        case Merge.into_start:
            tokens = (sft.start.tokens or 0) + plan.rounds * (sft.round.tokens or 0)
            sft = replace(sft, start=BudgetConfig(tokens=tokens))
            plan = replace(plan, rounds=0)
    return replace(config, curriculum=plan, sft=sft)


def _times(budget: BudgetConfig, factor: int) -> BudgetConfig:
    """As long a fit as `factor` fits; epochs stay, since the rows already multiply."""
    return budget if budget.tokens is None else BudgetConfig(tokens=budget.tokens * factor)
