"""A head that is solved is at the optimum that scikit-learn finds, and is penalised as cross-validation says."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from masksup.engine.logistic import Costs, Space, solve
from masksup.engine.strength import try_penalties
from masksup.metrics.average_precision import average_precision


def rows(count: int, width: int, classes: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features far from the origin, of very different spread, and ternary labels that they explain in part."""
    draw = np.random.default_rng(seed)
    x_RD = draw.normal(size=(count, width)) * np.logspace(0, -2, width) + 5
    logits_RC = (x_RD - 5) @ draw.normal(size=(width, classes)) * 2 - 1
    labels_RC = (draw.random((count, classes)) < 1 / (1 + np.exp(-logits_RC))).astype(np.int8)
    labels_RC[draw.random((count, classes)) < 0.1] = -1
    return torch.from_numpy(x_RD), torch.from_numpy(labels_RC)


def costs_of(labels_RC: Tensor, positive_weight: float = 1.0) -> Costs:
    return Costs((labels_RC == 1).double() * positive_weight, (labels_RC == 0).double())


def by_newton(
    x_RD: Tensor, labels_R: Tensor, weight_R: Tensor, l2: float, positive_weight: float
) -> tuple[np.ndarray, float]:
    """Weights and bias of one class by scikit-learn's dense Newton solver, without the ignored rows."""
    kept = (labels_R >= 0) & (weight_R > 0)
    each_R = weight_R * torch.where(labels_R == 1, positive_weight, 1.0)
    model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12, max_iter=1000)
    model.fit(x_RD[kept].numpy(), labels_R[kept].numpy(), sample_weight=each_R[kept].numpy())
    return model.coef_[0], float(model.intercept_[0])


@pytest.mark.parametrize(("count", "width"), [(200, 12), (40, 90)], ids=["more rows", "more features"])
@pytest.mark.parametrize("l2", [0.01, 1.0, 100.0])
def test_the_optimum_is_that_of_a_dense_newton_solver(count: int, width: int, l2: float) -> None:
    x_RD, labels_RC = rows(count, width)
    weight_R = torch.from_numpy(np.random.default_rng(1).choice([0.0, 0.5, 2.0], count))
    space = Space(x_RD)
    found = solve(space, costs_of(labels_RC, 3.0).scaled(weight_R), l2)
    assert found.gradient < 1e-6
    weight_CD, bias_C = space.classifier(found.theta_CP)
    logits_RC, expected_RC = (x_RD @ weight_CD.T + bias_C).numpy(), np.empty(labels_RC.shape)
    for c in range(labels_RC.shape[1]):
        expected_D, bias = by_newton(x_RD, labels_RC[:, c], weight_R, l2, 3.0)
        assert weight_CD[c].numpy() == pytest.approx(expected_D, abs=1e-4)
        expected_RC[:, c] = x_RD.numpy() @ expected_D + bias
    assert logits_RC == pytest.approx(expected_RC, abs=1e-4)
    assert logits_RC == pytest.approx(space.logits(found.theta_CP).numpy(), abs=1e-9)
    found_C, expected_C = (average_precision(logits, labels_RC.numpy()) for logits in (logits_RC, expected_RC))
    assert found_C.tolist() == expected_C.tolist()


def test_a_class_of_one_kind_stays_at_its_smoothed_prior() -> None:
    x_RD, labels_RC = rows(50, 8)
    labels_RC[:, 0] = 0
    labels_RC[:3, 0] = -1
    labels_RC[:, 1] = 1
    labels_RC[:, 2] = -1
    space = Space(x_RD)
    weight_CD, bias_C = space.classifier(solve(space, costs_of(labels_RC), 0.1).theta_CP)
    assert not weight_CD[:3].any()
    assert bias_C[:3].tolist() == pytest.approx([np.log(1 / 48), np.log(51), 0.0])
    assert weight_CD[3].any()


def test_rows_that_do_not_differ_teach_the_share_of_each_class() -> None:
    labels_RC = torch.tensor([[1], [0], [0], [0], [1]])
    space = Space(torch.full((5, 3), 2.0).double())
    theta_CP = solve(space, costs_of(labels_RC), 1.0).theta_CP
    assert space.logits(theta_CP).sigmoid()[:, 0].tolist() == pytest.approx([0.4] * 5, abs=1e-6)


def test_a_penalty_is_judged_on_images_that_its_head_has_not_seen_in_any_view() -> None:
    x_ND, labels_NC = rows(60, 20)
    mirrored_ND = x_ND + 0.05 * torch.from_numpy(np.random.default_rng(2).normal(size=(60, 20)))
    fold_N = torch.arange(60) % 5
    whole, both_RD = costs_of(labels_NC), torch.cat([x_ND, mirrored_ND])
    views = [whole.scaled(torch.full((60,), share).double()) for share in (0.7, 0.3)]
    tried = try_penalties(Space(both_RD), views, whole, fold_N, lambda: None)

    losses = [one.log_loss for one in tried]
    best = int(np.argmin(losses))
    assert 0 < best < len(tried) - 1, "a minimum, and not the end of what was tried"
    assert losses[-3] < losses[-2] < losses[-1]
    for one in (tried[best], tried[-1]):
        expected = 0.0
        for fold in range(5):
            seen_R = (fold_N != fold).repeat(2)
            weight_R = torch.cat([torch.full((60,), 0.7), torch.full((60,), 0.3)]).double()[seen_R]
            for c in range(labels_NC.shape[1]):
                labels_R = labels_NC[:, c].repeat(2)[seen_R]
                weight_D, bias = by_newton(both_RD[seen_R], labels_R, weight_R, one.l2, 1.0)
                logits_N = x_ND[fold_N == fold].numpy() @ weight_D + bias
                held_N = labels_NC[fold_N == fold, c].numpy()
                expected += np.logaddexp(0, -logits_N)[held_N == 1].sum() + np.logaddexp(0, logits_N)[held_N == 0].sum()
        assert one.log_loss == pytest.approx(expected, rel=1e-4)
