"""The kinds of model that hubinit knows: one object each, with everything that differs between them. A new kind is one more."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from hubinit.specs import Dtype, ModelKind, RunSpec


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    Attributes:
        name: as in specifications.
        noun: for messages, with its article.
        auto_class: transformers' class that loads the model.
        processor_class: transformers' class that loads its tokenizer or image processor.
        pipeline: the Hub's name of what its adapters do.
        pipelines: pipelines that a repo of such a base may declare.
        default_suite: what `--tasks` is when nobody says.
        labelled: its head has the classes of one task. The head is new, so `none` is a linear probe (the head alone is trained),
            every task needs a base of its own in memory, and a mixture of tasks cannot be trained.
        dtype: the floating-point type where the user leaves the choice.
        processing: options of the processor.
    """

    name: ModelKind
    noun: str
    auto_class: str
    processor_class: str
    pipeline: str
    pipelines: frozenset[str]
    default_suite: str
    labelled: bool
    dtype: Dtype = "auto"
    processing: Mapping[str, str] = field(default_factory=dict)


LANGUAGE = Kind(
    name="language",
    noun="a causal language model",
    auto_class="AutoModelForCausalLM",
    processor_class="AutoTokenizer",
    pipeline="text-generation",
    pipelines=frozenset({"text-generation"}),
    default_suite="commonsense",
    labelled=False,
)
VISION = Kind(
    name="vision",
    noun="an image classifier",
    auto_class="AutoModelForImageClassification",
    processor_class="AutoImageProcessor",
    pipeline="image-classification",
    pipelines=frozenset({"image-classification", "image-feature-extraction"}),
    default_suite="image",
    labelled=True,
    dtype="float32",  # the new head is trained as it is
    # Pillow, as DINOv2's and CLIP's own code resizes; the default is torchvision where it is installed, whose pixels differ.
    processing={"backend": "pil"},
)
KINDS: dict[ModelKind, Kind] = {kind.name: kind for kind in (LANGUAGE, VISION)}


def head_seed(spec: RunSpec) -> int | None:
    """The seed of a labelled kind's head, that of the start: all methods of a seed begin with the same. None without a head."""
    return spec.seed_of("init") if KINDS[spec.model.kind].labelled else None


def start_of(spec: RunSpec) -> RunSpec:
    """The start point of a run as a specification of its own; runs that begin at the same point have the same one.

    It has neither recipe nor learning rate, and no data where the start does not depend on them: without a calibration, and
    without a head for the classes of the data.
    """
    needs_data = spec.calibration is not None or KINDS[spec.model.kind].labelled
    seeds = {"seed": spec.seed_of("init"), "data_seed": None, "init_seed": None, "dropout_seed": None}
    data = spec.data if needs_data else None
    return spec.model_copy(update={"recipe": None, "learning_rate": 0.0, "data": data, **seeds})
