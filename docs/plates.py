"""`python docs/plates.py docs/figures/plates`: the plate diagrams of `models.md`, one picture a model.

Start at `MODELS`; a new model is a new entry: where its nodes are, which arrows are the generative side and which the
inference. A picture has three panels: generative, inference, both. Circles are random: grey ones are seen, white ones
are not, double ones follow from what points at them. Squares are parameters, known ones grey. A box is repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

INK, BLUE, GREY = "#222222", "#0072b2", "#d0d0d0"
SIZE = 33  # of a node, in points
PANELS = ("generative", "inference", "combined")
Arrows = tuple[
    str, ...
]  # each "a>b", or "a>b~0.4" where it is bent around what lies between


class Node(NamedTuple):
    """A node: its place, what is written in it, its kind: seen, hidden, computed, parameter, known."""

    x: float
    y: float
    text: str
    kind: str = "hidden"


class Plate(NamedTuple):
    """A box around nodes, repeated for what is written at its foot; `pad` is larger for a box around a box."""

    nodes: str
    text: str
    pad: float = 0.5
    side: str = "right"  # of the foot


class Model(NamedTuple):
    """A model as three panels."""

    nodes: dict[str, Node]
    plates: tuple[Plate, ...]
    generative: Arrows
    inference: Arrows


ROWS, COLUMNS = "$i=1..n$", "$j=1..p$"


def pln(more: dict[str, Node], generative: Arrows, inference: Arrows) -> Model:
    """What the Poisson-lognormal models share: covariates, offset, latent position, counts."""
    nodes = {
        "x": Node(0, 2.2, "$x_i$", "seen"),
        "Z": Node(1.2, 2.2, "$Z_i$", "computed"),
        "w": Node(2.4, 2.2, "$w_i$"),
        "y": Node(1.2, 0.6, "$Y_{ij}$", "seen"),
        "o": Node(0, 0.6, "$o_{ij}$", "seen"),
        "B": Node(0.5, 3.7, "$B$", "parameter"),
    }
    shared = ("x>Z", "w>Z", "B>Z", "Z>y", "o>y")
    plates = (
        Plate("o y", COLUMNS, 0.42, "left"),
        Plate("x Z w y o m", ROWS, 0.62),
    )
    return Model(nodes | more, plates, shared + generative, inference)


def of_sites(model: Model, nodes: str) -> Model:
    """The same at every site: a box around all that is a site's own."""
    return model._replace(
        plates=(*model.plates, Plate(nodes, "$k=1..K$", 0.76, "left"))
    )


def network(
    more: dict[str, Node], generative: Arrows, inference: Arrows, rows: str
) -> Model:
    """What the autoencoders share: a position w, a row y, a decoder f, an encoder g."""
    nodes = {
        "w": Node(1.1, 2.2, "$w_i$"),
        "y": Node(1.1, 0.6, "$y_i$", "seen"),
        "f": Node(-0.4, 1.4, "$f$", "parameter"),
        "g": Node(2.6, 1.4, "$g$", "parameter"),
    }
    arrows = ("w>y", "f>y"), ("y>w", "g>w")
    return Model(
        nodes | more,
        (Plate(rows, ROWS),),
        arrows[0] + generative,
        arrows[1] + inference,
    )


