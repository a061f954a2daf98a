"""Hugging Face twins: importing this makes transformers' Auto classes know PoNet.

After `import ponet.hub`, AutoConfig, AutoModel and the others load a folder that
`python -m ponet export --format huggingface` wrote, without running any code from that folder.
"""

try:
    import transformers
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"ponet.hub needs transformers, and {error.name} is not installed; pip install -e '.[hub]'"
    ) from error

from ponet.hub.configuration_ponet import PoNetHubConfig
from ponet.hub.huggingface import export_huggingface
from ponet.hub.modeling_ponet import (
    PoNetForMaskedLM,
    PoNetForPreTraining,
    PoNetModel,
)
from ponet.hub.modeling_ponet_tasks import (
    PoNetForMultipleChoice,
    PoNetForQuestionAnswering,
    PoNetForSequenceClassification,
    PoNetForTokenClassification,
)
from ponet.hub.standalone import CLASSES, write_code

__all__ = [
    "PoNetForMaskedLM",
    "PoNetForMultipleChoice",
    "PoNetForPreTraining",
    "PoNetForQuestionAnswering",
    "PoNetForSequenceClassification",
    "PoNetForTokenClassification",
    "PoNetHubConfig",
    "PoNetModel",
    "export_huggingface",
    "write_code",
]

transformers.AutoConfig.register("ponet", PoNetHubConfig, exist_ok=True)
for _name, _place in CLASSES.items():
    if _name != "AutoConfig":
        _model = globals()[_place.partition(".")[2]]
        getattr(transformers, _name).register(PoNetHubConfig, _model, exist_ok=True)
