"""Eq. 1 to 3, against their definitions written as loops."""

import math

import pytest
import torch

from torchreid_dfrst.losses import LOSSES, DFRSTLoss, batch_hard_triplet, smoothed_cross_entropy

EXACT = {"rtol": 1e-9, "atol": 1e-12}


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def naive_cross_entropy(logits, labels, epsilon):
    total, classes = 0.0, logits.shape[1]
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        q = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        p = [1 - epsilon if k == label else epsilon / (classes - 1) for k in range(classes)]
        total -= sum(p[k] * math.log(q[k]) for k in range(classes))
    return total / len(logits)


def naive_triplet(features, labels, margin, reduction="mean"):
    hinges = []
    for i, anchor in enumerate(features):
        squared = [float(((anchor - other) ** 2).sum()) for other in features]
        positives = [squared[j] for j in range(len(labels)) if labels[j] == labels[i] and j != i]
        negatives = [squared[j] for j in range(len(labels)) if labels[j] != labels[i]]
        if positives and negatives:
            hinges.append(max(0.0, max(positives) - min(negatives) + margin))
    return torch.tensor(sum(hinges) / (len(hinges) if reduction == "mean" else 1), dtype=torch.float64)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 50])
def test_cross_entropy_equals_the_definition(classes, epsilon):
    logits, labels = normal(7, classes, scale=3.0), torch.arange(7) % classes
    expected = torch.tensor(naive_cross_entropy(logits, labels, epsilon), dtype=torch.float64)
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, epsilon), expected, **EXACT)


def test_cross_entropy_is_pytorchs_with_another_epsilon():
    logits, labels, classes, epsilon = normal(5, 4), torch.tensor([0, 1, 2, 3, 3]), 4, 0.1
    theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=epsilon * classes / (classes - 1))
    torch.testing.assert_close(smoothed_cross_entropy(logits, labels, epsilon), theirs, **EXACT)
    same_epsilon = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=epsilon)
    assert abs(float(smoothed_cross_entropy(logits, labels, epsilon) - same_epsilon)) > 1e-3


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("margin", [0.0, 1.2, 5.0])
@pytest.mark.parametrize("labels", [[0, 0, 1, 1], [0, 0, 0, 1, 2, 2], [3, 1, 3, 1, 1, 7, 3], [0] * 4 + [1] * 4])
def test_triplet_equals_the_definition(labels, margin, reduction):
    x, y = normal(len(labels), 8), torch.tensor(labels)
    expected = naive_triplet(x, y, margin, reduction)
    assert expected > 0, "a reference of 0 would prove nothing"
    torch.testing.assert_close(batch_hard_triplet(x, y, margin, reduction), expected, **EXACT)


def test_triplet_is_zero_where_identities_are_far_apart():
    x = torch.tensor([[0.0, 0.0], [0.1, 0.0], [9.0, 0.0], [9.1, 0.0]])
    assert batch_hard_triplet(x, torch.tensor([0, 0, 1, 1]), margin=1.2) == 0
    assert batch_hard_triplet(x, torch.tensor([0, 1, 0, 1]), margin=1.2) > 80


def test_triplet_gradient_equals_finite_differences():
    x, y = normal(6, 3).requires_grad_(), torch.tensor([0, 0, 1, 1, 2, 2])
    assert torch.autograd.gradcheck(lambda v: batch_hard_triplet(v, y, 5.0), (x,))


@pytest.mark.parametrize("labels", [[], [4], [1, 1, 1], [0, 1, 2]])
def test_a_batch_without_triplets_is_zero_with_a_gradient(labels):
    x = normal(len(labels), 5).requires_grad_()
    loss = batch_hard_triplet(x, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_an_empty_batch_has_no_cross_entropy():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = smoothed_cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0


def test_far_from_the_origin_the_distances_keep_their_digits():
    x, y = normal(8, 16).float(), torch.arange(8) // 2
    expected = naive_triplet(x.double(), y, 1.2)
    assert expected > 0
    moved = batch_hard_triplet(x + 100.0, y)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-4, atol=0)


def test_half_precision_inputs_are_computed_in_single():
    x, y = normal(8, 16).bfloat16(), torch.arange(8) // 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        triplet, entropy = batch_hard_triplet(x, y), smoothed_cross_entropy(x, y)
    assert triplet.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(triplet, batch_hard_triplet(x.double(), y).float())
    torch.testing.assert_close(entropy, smoothed_cross_entropy(x.double(), y).float())