_C = {"C": Node(1.9, 3.7, "$C$", "parameter")}
_FREE = {"m": Node(2.4, 0.6, "$m_i, S_i$", "parameter")}
_ENCODER = {"g": Node(3.7, 1.4, "$g$", "parameter")}
_BASIS = {
    "V": Node(1.6, 3.7, "$V$", "known"),
    "L": Node(2.6, 3.7, r"$\Lambda$", "parameter"),
}
_SITES = {
    "B": Node(0.5, 3.4, "$B_k$", "parameter"),
    "L": Node(2.4, 3.4, r"$\Lambda_k$", "parameter"),
    "V": Node(4.3, 3.0, "$V$", "parameter"),
}
_CONDITION = {
    "c": Node(2.1, 1.4, "$c_i$", "seen"),
    "g": Node(3.4, 1.4, "$g$", "parameter"),
}
_POINT = {"w": Node(1.1, 2.2, "$w_i$", "computed")}
_MIXTURE = {
    "k": Node(1.1, 3.7, "$k_i$"),
    "pi": Node(-0.4, 3.7, r"$\pi$", "parameter"),
    "ms": Node(2.6, 2.95, "$m, s$", "parameter"),
}
_CLUSTERS = {
    **_POINT,
    "q": Node(1.1, 3.7, "$q_i$", "computed"),
    "centre": Node(-0.4, 2.95, "$c$", "parameter"),
    "P": Node(2.6, 3.7, "$P$", "computed"),
}
MODELS = {
    "PLN": pln(_C | _FREE, ("C>Z",), ("y>m", "x>m", "o>m~0.4", "m>w")),
    "PLN_ml": pln(_C, ("C>Z",), ("y>w", "x>w~-0.4", "o>w~-0.1", "B>w", "C>w")),
    "PLN_basis": pln(
        _BASIS | _FREE, ("V>Z", "L>Z"), ("y>m", "x>m", "o>m~0.4", "m>w")
    ),
    "PLN_encoder": pln(
        _C | _ENCODER, ("C>Z",), ("y>w", "x>w~-0.6", "o>w~-0.1", "g>w")
    ),
    "CommonBasis": of_sites(
        pln(
            _SITES,
            ("V>Z~0.15", "L>Z"),
            ("y>w", "x>w~-0.4", "o>w~-0.1", "B>w", "L>w", "V>w"),
        ),
        "x Z w y o B L",
    ),
    "PPCA": Model(
        {
            "w": Node(1.1, 2.2, "$w_i$"),
            "x": Node(1.1, 0.6, "$x_i$", "seen"),
            "mu": Node(-0.5, 0.6, r"$\mu$", "parameter"),
            "C": Node(-0.5, 2.2, "$C$", "parameter"),
            "s": Node(-0.5, 1.4, r"$\sigma^2$", "parameter"),
        },
        (Plate("w x", ROWS),),
        ("w>x", "mu>x", "C>x", "s>x"),
        ("x>w", "mu>w", "C>w", "s>w"),
    ),
    "Autoencoder": network(_POINT, (), (), "w y"),
    "VAE": network({}, (), (), "w y"),
    "VAE_condition": network(_CONDITION, ("c>y",), ("c>w",), "w y c"),
    "MixtureVAE": network(
        _MIXTURE, ("pi>k", "k>w", "ms>w"), ("w>k", "pi>k", "ms>k"), "w y k"
    ),
    "IDEC": network(_CLUSTERS, (), ("w>q", "centre>q", "q>P"), "w y q"),
}


