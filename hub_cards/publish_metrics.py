"""Publish every metric as a Space from which `evaluate.load` reads it: python -m hub_cards.publish_metrics
--namespace ORG."""

import argparse
import sys

from .publish import PublishingError, Target, push_files
from .spaces import METRICS, stage_metric


def main(argv: list[str]) -> None:
    """Publish the metrics, or say what would be published."""
    parser = argparse.ArgumentParser(prog="python -m hub_cards.publish_metrics", description=__doc__)
    parser.add_argument("--namespace", required=True, metavar="ORG", help="organisation or user on the Hub")
    parser.add_argument("--private", action="store_true", help="make the Spaces private")
    parser.add_argument("--dry_run", action="store_true", help="list the files, offline")
    args = parser.parse_args(argv)
    try:
        for name in METRICS:
            space = Target(f"{args.namespace}/{name}", args.private, repo_type="space")
            with stage_metric(name, space.repo_id) as files:
                if args.dry_run:
                    print(f"{space.repo_id}:", *files, sep="\n  ")
                else:
                    push_files(files, space, f"the metric {name}")
    except (OSError, ValueError, PublishingError) as error:
        sys.exit(f"{parser.prog}: error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
