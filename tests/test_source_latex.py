"""Flat code as formulas: TeX reads them, and they say what the lectures say."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import chainrule as cr
from chainrule.core.primitive import TABLE
from chainrule.view.source import source
from test_models import every_model, made, total
from test_source import GOLDEN, NEURON, differentiable, neuron, samples_of


def test_the_neuron_as_formulas() -> None:
    text = source(neuron, *NEURON, target="latex")
    assert text == (GOLDEN / "source_neuron.tex.txt").read_text()
    assert r"L &= \frac{1}{1 + e^{-s_{3}}}" in text
    assert r"\frac{\partial L}{\partial s_{3}} &= \left(1 - L\right) \, L" in text
    assert r"\bar{w}_{0} &= \bar{s}_{0} \, x_{0}" in text


def test_matrices_are_upright_and_bold_and_multiplied_without_a_sign() -> None:
    def f(X: Any, W: Any, beta: Any) -> Any:
        H = X @ W + beta
        return cr.sum(cr.tanh(H))

    text = source(f, np.ones((2, 3)), np.ones((3, 2)), np.ones(2), target="latex")
    assert r"&= \mathbf{X} \, \mathbf{W} \\" in text
    assert r" + \boldsymbol{\beta}" in text
    assert r"\bar{\mathbf{W}} &= \mathbf{X}^{\top} \, \bar{" in text


def balanced(text: str) -> bool:
    """Braces, delimiters and environments all close in the order in which they open."""
    open_ones: list[str] = []
    for found in re.finditer(r"\\begin\{(\w+\*?)\}|\\end\{(\w+\*?)\}|\\left|\\right|\\[{}]|[{}]", text):
        word = found.group()
        if word in ("{", r"\left") or word.startswith(r"\begin"):
            open_ones.append(found.group(1) or word)
        elif word in ("}", r"\right") or word.startswith(r"\end"):
            wanted = found.group(2) or {"}": "{", r"\right": r"\left"}[word]
            open_ones = open_ones[:-1] if open_ones[-1:] == [wanted] else ["never closed", *open_ones]
    return not open_ones


AMSMATH = frozenset(
    re.findall(
        r"\w+",
        """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi omega Gamma Delta Theta
        Lambda Xi Pi Sigma Upsilon Phi Psi Omega arccos arcsin arctan bar begin boldsymbol cdot cos cosh ell end exp frac ge infty land lceil le
        left lfloor ll gg lnot log lor mathbf mathrm max min ne odot operatorname oplus overline partial rceil rfloor right sin sinh sqrt sum
        tan tanh text top""",
    )
)
"""Commands that the formulas use, every one of which KaTeX and LaTeX with amsmath know."""


def readable(text: str) -> bool:
    """Whether TeX reads a text of formulas: it is balanced, has known commands only, and nothing with two superscripts."""
    commands = set(re.findall(r"\\([a-zA-Z]+)", text))
    return balanced(text) and commands <= AMSMATH and not re.search(r"(\^|_)\{[^{}]*\}\1", text)


@pytest.mark.parametrize("name", sorted(name for name, gate in TABLE.items() if gate.scalar is not None))
def test_every_elementwise_gate_is_a_formula_that_tex_can_read(name: str) -> None:
    for graph, _ in samples_of(TABLE[name]):
        if differentiable(graph):
            text = source(graph, target="latex")
            assert readable(text)
            assert "None" not in text
            # An equation has one sign to align at, but for those inside of cases.
            rows = re.sub(r"\\begin\{cases\}.*\\end\{cases\}", "", text).splitlines()
            assert all(row.count("&") == 1 for row in rows if row.startswith("  "))


@every_model
def test_every_network_is_formulas_that_tex_can_read(name: str) -> None:
    model, inputs = made(name)
    assert readable(source(lambda *inputs: total(model(*inputs)), *inputs, target="latex"))


def test_a_bar_is_as_long_as_the_name_below_it() -> None:
    text = source(lambda x, weights: cr.sum(x * weights), np.ones(2), np.ones(2), target="latex")
    assert r"\bar{\mathbf{x}} &=" in text
    assert r"\overline{\mathbf{weights}} &=" in text
