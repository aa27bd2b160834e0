"""Settings as scikit-learn knows them, without importing it: get_params, set_params, repr.

Start at `AbstractEstimator`: the constructor stores its arguments under their names and does nothing else, so
`sklearn.base.clone` and grid searches work on whatever derives from it.
"""

import inspect
from typing import Any, Self


class AbstractEstimator:
    """A class whose settings are the arguments of its constructor."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The settings by name; `deep` is there for scikit-learn and changes nothing."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **settings: Any) -> Self:
        """Change settings by name; an unknown name is a ValueError that lists the known ones."""
        known = self.get_params()
        for name, value in settings.items():
            if name not in known:
                raise ValueError(f"{type(self).__name__} has no setting {name!r}; it has {', '.join(known)}.")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn's pipelines and searches ask of an estimator: it needs a fit, and no target."""
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(sparse=True),
        )

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={_told(value)}"
            for name, value in self.get_params().items()
            if value is not parameters[name].default and not _same(value, parameters[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _told(value: Any) -> str:
    """The value as it is written; a table by its shape."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"<{type(value).__name__} {' x '.join(map(str, shape))}>"


def _same(value: Any, default: Any) -> bool:
    return type(value) is type(default) and isinstance(value, (str, int, float, bool)) and value == default
