"""What limits a result and must be said with it. Imports nothing that takes long: cards need no model."""

from collections.abc import Mapping


REMEDY_OF_MODEL = "check the order of id2label in the model's config.json"


def describe_problems(results: Mapping, remedy: str = REMEDY_OF_MODEL) -> list[str]:
    """Sentences on what limits these results; `remedy` is what to do where higher scores seem to mean
    spoof."""
    notes = [results["note"]] if results.get("note") else []
    if "tdcf_left_out" in results:
        notes.append(f"The t-DCF is left out: {results['tdcf_left_out']}.")
    if results["eer"] == 0 and "confidence_intervals" in results:
        notes.append(
            "No trial is an error, so no resample has one: that the intervals end at 0 does not mean that "
            "errors are impossible."
        )
    if results["constant_scores"]:
        notes.append("All scores are the same: the EER of constant scores says nothing.")
    if results["looks_inverted"]:
        low, _ = results.get("confidence_intervals", {}).get("eer", (1, 1))
        if low <= 0.5:
            notes.append(
                f"The EER of {100 * results['eer']:.1f} % is that of chance: its interval holds 50 %."
            )
        else:
            notes.append(
                f"The EER of {100 * results['eer']:.1f} % is above 50 %: higher scores seem to mean spoof. "
                f"If so, {remedy}; nothing was changed."
            )
    if (tied := results["num_tied_across_classes"]) and not results["constant_scores"]:
        notes.append(
            f"{tied:,} of {results['num_trials']:,} trials have the score of a trial of the other class. "
            "Such ties raise the error rates: bona fide is rejected first."
        )
    return notes
