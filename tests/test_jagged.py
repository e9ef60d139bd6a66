import pytest
import torch

from robe.jagged import Jagged


def test_from_lists_lies_field_by_field():
    bags = Jagged.from_lists([[[1, 2], []], [[3], [4, 5, 6]]])
    assert bags.values.tolist() == [1, 2, 3, 4, 5, 6]
    assert bags.offsets.tolist() == [0, 2, 3, 3, 6]
    assert bags.batch_size == 2
    values, offsets, weights = bags.field(1)
    assert (values.tolist(), offsets.tolist(), weights) == ([4, 5, 6], [0, 0, 3], None)


def test_weights_follow_their_field():
    bags = Jagged(torch.tensor([1, 2, 3]), torch.tensor([0, 2, 3]), 2, torch.tensor([0.1, 0.2, 0.3]))
    assert bags.field(1)[2].tolist() == pytest.approx([0.3])
    assert bags.to("cpu").weights.tolist() == bags.weights.tolist()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((torch.zeros(3), torch.tensor([0, 3]), 1), TypeError, "values: expected dtype torch.int64, got torch.float32"),
        (
            (torch.tensor([[1]]), torch.tensor([0, 1]), 1),
            ValueError,
            r"values: expected 1 dimensions, got shape \(1, 1",
        ),
        ((torch.tensor([1]), torch.tensor([0, 1, 1]), 3), ValueError, r"offsets: expected num_fields \* batch \+ 1"),
        ((torch.tensor([1]), torch.tensor([0, 1]), 0), ValueError, "num_fields: expected a positive int, got 0"),
        ((torch.tensor([1]), torch.tensor([0, 1]), 1, torch.zeros(2)), ValueError, "weights: expected the shape"),
        ((torch.tensor([1]), torch.tensor([0, 1], device="meta"), 1), ValueError, "values is on cpu, offsets on meta"),
        (([1], torch.tensor([0, 1]), 1), TypeError, "values: expected a Tensor, got list"),
    ],
)
def test_bad_bags(arguments, error, message):
    with pytest.raises(error, match=message):
        Jagged(*arguments)


def test_ragged_samples_are_refused():
    with pytest.raises(ValueError, match=r"samples\[1\]: expected 1 fields as in samples\[0\], got 2"):
        Jagged.from_lists([[[1]], [[1], [2]]])
    with pytest.raises(ValueError, match="at least one sample"):
        Jagged.from_lists([])
