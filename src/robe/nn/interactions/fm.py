"""Second-order factorization machine."""

from torch import Tensor, nn


class FactorizationMachine(nn.Module):
    """The sum of the dot products of all pairs of feature vectors (Rendle 2010, equation 5), in linear time."""

    def forward(self, features: Tensor) -> Tensor:
        """[B, F, D] -> [B]."""
        square_of_sum = features.sum(1).square()  # [B, D]
        sum_of_squares = features.square().sum(1)  # [B, D]
        return 0.5 * (square_of_sum - sum_of_squares).sum(1)
