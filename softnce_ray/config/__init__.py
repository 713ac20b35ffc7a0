"""Settings of a trial and of a study: validated, frozen, hashable.

Everything that changes what is computed enters a trial's identity; what only changes where and how fast it is
computed is in `Resources` and does not.
"""

from softnce_ray.config.arm import (
    METHOD_VERSION,
    ArmConfig,
    TokenSettings,
    TrainingSettings,
    TrialConfig,
    identity,
    resolved,
    revisions,
    trial_languages,
)
from softnce_ray.config.budget import Budget
from softnce_ray.config.encoders import (
    BagEncoder,
    CodeBERTEncoder,
    Encoder,
    FineTuned,
    Freeze,
    GraphCodeBERTEncoder,
    Inputs,
    LoRA,
    MiniLMEncoder,
    NetworkEncoder,
    TransformerEncoder,
    UniXcoderEncoder,
    how_to_get,
)
from softnce_ray.config.estimators import (
    BM25CodeEstimator,
    BM25Estimator,
    BM25Variant,
    Estimator,
    MixEstimator,
    SimCSEEstimator,
    TrainedEstimator,
    UniformEstimator,
)
from softnce_ray.config.hard_negatives import HardNegatives
from softnce_ray.config.languages import ALL, LanguageChoices, TrainingSet
from softnce_ray.config.losses import InfoNCE, Loss, SoftInfoNCE
from softnce_ray.config.search import EarlyStopping, Sampler, Search
from softnce_ray.config.search_space import Choices, Range, SearchSpace
from softnce_ray.config.seeds import Precision
from softnce_ray.config.settings import Name, Settings, flatten
from softnce_ray.config.study import (
    Failures,
    Resources,
    StudyArm,
    StudyConfig,
    arm_settings,
)
from softnce_ray.config.variants import variants, with_values

__all__ = [
    "ALL",
    "METHOD_VERSION",
    "ArmConfig",
    "BM25CodeEstimator",
    "BM25Estimator",
    "BM25Variant",
    "BagEncoder",
    "Budget",
    "Choices",
    "CodeBERTEncoder",
    "EarlyStopping",
    "Encoder",
    "Estimator",
    "Failures",
    "FineTuned",
    "Freeze",
    "GraphCodeBERTEncoder",
    "HardNegatives",
    "InfoNCE",
    "Inputs",
    "LanguageChoices",
    "LoRA",
    "Loss",
    "MiniLMEncoder",
    "MixEstimator",
    "Name",
    "NetworkEncoder",
    "Precision",
    "Range",
    "Resources",
    "Sampler",
    "Search",
    "SearchSpace",
    "Settings",
    "SimCSEEstimator",
    "SoftInfoNCE",
    "StudyArm",
    "StudyConfig",
    "TokenSettings",
    "TrainedEstimator",
    "TrainingSet",
    "TrainingSettings",
    "TransformerEncoder",
    "TrialConfig",
    "UniXcoderEncoder",
    "UniformEstimator",
    "arm_settings",
    "flatten",
    "how_to_get",
    "identity",
    "resolved",
    "revisions",
    "trial_languages",
    "variants",
    "with_values",
]
