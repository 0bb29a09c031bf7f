"""Linear algebra beyond what is generated from the table: identities, conventions, and gradients against PyTorch's."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrule as cr
from chainrule.core.errors import ArgumentError, GradientError, LinAlgError

SOME = ["cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm", "matrix_power", "matrix_rank"]
STANDARD = [*SOME, "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve", "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm"]


def numpy(x: Any) -> Any:
    return np.asarray(x.detach())


def close(x: Any, y: Any, tolerance: float = 1e-9) -> None:
    np.testing.assert_allclose(numpy(x) if isinstance(x, cr.Tensor) else x, y, rtol=tolerance, atol=tolerance)


def leaf(x: Any) -> cr.Tensor:
    return cr.tensor(np.asarray(x, float), requires_grad=True)


def gradient(f: Any, x: Any) -> Any:
    x = leaf(x)
    f(x).backward()
    assert x.grad is not None
    return numpy(x.grad)


def second(f: Any, x: Any, v: Any) -> Any:
    """The Hessian of ``f`` at ``x`` times ``v``."""
    x = leaf(x)
    (g,) = cr.autograd.grad(f(x), [x], create_graph=True)
    return numpy(cr.autograd.grad(cr.sum(g * cr.tensor(v)), [x])[0])


def slope(f: Any, x: Any, v: Any, h: float = 1e-5) -> Any:
    return (f(x + h * v) - f(x - h * v)) / (2 * h)


def drawn(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def thin(name: str, part: int) -> tuple[Any, Any]:
    """A part of a decomposition without its signs, of ours and of PyTorch's."""
    options: dict[str, Any] = {"full_matrices": False} if name == "svd" else {}
    return lambda x: cr.abs(getattr(cr.linalg, name)(x, **options)[part]), lambda t, x: abs(getattr(t.linalg, name)(x, **options)[part])


def definite(*shape: int) -> Any:
    root = drawn(*shape)
    return root @ root.swapaxes(-1, -2) + shape[-1] * np.eye(shape[-1])


# -- products


def test_linalg_has_the_names_of_the_standard() -> None:
    assert set(cr.linalg.__all__) >= set(STANDARD)
    assert all(callable(getattr(cr.linalg, name)) for name in cr.linalg.__all__)
    assert cr.linalg.matmul is cr.matmul


