"""Patients with images whose true performance is known: binormal scores, clustered by patient."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

ALIKE = 0.5  # share of a score's variance that images of one patient have in common
CORRELATIONS = {0.7: 0.4, 0.9: 0.8, 0.98: 0.95}  # of numbers, where a classifier would have that AUROC
Cohort = tuple[np.ndarray, np.ndarray, np.ndarray]  # labels, predictions, patient of each image


def noise(rng: np.random.Generator, patients: int, images: int, *shape: int) -> np.ndarray:
    """(patients, images, *shape) standard normal, of which ``ALIKE`` is the patient's."""
    own = rng.standard_normal((patients, images, *shape))
    return np.sqrt(ALIKE) * rng.standard_normal((patients, 1, *shape)) + np.sqrt(1 - ALIKE) * own


def separation(auroc: float) -> float:
    """Distance of the two classes' means, in standard deviations, at an AUROC."""
    return float(np.sqrt(2) * norm.ppf(auroc))


def binary(rng: np.random.Generator, patients: int, images: int, prevalence: float, auroc: float) -> Cohort:
    """One label for each patient, and calibrated probabilities of two classes."""
    apart, label = separation(auroc), rng.random(patients) < prevalence
    score = (noise(rng, patients, images) + apart * label[:, None]).ravel()
    p = expit(apart * score - apart**2 / 2 + logit(prevalence))
    return np.repeat(label, images).astype(int), np.column_stack([1 - p, p]), np.repeat(np.arange(patients), images)


def four_classes(rng: np.random.Generator, patients: int, images: int, prevalence: float, auroc: float) -> Cohort:
    """One of four classes for each patient, the first as frequent as ``prevalence``, the others alike."""
    share = np.array([prevalence, *[(1 - prevalence) / 3] * 3])
    label, apart = rng.choice(4, size=patients, p=share), separation(auroc)
    score = noise(rng, patients, images, 4) + apart * np.eye(4)[label][:, None]
    odds = np.exp(apart * score.reshape(-1, 4)) * share
    return np.repeat(label, images), odds / odds.sum(1, keepdims=True), np.repeat(np.arange(patients), images)


def three_labels(rng: np.random.Generator, patients: int, images: int, prevalence: float, auroc: float) -> Cohort:
    """Three labels of 0 and 1, as frequent as ``prevalence``, 0.3 and 0.5."""
    share, apart = np.array([prevalence, 0.3, 0.5]), separation(auroc)
    label = rng.random((patients, 3)) < share
    score = (noise(rng, patients, images, 3) + apart * label[:, None]).reshape(-1, 3)
    p = expit(apart * score - apart**2 / 2 + logit(share))
    return np.repeat(label, images, axis=0).astype(float), p, np.repeat(np.arange(patients), images)


def numbers(rng: np.random.Generator, patients: int, images: int, prevalence: float, auroc: float) -> Cohort:
    """Numbers and their regression, correlated as ``CORRELATIONS`` of the AUROC; ``prevalence`` has no meaning."""
    r = CORRELATIONS[auroc]
    truth, error = noise(rng, patients, images).ravel(), noise(rng, patients, images).ravel()
    return truth, r * (r * truth + np.sqrt(1 - r**2) * error), np.repeat(np.arange(patients), images)


def null_draws(
    rng: np.random.Generator, patients: int, draws: int, prevalence: float, auroc: float, of_draws: float = 0.2
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels and the probabilities of two methods that are equally good, each trained on several label draws.

    A score is what both see of a patient, what one method sees in all draws, and what one model alone sees; how far a model parts
    the classes varies from draw to draw with a standard deviation of ``of_draws``.
    """
    y = np.zeros(patients, int)
    y[: max(2, round(prevalence * patients))] = 1
    shared, arms = rng.standard_normal(patients), []
    for _ in range(2):
        of_method, models = rng.standard_normal(patients), []
        for _ in range(draws):
            mixed = np.sqrt(0.5) * shared + np.sqrt(0.3) * of_method + np.sqrt(0.2) * rng.standard_normal(patients)
            p = expit(mixed + (separation(auroc) + of_draws * rng.standard_normal()) * y)
            models.append(np.column_stack([1 - p, p]))
        arms.append(models)
    return y, arms[0], arms[1]
