"""Prose of notebook 09 that quotes a run's figures."""

from __future__ import annotations

import numpy as np
from IPython.display import Markdown

from mdhelpers.plain_text import escape_markdown, escaped
from mdhelpers.prediction_grades import SHOWN
from mdhelpers.prediction_plots import pair_label
from mdhelpers.prediction_stage import PREDICTIONS, StudyPredictions
from mdhelpers.prediction_tables import spoken
from mdhelpers.runs import Run
from mdhelpers.tables import algorithm_names

MASKS = {"equal": "the same mask", "other": "different masks"}


def errors(run: Run) -> Markdown:
    """Whether models of different algorithms err more differently than reinitialisations do."""
    lines = [line for masks in MASKS if (line := _errors(run, masks))]
    return Markdown("\n".join(lines) or "This run has no pairs to compare.")


def _errors(run: Run, masks: str) -> str:
    figures, names = run.results[PREDICTIONS], escaped(algorithm_names(run))
    kinds = {p: figures.get(f"{masks}_masks_{p}") for p in ("1_against_1", "2_against_2")}
    across = figures.get(f"{masks}_masks_1_against_2")
    difference = figures.get(f"{masks}_masks_difference", {})
    if not across or not all(kinds.values()) or "inconsistency" not in difference:
        return ""
    within = " and ".join(
        f"**{_percent(k, 'inconsistency')}** of the test images for "
        f"{pair_label(p.replace('_', ' '), names)}"
        for p, k in kinds.items()
    )
    return (
        f"- On {MASKS[masks]}, exactly one of two models is right on {within}, and on "
        f"**{_percent(across, 'inconsistency')}** for one of each. "
        f"{_verdict(difference, 'inconsistency', 'Models of the two differ more than two alike')}"
    )


def _verdict(difference: dict, measure: str, words: str) -> str:
    low, high = (100 * difference[f"{measure}{end}"] for end in ("_low", "_high"))
    amount = f"{100 * difference[measure]:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"{words}: {amount}."
    if high < 0:
        return f"Of two models of one algorithm that holds **more**: {amount}."
    return f"The difference to two models alike ({amount}) **cannot be told from none**."


def _percent(block: dict, measure: str) -> str:
    values = (100 * block[f"{measure}{end}"] for end in ("", "_low", "_high"))
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*values)


def ensembles(run: Run) -> Markdown:
    """What an ensemble of one model of each algorithm wins beyond one of two alike."""
    figures = run.results[PREDICTIONS]
    across = figures.get("other_masks_1_against_2")
    difference = figures.get("other_masks_difference")
    if not across or "gain" not in (difference or ()):
        return Markdown("This run has no pairs of models with probabilities to compare.")
    return Markdown(
        f"An ensemble of one model of each is {100 * across['gain']:.1f} points better than its "
        f"members' mean and {100 * across['gain_over_better']:.1f} than the better of them; it "
        f"puts right {_percent(across, 'conversion')} of the images on which one alone is right. "
        f"{_verdict(difference, 'gain', 'It gains more than one of two models alike')} "
        f"{_verdict(difference, 'conversion', 'It puts a larger share right')}"
    )


def specialisation(run: Run) -> Markdown:
    """Whether the model that alone is right is also the surer, and more so across algorithms."""
    figures = run.results[PREDICTIONS]
    across = figures.get("other_masks_1_against_2")
    difference = figures.get("other_masks_difference")
    if not across or "gain" not in (difference or ()):
        return Markdown("This run has no pairs of models with probabilities to compare.")
    return Markdown(
        "Where exactly one of two models is right, one of each algorithm, it is the surer of the "
        f"two in {_percent(across, 'surer_is_right')} of the cases. "
        f"{_verdict(difference, 'surer_is_right', 'That is more often than of two models alike')}"
    )


def classes(found: StudyPredictions, class_names, names) -> Markdown:
    """The class that leans most to one algorithm, and whether single pairs show it."""
    table = found.tables.classes
    across = table[(table["pair"] == "1 against 2") & (table["masks"] == "equal")]
    if not len(across):
        return Markdown("Without checkpoints there are no confidences to compare.")
    names = escaped(names)
    row = across.loc[across["theta_mean"].abs().idxmax()]
    mean, low, high = np.degrees(row[["theta_mean", "theta_low", "theta_high"]].to_numpy(float))
    sure = low > 0 or high < 0
    return Markdown(
        f"On the same mask, *{escaped(class_names)[int(row['label'])]}* leans most: to "
        f"{names[0] if mean > 0 else names[1]}, by {abs(mean):.1f}° on average (nine of ten pairs: "
        f"{low:+.1f}° to {high:+.1f}°). "
        + (
            "Nearly every pair shows it."
            if sure
            else "Single pairs go either way: one pair of models would not tell."
        )
    )


def features(run: Run) -> Markdown:
    """For each planted feature, whether predictions or a direction find it better."""
    rows = run.results[PREDICTIONS]["features"]
    if not rows:
        return Markdown("No truth is known for this data: judge by eye, and by notebook 07.")
    names, lines = escaped(algorithm_names(run)), []
    for feature in dict.fromkeys(row["feature"] for row in rows):
        found = {row["score"]: row for row in rows if row["feature"] == feature}
        direction = found.pop("direction")
        best = max(found.values(), key=lambda row: row["auc_within_class"])
        lines.append(
            f"- **{escape_markdown(feature)}**: predictions reach an AUC of "
            f"{best['auc_within_class']:.2f} (by the {best['score']}; chance up to "
            f"{best['chance']:.2f}), the best direction "
            f"{direction['auc_within_class']:.2f} ({spoken(direction['which'], names)}; chance up "
            f"to {direction['chance']:.2f}). Of the {SHOWN} outermost images of all classes, "
            f"{round(SHOWN * best['first'])} and {round(SHOWN * direction['first'])} carry it: "
            f"{_who_sees(best, direction)}"
        )
    return Markdown("\n".join(lines))


def _who_sees(prediction: dict, direction: dict) -> str:
    """What a person sees in the outermost images, three quarters of which make a pattern."""
    sees = prediction["first"] >= 0.75, direction["first"] >= 0.75
    return {
        (True, True): "both show it to a person who looks.",
        (True, False): "the predictions show it, and the direction does not.",
        (False, True): "the direction shows it, and the predictions do not.",
        (False, False): "neither makes it plain to the eye.",
    }[sees]


def members(run: Run) -> Markdown:
    """How many of ModelDiff's subpopulations could have been seen in the predictions."""
    figures = run.results[PREDICTIONS]["members"]
    if not figures["n"]:
        return Markdown("No subpopulation can be graded within its class.")
    return Markdown(
        f"Of {figures['n']} ends of directions, the difference in margins sorts "
        f"**{figures['n_above_chance']}** from their class better than chance does, and "
        f"**{figures['n_at_0.9']}** with an AUC of 0.9 or more; the median AUC is "
        f"{figures['median']:.2f}. The others are groups that the algorithms treat alike in the "
        "outcome, however different the training images that they go by, or they are noise: "
        "notebook 04 tells which directions to believe."
    )
