"""Hugging Face twins: importing this makes transformers' Auto classes know PoNet.

After `import ponet.hub`, AutoConfig, AutoModel and the others load a folder that
`python -m ponet export --format huggingface` wrote, without running any code from that folder.
"""

try:
    from transformers import (
        AutoConfig,
        AutoModel,
        AutoModelForMaskedLM,
        AutoModelForPreTraining,
        AutoModelForSequenceClassification,
        AutoModelForTokenClassification,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"ponet.hub needs transformers, and {error.name} is not installed; pip install -e '.[hub]'"
    ) from error

from ponet.hub.configuration_ponet import PoNetHubConfig
from ponet.hub.huggingface import export_huggingface
from ponet.hub.modeling_ponet import (
    PoNetForMaskedLM,
    PoNetForPreTraining,
    PoNetForSequenceClassification,
    PoNetForTokenClassification,
    PoNetModel,
)
from ponet.hub.standalone import write_code

__all__ = [
    "PoNetForMaskedLM",
    "PoNetForPreTraining",
    "PoNetForSequenceClassification",
    "PoNetForTokenClassification",
    "PoNetHubConfig",
    "PoNetModel",
    "export_huggingface",
    "write_code",
]

AutoConfig.register("ponet", PoNetHubConfig, exist_ok=True)
for _auto_class, _model_class in (
    (AutoModel, PoNetModel),
    (AutoModelForMaskedLM, PoNetForMaskedLM),
    (AutoModelForPreTraining, PoNetForPreTraining),
    (AutoModelForSequenceClassification, PoNetForSequenceClassification),
    (AutoModelForTokenClassification, PoNetForTokenClassification),
):
    _auto_class.register(PoNetHubConfig, _model_class, exist_ok=True)
