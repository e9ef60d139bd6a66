import random

import pytest

from robe.compare.records import Arm, Comparison, DataFacts, Record

FULL_PARAMETERS = 23_062_400


def make_comparison(seeds=3, tuned=True, failed=False, best_auc=None):
    """A comparison with the shape and rough numbers of a real one, made from a fixed seed."""
    random_ = random.Random(7)
    level = {"full": 0.7973, "robe": 0.7962, "hashing": 0.72}
    arms = [Arm("full", "full", "full", "full", settings={"model.top_mlp": [8, 4], "train.epochs": 3})]
    for factor in (10, 100, 1000):
        arms += [Arm(f"robe-z{z}-{factor}x", "robe", "robe", f"{factor}x", z) for z in (1, 4)]
        arms.append(Arm(f"hashing-{factor}x", "hashing", "hashing", f"{factor}x"))
    records, trials, chosen = [], [], {}
    for arm in arms:
        factor = 1 if arm.kind == "full" else int(arm.size[:-1])
        auc = level[arm.kind] - 0.0012 * (len(str(factor)) - 1) * (12 if arm.kind == "hashing" else 1)
        values = (0.001, 0.01, 0.05) if tuned else ()
        for value in values:
            trial_auc = auc - 0.004 * abs(values.index(value) - (1 if arm.kind == "robe" else 2))
            trials.append(
                Record(f"{arm.key}-{value}", arm.key, 0, {"embedding.init_std": value}, validation_auc=trial_auc)
            )
        chosen[arm.key] = {"embedding.init_std": 0.01 if arm.kind == "robe" else 0.05} if tuned else {}
        for seed in range(seeds):
            run = f"{arm.key}-seed{seed}"
            if failed and arm.key == "robe-z1-1000x" and seed == 1:
                records.append(Record(run, arm.key, seed, chosen[arm.key], error="loss is NaN at step 40"))
                continue
            test = auc + random_.gauss(0, 0.0004)
            epochs = 3 if arm.kind == "full" else 6
            curve = tuple(
                (float(e), test + 0.002 - 0.05 / (e * e) - 0.0006 * max(0, e - 4)) for e in range(1, epochs + 1)
            )
            records.append(
                Record(
                    run,
                    arm.key,
                    seed,
                    chosen[arm.key],
                    config={
                        "embedding.kind": arm.kind,
                        "train.seed": seed,
                        "train.epochs": 10,
                        "embedding.init_std": chosen[arm.key].get("embedding.init_std", 0.01),
                    },
                    validation_auc=max(a for _, a in curve),
                    validation_logloss=0.53,
                    test_auc=test,
                    test_logloss=0.53 + random_.gauss(0, 0.001),
                    best_epoch=max(curve, key=lambda point: point[1])[0],
                    epochs=float(epochs),
                    steps=400 * epochs,
                    seconds=30.0,
                    samples_per_second=(60_000 if arm.kind == "full" else 95_000) * random_.uniform(0.95, 1.05),
                    embedding_parameters=FULL_PARAMETERS // factor,
                    dense_parameters=280_000,
                    full_parameters=FULL_PARAMETERS,
                    compression=float(factor),
                    megabytes=FULL_PARAMETERS // factor * 4 / 1e6,
                    curve=curve,
                )
            )
    return Comparison(
        data=DataFacts(
            "ml-1m",
            "sha256:1f" * 8,
            {"train": 720_000, "validation": 80_000, "test": 200_209},
            15,
            0,
            1_441_400,
            best_auc,
        ),
        arms=tuple(arms),
        seeds=tuple(range(seeds)),
        records=tuple(records),
        trials=tuple(trials),
        tuned=("embedding.init_std",) if tuned else (),
        chosen=chosen,
        environment={"robe": "0.1.0", "torch": "2.13.0", "cpu": "8 cores"},
        command="robe compare data --out out --methods full,robe,hashing",
        created="2026-11-23T00:00:00+00:00",
    )


@pytest.fixture
def comparison():
    return make_comparison()


@pytest.fixture(scope="session")
def make():
    return make_comparison