def test_gradient_of_a_weight_under_a_stack_is_one_product() -> None:
    x, w = leaf(drawn(256, 2, 64)), leaf(drawn(64, 64))
    y = x @ w
    ct = cr.ones_like(y)
    tracemalloc.start()
    y.backward(ct)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    stack_of_products = 256 * w.detach().numpy().nbytes
    assert peak < stack_of_products / 4
    assert w.grad is not None
    close(w.grad, np.einsum("bnd,bnm->dm", numpy(x), np.ones(y.shape)))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((2, 3, 4), (3, 2, 4, 5)),
        ((3, 1, 2, 4), (4, 5)),
        ((2, 3, 2, 4), (2, 1, 4, 3)),
        ((5, 2, 4), (1, 4, 3)),
        ((2, 4), (7, 4, 1)),
        ((9, 4), (2, 4, 30)),
    ],
)
def test_every_way_to_sum_a_stack_gives_the_same_gradient(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = leaf(drawn(*a)), leaf(drawn(*b, seed=1))
    z = x @ y
    ct = drawn(*z.shape, seed=2)
    z.backward(cr.tensor(ct))
    for operand, other in ((x, ct @ numpy(y).swapaxes(-1, -2)), (y, numpy(x).swapaxes(-1, -2) @ ct)):
        extra = other.ndim - operand.ndim
        axes = (*range(extra), *(extra + i for i, size in enumerate(operand.shape) if size == 1 != other.shape[extra + i]))
        assert operand.grad is not None
        close(operand.grad, other.sum(axes, keepdims=True).reshape(operand.shape))


def test_integers_multiply_in_their_own_dtype() -> None:
    out = cr.matmul(np.array([[1, 2]], "int16"), np.array([[3], [4]], "int16"))
    assert out.dtype == np.int16
    assert out.tolist() == [[11]]


def test_vecdot_conjugates_its_first_operand() -> None:
    assert cr.vecdot(np.array([1j, 2]), np.array([1j, 1])).item() == 3


# -- einsum

LETTERS = "abcde"
SIZES = dict(zip(LETTERS, (2, 3, 1, 2, 4), strict=True))


@st.composite
def subscripts(draw: st.DrawFn) -> tuple[str, list[tuple[int, ...]]]:
    """Subscripts of one to three terms, with repeated letters, axes of size 1 that broadcast, an ellipsis, and with or without an output."""
    terms, shapes = [], []
    for _ in range(draw(st.integers(1, 3))):
        letters = draw(st.lists(st.sampled_from(LETTERS), max_size=3))
        shape = [1 if letters.count(c) == 1 and draw(st.integers(0, 5)) == 0 else SIZES[c] for c in letters]
        if draw(st.booleans()):
            place = draw(st.integers(0, len(letters)))
            dots = draw(st.sampled_from([(), (3,), (2, 3), (2, 1), (1,)]))
            letters.insert(place, "...")
            shape[place:place] = dots
        terms.append("".join(letters))
        shapes.append(tuple(shape))
    text = ",".join(terms)
    if draw(st.booleans()):
        output = draw(st.permutations(sorted(set(text) - set(".,"))))
        output = output[: draw(st.integers(0, len(output)))]
        if "..." in text:
            output.insert(draw(st.integers(0, len(output))), "...")
        text += "->" + "".join(output)
    return text, shapes


@settings(deadline=None, max_examples=150)
@given(subscripts(), st.integers(0, 2**16))
def test_einsum_is_numpys_and_its_gradient_is_the_adjoint(case: tuple[str, list[tuple[int, ...]]], seed: int) -> None:
    text, shapes = case
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=shape) for shape in shapes]
    xs = [leaf(x) for x in arrays]
    out = cr.einsum(text, *xs)
    close(out, np.einsum(text, *arrays))
    ct = rng.normal(size=out.shape)
    out.backward(cr.tensor(ct))
    for place, x in enumerate(xs):
        t = rng.normal(size=x.shape)
        assert x.grad is not None
        moved = cr.einsum(text, *(cr.tensor(t) if i == place else cr.tensor(a) for i, a in enumerate(arrays)))
        close((numpy(x.grad) * t).sum(), (numpy(moved) * ct).sum(), 1e-8)


def test_einsum_takes_integer_lists_as_numpy_does() -> None:
    x, y = drawn(2, 3), drawn(3, 4)
    close(cr.einsum(x, [0, 1], y, [1, 2], [2, 0]), np.einsum(x, [0, 1], y, [1, 2], [2, 0]))
    close(cr.einsum(x, [..., 1], [1, ...]), x.T)
    with pytest.raises(ArgumentError, match="no list of indices"):
        cr.einsum(x, [0, 99])


def test_einsum_of_many_operands_never_makes_the_full_product() -> None:
    arrays = [drawn(40, 40, seed=i) for i in range(5)]
    tracemalloc.start()
    out = cr.einsum("ab,bc,cd,de,ef->af", *arrays)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    close(out, np.linalg.multi_dot(arrays), 1e-8)
    assert peak < 40**3 * 8


def test_einsum_of_one_operand_keeps_nothing_for_the_way_back() -> None:
    x = leaf(drawn(3, 3))
    y = cr.einsum("ii->i", x)
    node = y._node
    assert node is not None
    assert all(value is None for value in node.saved or ())


@pytest.mark.parametrize("axes", [0, 1, 2, ([0], [1]), ([-1, 0], [0, 2]), ([], [])])
def test_tensordot_is_numpys(axes: Any) -> None:
    x, y = drawn(3, 2, 3), drawn(3, 3, 3) if axes not in (2, ([-1, 0], [0, 2])) else drawn(2, 3, 3) if axes == 2 else drawn(3, 2, 3)
    close(cr.tensordot(x, y, axes=axes), np.tensordot(x, y, axes=axes))