def test_the_total_is_the_weighted_sum_of_the_means_over_branches():
    logits, features = [normal(6, 3, seed=1), normal(6, 3, seed=2)], [normal(6, 4, seed=3), normal(6, 9, seed=4)]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    entropy = (naive_cross_entropy(logits[0], labels, 0.1) + naive_cross_entropy(logits[1], labels, 0.1)) / 2
    triplet = (naive_triplet(features[0], labels, 1.2) + naive_triplet(features[1], labels, 1.2)) / 2
    parts = DFRSTLoss()(logits, features, labels)
    torch.testing.assert_close(parts.triplet, triplet, **EXACT)
    torch.testing.assert_close(float(parts.cross_entropy), entropy)
    torch.testing.assert_close(parts.total, parts.cross_entropy + 0.4 * parts.triplet, **EXACT)
    summed = DFRSTLoss(triplet_weight=2.0, reduction="sum")(logits, features, labels)
    torch.testing.assert_close(summed.total, parts.cross_entropy + 2.0 * 6 * parts.triplet, **EXACT)


def test_branches_may_weigh_differently_in_either_term():
    logits, features = [normal(6, 3, seed=1), normal(6, 3, seed=2)], [normal(6, 4, seed=3), normal(6, 9, seed=4)]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    first, second = (naive_cross_entropy(x, labels, 0.1) for x in logits)
    weighted = DFRSTLoss(cross_entropy_branches=[3, 1])(logits, features, labels)
    torch.testing.assert_close(float(weighted.cross_entropy), (3 * first + second) / 4)
    torch.testing.assert_close(weighted.triplet, DFRSTLoss()(logits, features, labels).triplet, **EXACT)
    alone = DFRSTLoss(triplet_branches=[0, 2])(logits, features, labels)
    torch.testing.assert_close(alone.triplet, naive_triplet(features[1], labels, 1.2), **EXACT)
    torch.testing.assert_close(float(alone.cross_entropy), (first + second) / 2)


def test_a_branch_of_weight_0_keeps_a_gradient_of_0():
    features = [normal(4, 2, seed=1).requires_grad_(), normal(4, 2, seed=2).requires_grad_()]
    loss = DFRSTLoss(triplet_branches=[1, 0], margin=100.0)
    loss([normal(4, 2)], features, torch.tensor([0, 0, 1, 1])).total.backward()
    assert features[0].grad.abs().sum() > 0
    assert features[1].grad.abs().sum() == 0


@pytest.mark.parametrize("name", ["cross_entropy_branches", "triplet_branches"])
def test_one_weight_for_each_branch(name):
    with pytest.raises(ValueError, match=f"{name} has 3 weights, the network 1 branches"):
        DFRSTLoss(**{name: [1, 1, 1]})([normal(2, 3)], [normal(2, 4)], torch.tensor([0, 1]))


def test_a_metric_loss_is_a_row(monkeypatch):
    def spread(features, labels, margin, reduction):
        assert reduction == "sum"
        return margin * features.sum() + labels.sum()

    monkeypatch.setitem(LOSSES, "spread", spread)
    logits, features, labels = [normal(4, 2)], [normal(4, 3, seed=1)], torch.tensor([0, 0, 1, 1])
    parts = DFRSTLoss(metric="spread", margin=3.0, reduction="sum")(logits, features, labels)
    torch.testing.assert_close(parts.triplet, 3 * features[0].sum() + 2, **EXACT)
    torch.testing.assert_close(parts.total, parts.cross_entropy + 0.4 * parts.triplet, **EXACT)
    with pytest.raises(KeyError, match=r"unknown loss\.metric 'batch_hart' .did you mean 'batch_hard'"):
        DFRSTLoss(metric="batch_hart")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"triplet_weight": -0.1}, "triplet_weight is -0.1"),
        ({"margin": float("nan")}, "margin is nan"),
        ({"epsilon": 1.5}, "epsilon is 1.5: 0 or more, at most 1"),
        ({"cross_entropy_branches": [1, -1]}, "cross_entropy_branches is -1"),
        ({"triplet_branches": [1, float("inf")]}, "triplet_branches is inf"),
        ({"triplet_branches": [0, 0]}, r"triplet_branches is \[0, 0\]: at least one branch"),
        ({"reduction": "median"}, "'median': one of mean, sum"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DFRSTLoss(**options)


@pytest.mark.parametrize("labels", [[0, 3], [-1, 2]])
def test_labels_that_are_not_classes_are_refused(labels):
    with pytest.raises(ValueError, match="relabel the training identities"):
        DFRSTLoss()([normal(2, 3)], [normal(2, 4)], torch.tensor(labels))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="two identities or more"):
        smoothed_cross_entropy(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
