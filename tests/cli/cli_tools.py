"""What the command-line tests share."""

import csv
import random

SMALL = (
    "--threads", "1",  # tiny steps: a second thread only waits
    "--epochs", "3", "--batch-size", "100", "--learning-rate", "0.01", "--set", "model.embedding_dim=4",
    "--set", "model.bottom_mlp=[8]", "--set", "model.top_mlp=[8]",
)  # fmt: skip


def write_table(path, rows, *, label=True, seed=0):
    """A CSV of two categorical columns, a multi-valued and a numeric one; the label follows the first."""
    draw = random.Random(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((["rating"] if label else []) + ["user", "movie", "genres", "age"])
        for _ in range(rows):
            user = draw.randrange(20)
            rating = [draw.choice([1, 2, 3, 4, 4, 5] if user % 2 else [1, 1, 2, 3, 3, 5])] if label else []
            genres = "|".join(draw.sample(["a", "b", "c"], draw.randrange(4)))
            writer.writerow([*rating, f"u{user}", f"m{draw.randrange(9)}", genres, draw.randrange(60)])
    return path
