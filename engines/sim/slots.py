"""The KV slots that fit beside a model on a device: the paper's Table 1, or the original's rule."""

from __future__ import annotations

from engines.core.config import GIB, MOST_KV_SLOTS
from engines.core.errors import UserError
from engines.core.models import ModelSpec
from engines.sim.profile import DeviceProfile

UTILISATION = 0.95
WORKSPACE_BYTES = GIB
PROFILED_TOKENS = 2560

# Table 1 of the paper: (model, profile, tensor-parallel degree) -> KV slots in tokens.
TABLE1_SLOTS = {
    ("opt-13b", "a100-40gb", 1): 15_700,
    ("opt-66b", "a100-40gb", 4): 9_700,
    ("opt-175b", "a100-80gb", 8): 60_100,
    ("llama-13b", "a100-40gb", 1): 15_700,
}
# The paper's server for each model (Table 1); other models run on one A100-40GB.
PAPER_SERVERS = {"opt-66b": ("a100-40gb", 4), "opt-175b": ("a100-80gb", 8)}
DEFAULT_SERVER = ("a100-40gb", 1)


def paper_server(model: ModelSpec) -> tuple[str, int]:
    """Device profile and tensor-parallel degree on which the paper serves a model."""
    return PAPER_SERVERS.get(model.name, DEFAULT_SERVER)


def activation_bytes(model: ModelSpec, tensor_parallel: int, num_tokens: int) -> int:
    """Bytes of the largest tensors alive at once on a device, by the original's estimate.

    Twice the larger of the fused QKV and the FFN's inner activation (a gated one has two), or
    twice the logits of every token if that is more.
    """
    widest = max(outputs for outputs, _ in model.layer_products)
    inner = widest * num_tokens // tensor_parallel
    logits = model.vocab_size * num_tokens
    return 2 * max(inner, logits) * model.dtype_bytes


def slots_from_memory(model: ModelSpec, profile: DeviceProfile, tensor_parallel: int = 1) -> int:
    """KV slots in tokens: 95 % of memory less workspace, parameters and activations.

    Raises UserError if the model leaves no memory for a cache.
    """
    usable = UTILISATION * profile.memory_bytes * tensor_parallel
    parameters = model.num_parameters * model.dtype_bytes
    overhead = WORKSPACE_BYTES + activation_bytes(model, tensor_parallel, PROFILED_TOKENS)
    left = usable - parameters - tensor_parallel * overhead
    copies = tensor_parallel // model.kv_shards(tensor_parallel)
    slots = left // (copies * model.kv_bytes_per_token)
    if not slots <= MOST_KV_SLOTS:  # NaN too
        raise UserError(
            f"{tensor_parallel} x {profile.name} hold more than {MOST_KV_SLOTS:,} KV slots of "
            f"{model.name}: give --kv-slots"
        )
    if slots < 1:
        raise UserError(
            f"{model.name} does not fit: {parameters / GIB:.1f} GiB of parameters and "
            f"{tensor_parallel * overhead / GIB:.1f} GiB of workspace on {tensor_parallel} x "
            f"{profile.name} with {usable / GIB:.1f} GiB usable: raise --tensor-parallel or take "
            "a larger device"
        )
    return int(slots)


def default_slots(model: ModelSpec, profile: DeviceProfile, tensor_parallel: int) -> int:
    """KV slots of Table 1 for the paper's servers, else by the original's rule."""
    known = TABLE1_SLOTS.get((model.name, profile.name, tensor_parallel))
    return known if known is not None else slots_from_memory(model, profile, tensor_parallel)