# -- decompositions: what they are


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 3), (2, 1, 2, 2)])
def test_factors_of_square_matrices_multiply_to_the_matrix(shape: tuple[int, ...]) -> None:
    x = definite(*shape)
    lower, upper = cr.linalg.cholesky(x), cr.linalg.cholesky(x, upper=True)
    close(lower @ lower.mT, x)
    close(upper.mT @ upper, x)
    w, v = cr.linalg.eigh(x)
    close((v * cr.expand_dims(w, -2)) @ v.mT, x)
    close(cr.linalg.eigvalsh(x), numpy(w))
    close(cr.linalg.inv(x) @ x, np.broadcast_to(np.eye(shape[-1]), shape))
    close(cr.linalg.adjugate(x) @ x, numpy(cr.linalg.det(x))[..., None, None] * np.eye(shape[-1]), 1e-8)
    sign, logabsdet = cr.linalg.slogdet(x)
    close(sign * cr.exp(logabsdet), numpy(cr.linalg.det(x)))
    close(cr.linalg.matrix_power(x, 3), x @ x @ x)
    close(cr.linalg.matrix_power(x, -2), np.linalg.matrix_power(x, -2))
    close(cr.linalg.matrix_power(x, 0), np.broadcast_to(np.eye(shape[-1]), shape))


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2), (2, 2, 3)])
def test_factors_of_any_matrices_multiply_to_the_matrix(shape: tuple[int, ...]) -> None:
    x = drawn(*shape)
    for full in (False, True):
        u, s, vh = cr.linalg.svd(x, full_matrices=full)
        k = min(shape[-2:])
        close((u[..., :k] * cr.expand_dims(s, -2)) @ vh[..., :k, :], x)
        q, r = cr.linalg.qr(x, mode="complete" if full else "reduced")
        close(q @ r, x)
    p = cr.linalg.pinv(x)
    close(x @ numpy(p) @ x, x)
    close(p, np.linalg.pinv(x))
    assert cr.linalg.matrix_rank(x).tolist() == np.linalg.matrix_rank(x).tolist()


@pytest.mark.parametrize("order", ["fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf])
@pytest.mark.parametrize("keepdims", [False, True])
def test_matrix_norms_are_numpys(order: Any, keepdims: bool) -> None:
    x = drawn(2, 3, 4)
    close(cr.linalg.matrix_norm(x, ord=order, keepdims=keepdims), np.linalg.norm(x, order, (-2, -1), keepdims=keepdims))


def test_complex_matrices_compute() -> None:
    z = drawn(3, 3) + 1j * drawn(3, 3, seed=1)
    hermitian = z @ z.conj().T + 3 * np.eye(3)
    lower = numpy(cr.linalg.cholesky(hermitian))
    close(lower @ lower.conj().T, hermitian)
    close(cr.linalg.cholesky(hermitian, upper=True), lower.conj().T)
    close(cr.linalg.eigvalsh(hermitian), np.linalg.eigvalsh(hermitian))
    close(cr.linalg.pinv(z[:, :2]), np.linalg.pinv(z[:, :2]))
    singular = z[:, :2] @ z[:2]
    for x in (z, singular):
        close(cr.linalg.adjugate(x), [[(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, j, 0), i, 1)) for j in range(3)] for i in range(3)])


