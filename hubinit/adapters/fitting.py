"""Whether a stored adapter fits a base: every tensor finds its module and shape, every target its tensors.

PEFT itself drops tensors that find no module and starts modules afresh that find no tensors, at most with a warning.
"""

import copy
import warnings
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NoReturn

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from hubinit.adapters.base import detach, remember_trainable
from hubinit.adapters.patterns import check_patterns
from hubinit.adapters.untrusted import CONFIG, FLOATS, WEIGHTS, Stored, check_files, check_finite, read_header
from hubinit.errors import HubinitError, first_line
from hubinit.text import one_line

# By these PEFT sizes what it builds. They are seen in the file's own tensors, or small.
SIZES = (
    "r", "init_r", "target_r", "u", "num_vectors", "vector_length", "theta_d_length", "n_frequency", "depth", "num_A",
    "num_B", "num_virtual_tokens", "token_dim", "num_transformer_submodules", "num_layers", "num_attention_heads",
    "encoder_hidden_size", "encoder_num_layers", "num_ranks", "num_tasks", "n_tasks", "n_skills", "n_splits",
    "adapter_len", "adapter_layers", "block_size", "oft_block_size", "boft_block_size", "boft_block_num",
    "boft_n_butterfly_factor", "num_frozen_tokens",
)  # fmt: skip
SMALL_SIZE = 64
PREFIXES = ("base_model.model.", "base_model.")  # before names of the base; prompts have the short one


def check_fits(model: nn.Module, config: Any, directory: Path) -> dict[str, Stored]:
    """Checks an adapter against the base that it is to be loaded on, before anything is built.

    Args:
        model: the untouched base; it is as before afterwards.
        config: of the adapter, as it will be given to PEFT.
        directory: with the adapter's files.

    Returns:
        The adapter's tensors. PEFT alone knows what a type other than LoRA should have: `check_loaded` looks at those.

    Raises:
        HubinitError: a file is missing or damaged, or something does not fit.
    """
    check_files(directory)
    header = read_header(directory / WEIGHTS)
    names = [name for name, _ in model.named_modules()]
    check_patterns(config, [*names, *(f"{name}.base_layer" for name in names)], directory / CONFIG)
    saved = _saved_in_full(model, config, header, directory)
    if isinstance(config, LoraConfig):
        expected = _shapes_of_lora(model, config, directory)
        foreign = header.keys() - expected.keys()
    else:
        _check_sizes(config, header, directory)
        expected, foreign = None, {name for name in header if not name.startswith(saved)}
    unchanged = _base_weights(model, foreign, directory)
    own = {name: stored for name, stored in header.items() if name not in unchanged}
    if expected is not None:
        compare(own, expected, directory)
    check_finite(directory / WEIGHTS)
    return own


def check_loaded(peft_model: PeftModel, own: Mapping[str, Stored], directory: Path) -> None:
    """Checks that a loaded model took all that `check_fits` found, and found all that it has.

    Raises:
        HubinitError: it did not.
    """
    compare(own, get_peft_model_state_dict(peft_model, save_embedding_layers=False), directory)


def compare(own: Mapping[str, Stored], expected: Mapping[str, Tensor], directory: Path) -> None:
    """Holds an adapter's tensors against those of the model that they are for.

    Raises:
        HubinitError: one is missing or of no use, or has another shape or kind of number.
    """
    if missing := sorted(expected.keys() - own.keys()):
        _refuse(directory, f"{_count(missing)} missing, such as {one_line(missing[0])}")
    if unused := sorted(own.keys() - expected.keys()):
        _refuse(directory, f"{_count(unused)} of no use, such as {one_line(unused[0])}")
    for name, tensor in expected.items():
        if own[name].shape != tuple(tensor.shape):
            _refuse(directory, f"{one_line(name)} is {_times(own[name].shape)}, not {_times(tuple(tensor.shape))}")
        if tensor.is_floating_point() != (own[name].dtype in FLOATS):
            _refuse(directory, f"{one_line(name)} holds {one_line(own[name].dtype)} numbers")


def _shapes_of_lora(model: nn.Module, config: LoraConfig, directory: Path) -> dict[str, Tensor]:
    """The tensors of a LoRA by their names in a file, without numbers: PEFT attaches it on the meta device."""
    bare, kasa = copy.deepcopy(config), config.kasa_config is not None
    bare.init_lora_weights, bare.kasa_config = True, None  # PEFT would rewrite the base for them
    remember_trainable(model)
    training = model.training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they come again when it is loaded
            peft_model = get_peft_model(model, bare, low_cpu_mem_usage=True)
        state: dict[str, Tensor] = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    except Exception as error:  # whatever PEFT makes of values that it does not expect
        _refuse(directory, f"PEFT says: {one_line(first_line(error))[:300]}", error)
    finally:
        detach(model)
        model.train(training)
    if kasa:  # its diagonal, one number per rank
        for name in [name for name in state if name.endswith(".lora_A.weight")]:
            state[name.replace(".lora_A.weight", ".lora_diag")] = state[name][:, 0]
    return state


def _saved_in_full(model: nn.Module, config: Any, header: Mapping[str, Stored], directory: Path) -> tuple[str, ...]:
    """The beginnings of the names that tensors of `modules_to_save` have; PEFT copies these modules, so the file must too."""
    wanted = tuple(getattr(config, "modules_to_save", None) or ())
    copied = {name: module for name, module in model.named_modules() if wanted and name.endswith(wanted)}
    if sum(p.numel() for module in copied.values() for p in module.parameters()) > sum(s.size for s in header.values()):
        _refuse(directory, f"modules_to_save ({one_line(', '.join(wanted))[:100]}) asks for more than the file holds")
    return tuple(f"{prefix}{name}." for name in copied for prefix in PREFIXES)


def _check_sizes(config: Any, header: Mapping[str, Stored], directory: Path) -> None:
    bound = max([SMALL_SIZE, *(size for stored in header.values() for size in stored.shape)])
    for name in SIZES:
        value = getattr(config, name, None)
        if isinstance(value, int | float) and abs(value) > bound:
            _refuse(directory, f"{name} is {value:g}, and no tensor of the file is as large")


def _base_weights(model: nn.Module, names: Set[str], directory: Path) -> set[str]:
    """Those of `names` that are weights of the base itself, with the base's own numbers.

    PEFT saves embedding and head beside an adapter that has one of them as a target.

    Raises:
        HubinitError: one has other numbers: PEFT would overwrite the base with it, for good.
    """
    weights = {prefix + name: tensor for name, tensor in model.state_dict().items() for prefix in PREFIXES}
    found = {name: weights[plain] for name in names if (plain := name.replace(".base_layer.", ".")) in weights}
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        for name, weight in sorted(found.items()):
            stored = file.get_tensor(name)
            if stored.shape != weight.shape or not torch.equal(stored.to(weight), weight):
                _refuse(directory, f"{one_line(name)} would overwrite a weight of the base")
    return set(found)


def _refuse(directory: Path, reason: str, error: Exception | None = None) -> NoReturn:
    raise HubinitError(
        f"{directory} holds an adapter that does not fit this base ({reason}): get it again, or load the base it was made for."
    ) from error


def _count(names: Any) -> str:
    return f"{len(names)} tensors are" if len(names) > 1 else "a tensor is"


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"