def main() -> None:
    """Draw every model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder for the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, model in MODELS.items():
        drawn(model).savefig(
            out / f"{name}.png", dpi=80, metadata={"Software": None}
        )


def drawn(model: Model) -> Figure:
    """The three panels of a model."""
    figure = Figure(figsize=(10.5, 4.1), layout="constrained")
    for ax, title in zip(figure.subplots(1, 3), PANELS, strict=True):
        solid = model.generative if title != "inference" else ()
        dashed = model.inference if title != "generative" else ()
        panel(ax, model, solid, dashed)
        ax.set_title(title, fontsize="medium")
    return figure


def panel(ax: Axes, model: Model, solid: Arrows, dashed: Arrows) -> None:
    """Nodes that an arrow touches, the boxes around them, the arrows."""
    here = {name for arrow in solid + dashed for name in ends(arrow)}
    for plate in model.plates:
        box(
            ax,
            [model.nodes[name] for name in plate.nodes.split() if name in here],
            plate,
        )
    for arrow in solid:
        connect(ax, model, arrow, rivals=dashed, inference=False)
    for arrow in dashed:
        connect(ax, model, arrow, rivals=solid, inference=True)
    for name in here:
        draw(ax, model.nodes[name])
    places = model.nodes.values()
    ax.set_xlim(
        min(n.x for n in places) - 0.75, max(n.x for n in places) + 0.75
    )
    ax.set_ylim(min(n.y for n in places) - 1.05, max(n.y for n in places) + 0.8)
    ax.axis("off")


def ends(arrow: str) -> tuple[str, str]:
    """The names at the ends of an arrow."""
    start, end = arrow.partition("~")[0].split(">")
    return start, end


def bend(arrow: str, rivals: Arrows, *, inference: bool) -> float:
    """How much an arrow is bent: as it says, and away from an arrow of the other side between the same nodes."""
    told = arrow.partition("~")[2]
    if told:
        return float(told)
    others = [ends(rival) for rival in rivals]
    start, end = ends(arrow)
    if (start, end) in others:
        return -0.25 if inference else 0.25
    return 0.28 if (end, start) in others else 0.0


def draw(ax: Axes, node: Node) -> None:
    """A node with its text."""
    face = GREY if node.kind in ("seen", "known") else "white"
    square = node.kind in ("parameter", "known")
    size = SIZE * (0.8 if square else 1)
    look = {"markerfacecolor": face, "markeredgecolor": INK, "linestyle": ""}
    if square and len(node.text) > 9:  # two letters or more need room
        frame = {
            "boxstyle": "square,pad=0.45",
            "facecolor": face,
            "edgecolor": INK,
        }
        ax.text(
            node.x,
            node.y,
            node.text,
            ha="center",
            va="center",
            fontsize=11,
            bbox=frame,
            zorder=4,
        )
        return
    ax.plot(
        node.x,
        node.y,
        "s" if square else "o",
        markersize=size,
        zorder=3,
        **look,
    )
    if node.kind == "computed":
        ax.plot(node.x, node.y, "o", markersize=size - 6, zorder=3, **look)
    ax.text(
        node.x,
        node.y,
        node.text,
        ha="center",
        va="center",
        fontsize=11,
        zorder=4,
    )


def connect(
    ax: Axes, model: Model, arrow: str, *, rivals: Arrows, inference: bool
) -> None:
    """An arrow between two nodes, bent where another one takes the straight way."""
    start, end = (model.nodes[name] for name in ends(arrow))
    look = {
        "color": BLUE if inference else INK,
        "linestyle": (0, (4, 2)) if inference else "-",
    }
    curve = f"arc3,rad={bend(arrow, rivals, inference=inference)}"
    ax.annotate(
        "",
        (end.x, end.y),
        (start.x, start.y),
        arrowprops={
            "arrowstyle": "-|>,head_length=0.5,head_width=0.22",
            "shrinkA": SIZE / 2,
            "shrinkB": SIZE / 2 + 1,
            "connectionstyle": curve,
            "lw": 1.4,
            **look,
        },
        zorder=2,
    )


def box(ax: Axes, nodes: list[Node], plate: Plate) -> None:
    """A plate around those of its nodes that are here."""
    if not nodes:
        return
    left, right = (
        min(n.x for n in nodes) - plate.pad,
        max(n.x for n in nodes) + plate.pad,
    )
    low, high = (
        min(n.y for n in nodes) - plate.pad - 0.2,
        max(n.y for n in nodes) + plate.pad,
    )
    shape = FancyBboxPatch(
        (left, low),
        right - left,
        high - low,
        "round,pad=0,rounding_size=0.12",
        fill=False,
        edgecolor="#888888",
    )
    ax.add_patch(shape)
    at = left + 0.08 if plate.side == "left" else right - 0.08
    ax.text(
        at,
        low + 0.05,
        plate.text,
        ha=plate.side,
        va="bottom",
        fontsize=8,
        color="#555555",
    )


if __name__ == "__main__":
    main()