# -- derivatives where conventions or care are needed


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_determinant_of_a_singular_matrix_has_its_exact_derivatives(rank: int) -> None:
    x = drawn(3, rank) @ drawn(rank, 3, seed=1)
    cofactors = [[(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(3)] for i in range(3)]
    close(gradient(cr.linalg.det, x), cofactors)
    v = drawn(3, 3, seed=2)
    close(second(cr.linalg.det, x, v), slope(lambda x: gradient(cr.linalg.det, x), x, v), 1e-6)


def test_cofactors_are_accurate_near_to_singular_matrices_and_where_the_determinant_underflows() -> None:
    for x in (drawn(4, 3) @ drawn(3, 4) + 1e-12 * drawn(4, 4), 1e-100 * drawn(4, 4)):
        cofactors = [[(-1) ** (i + j) * np.linalg.det(np.delete(np.delete(x, i, 0), j, 1)) for j in range(4)] for i in range(4)]
        found = gradient(cr.linalg.det, x)
        assert np.abs(found - cofactors).max() <= 1e-9 * np.abs(cofactors).max()
    with np.errstate(invalid="ignore"):
        assert np.isnan(gradient(cr.linalg.det, np.full((2, 2), np.nan))).all()


def test_gradient_of_slogdet_at_a_singular_matrix_is_nan_and_no_error() -> None:
    sign, logabsdet = cr.linalg.slogdet(np.ones((2, 2)))
    assert (sign.item(), logabsdet.item()) == (0, -np.inf)
    stack = np.stack([np.ones((2, 2)), 2 * np.eye(2)])
    found = gradient(lambda x: cr.sum(cr.linalg.slogdet(x).logabsdet), stack)
    assert np.isnan(found[0]).all()
    close(found[1], np.eye(2) / 2)


def test_equal_eigenvalues_have_a_gradient_and_their_vectors_have_none() -> None:
    x = 2 * np.eye(3)
    close(gradient(lambda x: cr.sum(cr.linalg.eigh(x).eigenvalues ** 3), x), 12 * np.eye(3))
    close(gradient(lambda x: cr.sum(cr.linalg.svd(x).S ** 3), x), 12 * np.eye(3))
    for f in (lambda x: cr.linalg.eigh(x).eigenvectors, lambda x: cr.linalg.svd(x).U):
        assert not np.isfinite(gradient(lambda x, f=f: cr.sum(f(x) * cr.arange(3.0)), x)).all()


def test_symmetric_gates_take_the_symmetric_part_and_give_symmetric_gradients() -> None:
    x = definite(3, 3)
    skewed = x + np.triu(drawn(3, 3), 1) - np.triu(drawn(3, 3), 1).T
    for f in (cr.linalg.cholesky, cr.linalg.eigvalsh, lambda x: cr.linalg.eigh(x)[1] ** 2):
        close(f(skewed), numpy(f(x)))
        found = gradient(lambda x, f=f: cr.sum(f(x) * cr.arange(3.0)), skewed)
        close(found, found.T)


def test_only_singular_values_are_differentiable_where_vectors_are_not_determined() -> None:
    x = drawn(3, 2)
    close(gradient(lambda x: cr.sum(cr.linalg.svd(x).S), x), gradient(lambda x: cr.sum(cr.linalg.svdvals(x)), x))
    with pytest.raises(GradientError, match="full_matrices=False"):
        cr.sum(cr.linalg.svd(leaf(x)).U).backward()
    with pytest.raises(GradientError, match="reduced"):
        cr.sum(cr.linalg.qr(leaf(x), mode="complete").R).backward()


def test_singular_equations_are_refused_with_a_mend() -> None:
    ones = np.ones((2, 2))
    for call in (lambda: cr.linalg.inv(ones), lambda: cr.linalg.solve(ones, ones[0]), lambda: cr.linalg.cholesky(-ones)):
        with pytest.raises(LinAlgError, match="mend: "):
            call()


@pytest.mark.parametrize("name", ["svd", "svdvals", "pinv"])
def test_nan_in_a_matrix_is_named_where_the_iteration_fails(name: str) -> None:
    with pytest.raises(LinAlgError, match=rf"{name}.*(?s:.*)cr.isfinite"):
        cr.linalg.__dict__[name](np.full((3, 3), np.nan))


@pytest.mark.parametrize("cut", [cr.tril, lambda x: cr.triu(x.mT).mT])
def test_triangles_keep_infinite_derivatives_of_what_they_cut_off_out_of_gradients(cut: Any) -> None:
    close(gradient(lambda x: cr.sum(cut(cr.sqrt(x))), [[1.0, 0.0], [4.0, 9.0]]), [[1 / 2, 0], [1 / 4, 1 / 6]])


def test_many_right_hand_sides_are_solved_with_one_factorisation() -> None:
    x, b = definite(3, 3), drawn(4, 2, 3, 5)
    close(cr.linalg.solve(x, b), np.linalg.solve(x, b))
    assert cr.linalg.solve(x, b[0, 0, :, 0]).shape == (3,)
    assert cr.linalg.solve(np.stack([x, x]), b[0, 0, :, 0]).shape == (2, 3)


# -- against PyTorch

PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "inv": (cr.linalg.inv, lambda t, x: t.linalg.inv(x), definite(2, 3, 3)),
    "det": (cr.linalg.det, lambda t, x: t.linalg.det(x), definite(2, 3, 3)),
    "slogdet": (lambda x: cr.linalg.slogdet(x)[1], lambda t, x: t.linalg.slogdet(x)[1], definite(2, 3, 3)),
    "cholesky": (cr.linalg.cholesky, lambda t, x: t.linalg.cholesky(x), definite(2, 3, 3)),
    "cholesky upper": (lambda x: cr.linalg.cholesky(x, upper=True), lambda t, x: t.linalg.cholesky(x, upper=True), definite(3, 3)),
    "eigh values": (lambda x: cr.linalg.eigh(x)[0], lambda t, x: t.linalg.eigh(x)[0], definite(2, 3, 3)),
    "eigh vectors": (*thin("eigh", 1), definite(2, 3, 3)),
    "eigvalsh": (cr.linalg.eigvalsh, lambda t, x: t.linalg.eigvalsh(x), definite(2, 3, 3)),
    "svd tall": (*thin("svd", 0), drawn(4, 2)),
    "svd wide": (*thin("svd", 2), drawn(2, 2, 4)),
    "svd of a tall one": (*thin("svd", 2), drawn(4, 2)),
    "svdvals": (cr.linalg.svdvals, lambda t, x: t.linalg.svdvals(x), drawn(2, 3, 2)),
    "qr tall": (*thin("qr", 0), drawn(2, 4, 2)),
    "qr wide": (*thin("qr", 1), drawn(2, 4)),
    "qr of a wide one": (*thin("qr", 0), drawn(2, 4)),
    "pinv": (cr.linalg.pinv, lambda t, x: t.linalg.pinv(x), drawn(4, 2)),
    "matrix_power": (lambda x: cr.linalg.matrix_power(x, -3), lambda t, x: t.linalg.matrix_power(x, -3), definite(2, 2)),
    "nuclear norm": (lambda x: cr.linalg.matrix_norm(x, ord="nuc"), lambda t, x: t.linalg.matrix_norm(x, "nuc"), drawn(2, 3, 2)),
    "spectral norm": (lambda x: cr.linalg.matrix_norm(x, ord=2), lambda t, x: t.linalg.matrix_norm(x, 2), drawn(2, 3, 2)),
    "einsum": (lambda x: cr.einsum("bij,bkj,ck->bic", x, x, x[0]), lambda t, x: t.einsum("bij,bkj,ck->bic", x, x, x[0]), drawn(2, 3, 3)),
    "diagonal": (lambda x: cr.linalg.diagonal(x, offset=1), lambda t, x: t.diagonal(x, 1, -2, -1), drawn(2, 3, 3)),
    "cross": (lambda x: cr.linalg.cross(x, x[::-1] * 2), lambda t, x: t.linalg.cross(x, t.flip(x, (0,)) * 2), drawn(2, 3)),
    "solve": (lambda x: cr.linalg.solve(x, x[..., :1] ** 2), lambda t, x: t.linalg.solve(x, x[..., :1] ** 2), definite(2, 3, 3)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_gradient_and_its_gradient_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install torch==2.13.0")
    ours, theirs, value = PAIRS[name]
    x = leaf(value)
    y = ours(x)
    weights, direction = drawn(*y.shape, seed=3), drawn(*x.shape, seed=4)
    (g,) = cr.autograd.grad(cr.sum(y * cr.tensor(weights)), [x], create_graph=True)
    t = torch.tensor(value, requires_grad=True)
    z = theirs(torch, t)
    close(y, z.detach().numpy())
    (tg,) = torch.autograd.grad((z * torch.tensor(weights)).sum(), [t], create_graph=True)
    close(g, tg.detach().numpy())
    if not g.requires_grad:
        return
    (gg,) = cr.autograd.grad(cr.sum(g * cr.tensor(direction)), [x])
    (tgg,) = torch.autograd.grad((tg * torch.tensor(direction)).sum(), [t])
    close(gg, tgg.detach().numpy(), 1e-8)
