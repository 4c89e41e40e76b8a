"""JSON of models that are written again and again: the text of each is made once.

In:  models that never change, such as ports and items of a configuration.
"""


class JsonTexts:
    """Texts of the models that were asked for last."""

    def __init__(self):
        self._made = {}  # id of a model -> (the model, which keeps the id its own, its text)

    def of(self, models):
        """Texts of `models` in their order, without defaults; those of all other models are forgotten."""
        before = self._made
        self._made = {
            id(model): before.get(id(model)) or (model, model.model_dump_json(exclude_defaults=True))
            for model in models
        }
        return [text for _, text in self._made.values()]
