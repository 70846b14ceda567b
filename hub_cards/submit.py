"""Upload a submission to the Speech Anti-Spoofing Arena, which `eval.py --submission` left in a folder."""

from pathlib import Path

import yaml
from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, constants

from processing.files import hash_file
from processing.submission import locate_scores, render_submission

from .publish import PublishingError, Target, check_access, explain_errors, open_repository


def submit(folder: Path, target: Target) -> CommitInfo:
    """
    Put the scores into a model's repository, then the results that name the commit of the scores, and open
    the pull request in the data set's repository.

    Raises:
        FileNotFoundError: the folder holds no submission.
        ValueError: it holds several, or scores that the submission is not of; a private repository.
        PublishingError: see [`~hub_cards.publish.publish`].
    """
    found = sorted(folder.glob("submissions/*.yaml"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no submission. Make one by eval.py --submission {folder}.")
    if len(found) > 1:
        raise ValueError(f"{folder} holds several submissions: {', '.join(path.name for path in found)}.")
    submission = yaml.safe_load(found[0].read_text(encoding="utf-8"))
    dataset_id = submission["dataset"]["id"]
    scores = folder / locate_scores(dataset_id)
    if hash_file(scores) != submission["artifact"]["scores_sha256"]:
        raise ValueError(f"{scores} has been changed since {found[0]} was written. Evaluate again.")
    private = f"The Arena reads the scores in {target.repo_id}, which cannot be private. Nothing was sent."
    if target.private:
        raise ValueError(private)
    check_access(target)
    outcome = f"Nothing was submitted to {dataset_id}: repeat the same command."
    with explain_errors(target, outcome):
        if open_repository(target).private:
            raise PublishingError(private)
        message, at = f"Scores on {dataset_id}", {"revision": target.revision, "create_pr": target.create_pr}
        operations = [CommitOperationAdd(locate_scores(dataset_id), scores)]
        commit = HfApi().create_commit(target.repo_id, operations, commit_message=message, **at)
        files = render_submission(submission, target.repo_id, commit.oid)
        operations = [CommitOperationAdd(name, text.encode()) for name, text in files.items()]
        *of_model, of_dataset = operations
        message = f"Results on {dataset_id}"
        if commit.pr_revision:  # which there is not if the scores are there already
            at = {"revision": commit.pr_revision}
        HfApi().create_commit(target.repo_id, of_model, commit_message=message, **at)
        about = {"commit_message": f"submissions: add {submission['system']['slug']}", "create_pr": True}
        opened = HfApi().create_commit(dataset_id, [of_dataset], repo_type="dataset", **about)
    print(f"Scores and results: {commit.pr_url or f'{constants.ENDPOINT}/{target.repo_id}'}")
    print(f"Submitted: {opened.pr_url}")
    return opened
