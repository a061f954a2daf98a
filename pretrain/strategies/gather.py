"""The whole weights of a model that may be spread over ranks.

Works under every strategy of `configs/strategy/` and without any.
"""

from pytorch_lightning import Trainer
from torch import Tensor

from pretrain.strategies.fsdp import whole_tensor
from pretrain.strategies.zero import ZeroStrategy


def full_model_state(trainer: Trainer) -> dict[str, Tensor] | None:
    """The whole weights of the trained `PretrainingModel`, on the CPU; all ranks must call it.

    Under ZeRO with bf16-mixed these are the float32 master weights, not the bfloat16 copies.

    Returns:
        The state dict of `pl_module.model` on rank 0, None on the other ranks.
    """
    module = trainer.lightning_module.model
    state: dict[str, Tensor] = {}
    masters = _zero_masters(trainer) if isinstance(trainer.strategy, ZeroStrategy) else {}
    for name, value in module.state_dict().items():
        whole = masters[name] if name in masters else whole_tensor(value)
        if trainer.is_global_zero:
            state[name] = whole.clone()
    return state if trainer.is_global_zero else None


def _zero_masters(trainer: Trainer) -> dict[str, Tensor]:
    from deepspeed.utils import safe_get_full_fp32_param

    masters = {}
    for name, parameter in trainer.lightning_module.model.named_parameters():
        value = safe_get_full_fp32_param(parameter)
        if value is not None:
            masters[name] = value.detach().cpu().view(parameter.shape)
    return masters
