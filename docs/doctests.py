"""An extension of the documentation's reader of docstrings: examples are shown as code, not as quotations.

Start at `Doctests`. Used by mkdocs.yml.
"""

import griffe


class Doctests(griffe.Extension):
    """Puts every run of lines from a `>>>` to the next empty line between fences."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        """Change the object's docstring."""
        if obj.docstring is None or ">>> " not in obj.docstring.value:
            return
        paragraphs = obj.docstring.value.split("\n\n")
        obj.docstring.value = "\n\n".join(
            f"```pycon\n{each.strip(chr(10))}\n```"
            if each.lstrip().startswith(">>> ")
            else each
            for each in paragraphs
        )
