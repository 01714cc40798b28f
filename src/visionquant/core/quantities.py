"""What is measured: names, units, labels, printed decimals, and which way is better."""

import re
from dataclasses import dataclass, replace

MIB = 2**20


@dataclass(frozen=True)
class Quantity:
    """One measurable quantity; ``better`` is "lower", "higher" or "" where neither is."""

    name: str
    unit: str
    label: str
    decimals: int
    better: str = ""


QUANTITIES = {
    quantity.name: quantity
    for quantity in (
        Quantity("latency_median", "ms", "Median latency", 2, "lower"),
        Quantity("latency_mean", "ms", "Mean latency", 2, "lower"),
        Quantity("latency_std", "ms", "Standard deviation (n-1) of latency", 2, "lower"),
        Quantity("latency_p50", "ms", "p50 latency", 2, "lower"),
        Quantity("gpu_median", "ms", "Median GPU time", 2, "lower"),
        Quantity("latency_outliers", "passes", "Outliers among the timed passes", 0, "lower"),
        Quantity("launch_share", "%", "Share of the time in which the GPU waits for the host", 1, "lower"),
        Quantity("energy_per_image", "J", "Energy an image above idle", 3, "lower"),
        Quantity("speedup", "x", "Speedup over FP32", 2, "higher"),
        Quantity("speedup_in_bracket", "x", "Speedup over FP32, among INT8's rows", 2, "higher"),
        Quantity("speedup_of_policies", "x", "Speedup over FP32, among mixed policies", 2, "higher"),
        Quantity("speedup_of_graphs", "x", "Speedup over FP32, among rows of graphs", 2, "higher"),
        Quantity("speedup_pooled", "x", "Speedup over FP32, variance pooled over models", 2, "higher"),
        Quantity("speedup_prediction", "x", "Speedup over FP32 in one more run", 2, "higher"),
        Quantity("placebo", "x", "FP32 over FP32 once more, in the same blocks", 3),
        Quantity("throughput", "images/s", "Throughput", 2, "higher"),
        Quantity("throughput_change", "%", "Throughput change against FP32", 1, "higher"),
        Quantity("memory_stored_weights", "MiB", "Stored weights", 2, "lower"),
        Quantity("memory_with_workspace", "MiB", "Stored weights + workspace", 2, "lower"),
        Quantity("memory_allocated_after", "MiB", "Allocated after the run", 2, "lower"),
        Quantity("memory_peak_allocated", "MiB", "Peak allocated", 2, "lower"),
        Quantity("memory_peak_reserved", "MiB", "Peak reserved", 2, "lower"),
        Quantity("memory_host_peak", "MiB", "Host peak", 1, "lower"),
        Quantity("memory_published", "MiB", "Published memory", 2, "lower"),
        Quantity("memory_reduction", "%", "Memory reduction against FP32", 1, "higher"),
        Quantity("memory_reduction_stored", "%", "Reduction of stored weights against FP32", 1, "higher"),
        Quantity("memory_reduction_workspace", "%", "Reduction of stored weights + workspace", 1, "higher"),
        Quantity("model_size", "MiB", "Size as a safetensors file", 2, "lower"),
        Quantity("cosine", "1", "Cosine similarity to FP32", 4, "higher"),
        Quantity("sqnr", "dB", "Signal to quantisation noise", 1, "higher"),
        Quantity("top1_agreement", "%", "Top-1 agreement with FP32", 1, "higher"),
        Quantity("kl_divergence", "nats", "KL divergence from FP32", 5, "lower"),
        Quantity("top1", "%", "Top-1 accuracy", 2, "higher"),
        Quantity("top5", "%", "Top-5 accuracy", 2, "higher"),
        Quantity("calibration_error", "%", "Expected calibration error", 2, "lower"),
        Quantity("accuracy_change", "points", "Change of accuracy against FP32", 2, "higher"),
        Quantity("churn", "%", "Predictions that change against FP32", 2, "lower"),
        Quantity("least_cosine", "1", "Least cosine similarity to FP32", 4, "higher"),
        Quantity("mcnemar_p", "1", "p of McNemar's exact test against FP32", 3),
        Quantity("right_in_fp32_alone", "images", "Images that FP32 alone gets right", 0),
        Quantity("right_here_alone", "images", "Images that the precision alone gets right", 0),
        Quantity("knn_top1", "%", "Accuracy of nearest neighbours by features", 2, "higher"),
        Quantity("knn_agreement", "%", "Neighbours' class as in FP32", 2, "higher"),
        Quantity("cka", "1", "Linear CKA with FP32's features", 4, "higher"),
    )
}

STATISTICS = ("mean", "median", "std", "min", "max", "p95")


def quantity(name: str) -> Quantity:
    """A quantity by name: also any percentile, ``own_head_<quantity>``, through a head fitted on the precision's own
    features, and ``<quantity>_over_models_<statistic>``, that statistic over models.

    Raises:
        KeyError: there is no such quantity.
    """
    base, over, statistic = name.partition("_over_models_")
    if not over and (percentile := re.fullmatch(r"latency_(p\d+)", name)):
        return replace(QUANTITIES["latency_p50"], name=name, label=f"{percentile[1]} latency")
    if over and statistic not in STATISTICS:
        raise KeyError(name)
    inner = QUANTITIES[base.removeprefix("own_head_")]
    if base.startswith("own_head_"):
        inner = replace(inner, name=name, label=f"{inner.label}, head fitted on its own features")
    return replace(inner, name=name, label=f"{inner.label}, {statistic} over models") if over else inner
