"""Which part of each tensor a rank of a tensor-parallel group has.

A plan maps patterns, as `tp_patterns` says, to how the tensors that fall under them are sliced: by a style of
transformers (`model.tp_plan`, `config.base_model_tp_plan`, and the same of expert parallelism), or along a dimension.

Each of w ranks has ceil(n / w) of a dimension's n elements, the last that has any fewer, and those behind it none:
so torch.chunk cuts, and transformers. Only whole experts (`grouped_gemm`) have to divide evenly, as there.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from sllm_store.errors import InvalidArgumentError, UnsupportedError
from sllm_store.header import StoredTensor
from sllm_store.slicing import Slice
from sllm_store.tp_patterns import match_patterns, parent_among_many

_NONE_TIED: Final[Mapping[str, str]] = MappingProxyType({})


class _Style(NamedTuple):
    """The dimension that is sliced, from the end where negative, and how many tensors are packed along it.

    A tensor that has too few dimensions for a negative one is sliced along its first, as a colwise bias is, unless
    the dimension was given and not a style's.
    """

    dim: int
    groups: int = 1
    is_bias_whole: bool = False
    is_even: bool = False
    is_given: bool = False


# A linear layer has its outputs along the last dimension but one, its inputs along the last; stacked experts too.
_COLWISE: Final = _Style(-2)
# A rowwise bias is added to the sum of what the ranks computed.
_ROWWISE: Final = _Style(-1, is_bias_whole=True)
_PACKED_ROWWISE: Final = _Style(-1, groups=2, is_bias_whole=True)

# None: the style says what a module's forward exchanges. Its tensors are whole, or fall under patterns of their own.
_STYLES: Final[Mapping[str, _Style | None]] = {
    "colwise": _COLWISE,
    "colwise_gather_output": _COLWISE,
    "colwise_rep": _COLWISE,
    "local_colwise": _COLWISE,
    "packed_colwise": _Style(-2, groups=2),
    "rowwise": _ROWWISE,
    "rowwise_rep": _ROWWISE,
    "rowwise_split_input": _ROWWISE,
    "local_rowwise": _ROWWISE,
    "packed_rowwise": _PACKED_ROWWISE,
    "local_packed_rowwise": _PACKED_ROWWISE,
    "embedding_rowwise": _Style(0),
    "embedding_colwise": _Style(1),
    "grouped_gemm": _Style(0, is_even=True),
    "all_reduce": None,
    "ep_dispatch_experts": None,
    "ep_router": None,
    "gather": None,
    "local": None,
    "local_params": None,
    "megamoe_experts": None,
    "megamoe_router": None,
    "mla_kv_a_proj": None,
    "moe_identity_expert": None,
    "moe_tp_experts": None,
    "replicate": None,
    "replicated_with_grad_allreduce": None,
    "sequence_parallel": None,
}


def tp_slices(
    tensors: Iterable[StoredTensor],
    tp_plan: Mapping[str, str | int],
    rank: int,
    world: int,
    tied: Mapping[str, str] = _NONE_TIED,
) -> dict[str, Slice]:
    """The part of each tensor that `rank` of `world` has. What is not in the result, each rank has whole.

    tensors: all of the checkpoint's, whichever of them are loaded.
    tp_plan: pattern to style or dimension. transformers' plans name modules that only some models have, so a pattern
        with a style may match nothing; one with a dimension may not, and neither may the whole plan.
    tied: further names of stored tensors. They are in the result where their tensor is.

    Scalars are whole under any style, and biases under a rowwise one. A style means a tensor as a linear layer, an
    embedding or stacked experts have it: what a quantizer stores in another layout needs its own plan.

    Raises InvalidArgumentError for an unknown style, a pattern that may not match nothing, a dimension that a tensor
    has not, and experts that do not divide; UnsupportedError for experts that lie in a tensor each where the plan
    means them stacked, for packed tensors of different sizes, and for tied names that would be sliced differently.
    """
    if world < 1 or not 0 <= rank < world:
        raise InvalidArgumentError(f"there is no rank {rank} in a world of {world}")
    styles = {pattern: _style_of(pattern, value) for pattern, value in tp_plan.items()}
    named = {tensor.name: tensor for tensor in tensors}
    named |= {name: msgspec.structs.replace(named[stored], name=name) for name, stored in tied.items()}
    patterns = match_patterns(named, styles)
    _check_matches(patterns, styles)
    _check_stacked([name for name in named if name not in patterns], styles)
    slices: dict[str, Slice] = {}
    for name, pattern in patterns.items():
        style = styles[pattern]
        if world > 1 and style is not None and not _is_whole(named[name], style):
            slices[name] = _shard(named[name], style, rank, world)
    _check_tied(slices, tied)
    return slices


def _style_of(pattern: str, value: str | int) -> _Style | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return _Style(value, is_given=True)
    if not isinstance(value, str) or value not in _STYLES:
        raise InvalidArgumentError(f"unknown style {value!r} of tp_plan pattern {pattern}")
    return _STYLES[value]


def _check_matches(patterns: Mapping[str, str], styles: Mapping[str, _Style | None]) -> None:
    used = set(patterns.values())
    needed = [pattern for pattern, style in styles.items() if style is not None and style.is_given]
    for pattern in needed if used else styles:
        if pattern not in used:
            others = "" if used else ", nor does any other"
            raise InvalidArgumentError(f"tp_plan pattern {pattern} applies to no tensor{others}")


def _check_stacked(unmatched: Iterable[str], styles: Mapping[str, _Style | None]) -> None:
    """A rank would have every expert whole, in spite of a plan that slices them, if the mismatch went unsaid."""
    parents = {pattern.rpartition(".")[0]: pattern for pattern, style in styles.items() if style is not None}
    for name in unmatched:
        if parent := parent_among_many(name, parents):
            raise UnsupportedError(
                f"tensor {name} is one of several, which tp_plan pattern {parents[parent]} means as one stacked "
                "tensor; give it a pattern of its own"
            )


def _is_whole(tensor: StoredTensor, style: _Style) -> bool:
    if style.is_given:
        return False
    is_bias = len(tensor.shape) == 1 or tensor.name.endswith(".bias")
    return not tensor.shape or (style.is_bias_whole and is_bias)


def _shard(tensor: StoredTensor, style: _Style, rank: int, world: int) -> Slice:
    dim = _dimension(tensor, style)
    size, rest = divmod(tensor.shape[dim], style.groups)
    described = f"dimension {dim} of tensor {tensor.name} of shape {list(tensor.shape)}"
    if rest:
        raise UnsupportedError(f"{described} is not {style.groups} tensors of one size, packed")
    if style.is_even and size % world:
        raise InvalidArgumentError(f"{described} does not divide into {world} equal parts, as experts must")
    share = -(-size // world)
    start = min(rank * share, size)
    return Slice(dim, start, min(start + share, size), style.groups)


def _dimension(tensor: StoredTensor, style: _Style) -> int:
    dims = len(tensor.shape)
    dim = style.dim + dims if style.dim < 0 else style.dim
    if dim < 0 and not style.is_given:
        return 0
    if not 0 <= dim < dims:
        raise InvalidArgumentError(f"tensor {tensor.name} of shape {list(tensor.shape)} has no dimension {style.dim}")
    return dim


def _check_tied(slices: Mapping[str, Slice], tied: Mapping[str, str]) -> None:
    for name, stored in tied.items():
        if slices.get(name) != slices.get(stored):
            raise UnsupportedError(f"tensor {name} is tied to {stored}, but tp_plan slices them differently")
